import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { RamDisk } from '../../devices/endpoints/nvme/disk.ts';
import { NvmeFunction } from '../../devices/endpoints/nvme/function.ts';
import { defaultProperties } from '../../devices/smmuv3/properties.ts';
import { LiveMachine } from '../../src/adapters/qemu/live-machine.ts';
import { type DtNode, dtb, pcieNode, smmuv3Node } from '../../src/machine/firmware/devicetree.ts';
import { readDtb } from '../../src/machine/firmware/fdt-reader.ts';
import { Smmuv3Unit } from '../../src/machine/smmuv3-unit.ts';
import type { Tell } from '../../src/ports/tell.ts';
import { liveFiles } from './environment.ts';
import { LiveGuest } from './guest.ts';
import { initramfs } from './initramfs.ts';

/** Guest-physical layout: the last 32 MiB of 512 MiB RAM are our registers; `mem=480M` keeps Linux out of them. */
export const ARM = {
  RAM: 0x4000_0000,
  BYTES: 512 << 20,
  WINDOW: 0x5e00_0000,
  WINDOW_BYTES: 0x200_0000,
  ECAM: 0x5e10_0000,
  PCI: 0x5f00_0000,
  PCI_BYTES: 0x100_0000,
  V2M: 0x0802_0000,
  DOORBELL: 0x0802_0040,
  /** SPIs of the SMMU; GICv2m has 80 … 127 left for messages. */
  SPI: 96,
  V2M_SPI: 80,
  V2M_SPIS: 16,
} as const;
const IOMMU_PHANDLE = 0x9001;
const NVME_DEVFN = 1 << 3;

export interface ArmOptions {
  readonly ats: boolean;
  /** The physical SMMU swallows invalidations: the guest must not come up. */
  readonly deaf?: boolean;
  readonly tell?: Tell;
  readonly cpus?: number;
}

export interface ArmRun {
  readonly live: LiveMachine;
  readonly unit: Smmuv3Unit;
  readonly nvme: NvmeFunction;
  readonly guest: LiveGuest;
  close(): Promise<void>;
}

/** The device tree of QEMU's own machine with its PCI taken out and ours put in. */
function tree(own: Uint8Array, ats: boolean): Uint8Array {
  const root = readDtb(own);
  let v2m = 0;
  const keep = (n: DtNode): DtNode => {
    const children = (n.children ?? []).map(keep);
    if (!n.name.startsWith('v2m@')) return { ...n, children };
    v2m = new DataView((n.properties.phandle as Uint8Array).buffer).getUint32(0);
    const spis = { 'arm,msi-base-spi': [ARM.V2M_SPI], 'arm,msi-num-spis': [ARM.V2M_SPIS] };
    return { ...n, properties: { ...n.properties, ...spis }, children };
  };
  const ours = /^(pcie@|virtio_mmio@|smmuv3@|gpio-keys)/;
  const children = (root.children ?? []).filter((n) => !ours.test(n.name)).map(keep);
  const s = ARM.SPI;
  children.push(
    smmuv3Node({ base: ARM.WINDOW, phandle: IOMMU_PHANDLE, spi: { event: s, pri: s + 1, sync: s + 2, gerror: s + 3 } }),
    pcieNode({
      ecam: ARM.ECAM,
      buses: 1,
      mmio32: { base: ARM.PCI, bytes: ARM.PCI_BYTES },
      iommuMap: [{ first: 0, phandle: IOMMU_PHANDLE, iommuBase: 0, count: 0x1_0000 }],
      msiMap: [{ first: 0, phandle: v2m, msiBase: 0, count: 0x1_0000 }],
      ats,
    }),
  );
  return dtb({ ...root, children });
}

/** Stands up our machine, then QEMU with an unmodified Debian kernel on it. */
export async function bootArm(options: ArmOptions): Promise<ArmRun> {
  const files = liveFiles('arm64');
  const dir = mkdtempSync(join(tmpdir(), 'viommu-live-'));
  const at = (name: string) => join(dir, name);
  writeFileSync(at('ram'), '');
  truncateSync(at('ram'), ARM.BYTES);
  const cpu = ['-cpu', 'cortex-a72', '-smp', String(options.cpus ?? 1), '-m', '512M'];
  execFileSync(
    files.qemu,
    ['-L', files.share, '-M', `virt,gic-version=2,dumpdtb=${at('qemu.dtb')}`, ...cpu, '-nographic', '-nic', 'none'],
    {
      stdio: 'ignore',
    },
  );
  writeFileSync(at('live.dtb'), tree(readFileSync(at('qemu.dtb')), options.ats));
  const init = readFileSync(new URL('../../../tools/live/guest/init', import.meta.url));
  writeFileSync(
    at('initrd'),
    initramfs({
      files: files.files,
      modules: ['nvme', 'vfio-pci', 'vfio_iommu_type1'],
      extra: { init, bdf: Buffer.from('0000:00:01.0\n') },
    }),
  );
  let unit: Smmuv3Unit | null = null;
  const live = new LiveMachine({
    ramFile: at('ram'),
    layout: { ram: ARM.RAM, window: ARM.WINDOW },
    trapSocket: at('trap.sock'),
    qtestSocket: at('qtest.sock'),
    plan: {
      iommu: ARM.WINDOW,
      lines: [0, 1, 2, 3],
      ecam: { base: ARM.ECAM, buses: 1 },
      pci: { base: ARM.PCI, bytes: ARM.PCI_BYTES },
      doorbell: { base: ARM.V2M, bytes: 4096 },
      tell: options.tell ?? null,
    },
    make: (vm, irq, tell) => {
      unit = new Smmuv3Unit(vm, {
        name: 'smmuv3',
        properties: { ...defaultProperties('qemu-11.1'), stage: 'nested', ats: options.ats },
        // The guest kernel reads and writes every register by its own page.
        deviations: { absentCommandsConsumed: false },
        irq,
        tell,
        ignoreInvalidations: options.deaf ?? false,
        doorbell: ARM.V2M,
      });
      return unit;
    },
    // SPI n is interrupt id n + 32, and GICv2m raises whatever id is written to its doorbell.
    raise: (line) => ({ address: ARM.DOORBELL, data: 32 + ARM.SPI + line }),
    iommuPages: [0, 0x1_0000],
  });
  const nvme = new NvmeFunction({ disk: new RamDisk(16 << 20), integrated: true });
  live.machine.plug(nvme.fn, NVME_DEVFN);
  await live.start();
  const guest = new LiveGuest(files.qemu, [
    ...[
      '-L',
      files.share,
      '-M',
      'virt,gic-version=2',
      ...cpu,
      '-nographic',
      '-no-reboot',
      '-nic',
      'none',
      '-accel',
      'tcg',
    ],
    ...['-object', `memory-backend-file,id=m,size=512M,mem-path=${at('ram')},share=on`, '-machine', 'memory-backend=m'],
    ...['-dtb', at('live.dtb'), '-kernel', files.kernel, '-initrd', at('initrd')],
    ...['-append', 'console=ttyAMA0 nokaslr quiet loglevel=7 panic=-1 mem=480M'],
    ...[
      '-plugin',
      `${files.trap},base=0x${ARM.WINDOW.toString(16)},size=0x${ARM.WINDOW_BYTES.toString(16)},sock=${at('trap.sock')}`,
    ],
    ...['-qtest', `unix:${at('qtest.sock')}`, '-qtest-log', '/dev/null'],
  ]);
  return {
    live,
    unit: unit!,
    nvme,
    guest,
    async close() {
      await guest.stop();
      live.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
