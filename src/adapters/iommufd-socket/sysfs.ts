import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DeviceNodes } from '../../host/ioctl/device-nodes.ts';
import type { GroupDevice } from '../../host/ioctl/vfio-group-node.ts';
import { VFIO_PCI_OFFSET_SHIFT, VFIO_PCI_REGION } from '../../spec/iommufd/vfio.ts';

/** Major number of VFIO's character devices, as programs see it. */
export const VFIO_MAJOR = 511;

/** What programs read below /sys/bus/pci/devices before they open a VFIO device: a folder of plain files, made when it is asked for. */
export class ServedSysfs {
  readonly #devices: readonly GroupDevice[];
  readonly #nodes: DeviceNodes;
  #folder: string | null = null;

  constructor(devices: readonly GroupDevice[], nodes: DeviceNodes) {
    this.#devices = devices;
    this.#nodes = nodes;
  }

  /** The folder; each entry is the address of a device. It is private to the server's user. */
  get folder(): string {
    if (this.#folder === null) {
      this.#folder = mkdtempSync(join(tmpdir(), 'viommu-sysfs-'));
      for (const [i, d] of this.#devices.entries()) this.#write(join(this.#folder, d.address), d, i);
    }
    return this.#folder;
  }

  #write(at: string, { name, address, function: driver }: GroupDevice, minor: number): void {
    mkdirSync(join(at, 'vfio-dev', name), { recursive: true });
    const config = new Uint8Array(4096);
    const bytes = driver.pread(BigInt(VFIO_PCI_REGION.CONFIG) << VFIO_PCI_OFFSET_SHIFT, config);
    const view = new DataView(config.buffer);
    const hex = (value: number, digits: number) => `0x${value.toString(16).padStart(digits, '0')}\n`;
    const files: Readonly<Record<string, string | Uint8Array>> = {
      vendor: hex(view.getUint16(0, true), 4),
      device: hex(view.getUint16(2, true), 4),
      subsystem_vendor: hex(view.getUint16(0x2c, true), 4),
      subsystem_device: hex(view.getUint16(0x2e, true), 4),
      revision: hex(config[8]!, 2),
      class: hex(view.getUint32(8, true) >>> 8, 6),
      irq: '0\n',
      numa_node: '-1\n',
      driver_override: 'vfio-pci\n',
      modalias: '\n',
      config: config.subarray(0, Math.max(0, bytes)),
      [join('vfio-dev', name, 'dev')]: `${VFIO_MAJOR}:${minor}\n`,
    };
    for (const [file, text] of Object.entries(files)) writeFileSync(join(at, file), text);
    symlinkSync('/sys/bus/pci/drivers/vfio-pci', join(at, 'driver'));
    symlinkSync('/sys/bus/pci', join(at, 'subsystem'));
    symlinkSync(`/sys/kernel/iommu_groups/${this.#nodes.groupOf(address)}`, join(at, 'iommu_group'));
  }

  /** Takes the folder away. */
  remove(): void {
    if (this.#folder !== null) rmSync(this.#folder, { recursive: true, force: true });
    this.#folder = null;
  }
}
