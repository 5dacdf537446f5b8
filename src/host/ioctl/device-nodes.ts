import type { UserMemory } from '../../ports/user-memory.ts';
import { E } from '../../spec/iommufd/errno.ts';
import { IommufdFile } from '../iommufd/file.ts';
import { VfioFile } from '../iommufd/vfio-device.ts';
import type { IommuGroup } from '../kernel/group.ts';
import type { HostKernel } from '../kernel/kernel.ts';
import type { KernelFile } from './caller.ts';
import type { TestIoctl } from './iommufd-ioctl.ts';
import { IommufdNode } from './iommufd-node.ts';
import { VfioDeviceNode } from './vfio-device-node.ts';
import { VfioGroup } from './vfio-group.ts';
import { type GroupDevice, VfioGroupNode } from './vfio-group-node.ts';

/** The process that opens a node. */
export interface Opener {
  readonly memory: UserMemory;
  /** CAP_SYS_RESOURCE. */
  readonly privileged: boolean;
}

/** What there is to open. */
export interface NodesParts {
  readonly kernel: HostKernel;
  /** Devices with a VFIO driver. */
  readonly devices: readonly GroupDevice[];
  /** IOMMU_TEST_CMD of an iommufd; null: this kernel has no test driver. */
  test(file: IommufdFile): TestIoctl | null;
}

const CDEV = '/dev/vfio/devices/';
const GROUP = /^\/dev\/vfio\/(\d+)$/;

/** The device nodes of the emulated kernel: /dev/iommu, /dev/vfio/vfio, /dev/vfio/N and /dev/vfio/devices/NAME. */
export class DeviceNodes {
  readonly #parts: NodesParts;
  readonly #groups = new Map<IommuGroup, VfioGroup>();

  constructor(parts: NodesParts) {
    this.#parts = parts;
    for (const { dev } of parts.devices) {
      if (!this.#groups.has(dev.group)) this.#groups.set(dev.group, new VfioGroup(this.#groups.size));
    }
  }

  /** The number of the group a device is in, as its `iommu_group` link says; -1: there is no device at this address. */
  groupOf(address: string): number {
    const d = this.#parts.devices.find((x) => x.address === address);
    return d === undefined ? -1 : this.#groups.get(d.dev.group)!.number;
  }

  /** @returns the open file; -ENOENT there is no such node; -EBUSY the group is open, or one of its devices is bound. */
  open(path: string, by: Opener): KernelFile | number {
    if (path === '/dev/iommu') return this.#iommufd(by);
    if (path === '/dev/vfio/vfio') {
      const node = this.#iommufd(by);
      // An iommufd that stands in for VFIO's container counts locked memory as VFIO does.
      node.file.context.rlimitMode = 1;
      return node;
    }
    if (path.startsWith(CDEV)) {
      const d = this.#parts.devices.find((x) => x.name === path.slice(CDEV.length));
      if (d === undefined) return -E.NOENT;
      return new VfioDeviceNode(new VfioFile(d.dev), d.function, this.#groups.get(d.dev.group)!);
    }
    const number = GROUP.exec(path)?.[1];
    const found = [...this.#groups].find(([, g]) => String(g.number) === number);
    if (found === undefined) return -E.NOENT;
    const [members, group] = found;
    const r = group.open();
    if (r !== 0) return r;
    return new VfioGroupNode(
      group,
      this.#parts.devices.filter((d) => d.dev.group === members),
    );
  }

  #iommufd(by: Opener): IommufdNode {
    const file = new IommufdFile(this.#parts.kernel, by.memory, by.privileged);
    return new IommufdNode(file, this.#parts.test(file));
  }
}
