import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { smmuv3Defaults } from '../../devices/smmuv3/properties.ts';
import { type DtNode, dtb, pcieNode, smmuv3Node } from '../../src/machine/firmware/devicetree.ts';
import { readDtb } from '../../src/machine/firmware/fdt-reader.ts';
import { Smmuv3Unit } from '../../src/machine/smmuv3-unit.ts';
import type { Tell } from '../../src/ports/tell.ts';
import type { RecordingOf, TraceRecorder } from '../../src/trace/index.ts';
import { liveFiles } from './environment.ts';
import { type LiveRun, NVME_DEVFN, startSession } from './session.ts';

/** Guest-physical layout: the last 32 MiB of 512 MiB RAM are our registers; `mem=480M` keeps Linux out of them. */
const ARM = {
  RAM: 0x4000_0000,
  WINDOW: 0x5e00_0000,
  WINDOW_BYTES: 0x200_0000,
  ECAM: 0x5e10_0000,
  PCI: 0x5f00_0000,
  PCI_BYTES: 0x100_0000,
  V2M: 0x0802_0000,
  DOORBELL: 0x0802_0040,
  /** SPI of the SMMU's first line (interrupt id 128); GICv2m keeps interrupt ids 80 … 127 for messages. */
  SPI: 96,
  MSI_BASE: 80,
  MSI_COUNT: 48,
} as const;
const IOMMU_PHANDLE = 0x9001;
const CPU = ['-cpu', 'cortex-a72', '-smp', '1'];

export interface ArmOptions {
  readonly ats: boolean;
  /** The physical SMMU swallows invalidations: the guest must not come up. */
  readonly deaf?: boolean;
  readonly tell: Tell;
  readonly record?: TraceRecorder | null;
}

/** What a recording of it says about the machine. */
export function armRecording(ats: boolean): RecordingOf {
  return {
    cmdline: `qemu-system-aarch64 -M virt,gic-version=2 -m 512M -device arm-smmuv3,primary-bus=pcie.0,stage=nested,ats=${ats ? 'on' : 'off'}`,
    guestKernel: 'Linux 7.2 arm64 under QEMU, devices of ours',
    scenario: ats ? 'NVMe with ATS' : 'NVMe',
    mmio: { base: ARM.WINDOW, size: 0x2_0000 },
    ram: [{ gpa: ARM.RAM, size: ARM.WINDOW - ARM.RAM }],
    devices: [{ name: 'nvme', sid: NVME_DEVFN }],
  };
}

/** The device tree of QEMU's own machine with its PCI taken out and ours put in. */
function tree(own: Uint8Array, ats: boolean): Uint8Array {
  const root = readDtb(own);
  let v2m = 0;
  const keep = (n: DtNode): DtNode => {
    const children = (n.children ?? []).map(keep);
    if (!n.name.startsWith('v2m@')) return { ...n, children };
    v2m = new DataView((n.properties.phandle as Uint8Array).buffer).getUint32(0);
    const frame = { 'arm,msi-base-spi': [ARM.MSI_BASE], 'arm,msi-num-spis': [ARM.MSI_COUNT] };
    return { ...n, properties: { ...n.properties, ...frame }, children };
  };
  const replaced = /^(pcie@|virtio_mmio@|smmuv3@|gpio-keys)/;
  const children = (root.children ?? []).filter((n) => !replaced.test(n.name)).map(keep);
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

/** The device tree QEMU gives its machine. */
function qemuTree(qemu: string, share: string): Uint8Array {
  const dir = mkdtempSync(join(tmpdir(), 'viommu-dtb-'));
  const file = join(dir, 'qemu.dtb');
  const machine = `virt,gic-version=2,dumpdtb=${file}`;
  execFileSync(qemu, ['-L', share, '-M', machine, ...CPU, '-m', '512M', '-nographic', '-nic', 'none'], {
    stdio: 'ignore',
  });
  const blob = readFileSync(file);
  rmSync(dir, { recursive: true });
  return blob;
}

export function bootArm(options: ArmOptions): Promise<LiveRun> {
  const files = liveFiles('arm64');
  const blob = tree(qemuTree(files.qemu, files.share), options.ats);
  return startSession({
    files,
    bdf: '0000:00:01.0',
    window: { base: ARM.WINDOW, bytes: ARM.WINDOW_BYTES },
    machine: {
      layout: { ram: ARM.RAM, window: ARM.WINDOW },
      plan: {
        iommu: ARM.WINDOW,
        lines: [0, 1, 2, 3],
        ecam: { base: ARM.ECAM, buses: 1 },
        pci: { base: ARM.PCI, bytes: ARM.PCI_BYTES },
        doorbell: { base: ARM.V2M, bytes: 4096 },
        tell: options.tell,
        record: options.record ?? null,
      },
      make: (vm, irq, tell) =>
        new Smmuv3Unit(vm, {
          name: 'smmuv3',
          properties: { ...smmuv3Defaults('qemu-11.1'), stage: 'nested', ats: options.ats },
          // QEMU has no ATS and consumes CMD_ATC_INV silently; here it is executed.
          deviations: { absentCommandsConsumed: false },
          irq,
          tell,
          ignoreInvalidations: options.deaf ?? false,
          doorbell: ARM.V2M,
        }),
      // SPI n is interrupt id n + 32, and GICv2m raises whatever id is written to its doorbell.
      raise: (line) => ({ address: ARM.DOORBELL, data: 32 + ARM.SPI + line }),
      iommuPages: [0, 0x1_0000],
    },
    qemu: (at) => {
      writeFileSync(at('live.dtb'), blob);
      const kernel = 'console=ttyAMA0 nokaslr quiet loglevel=7 panic=-1 mem=480M';
      return ['-M', 'virt,gic-version=2', ...CPU, '-dtb', at('live.dtb'), '-append', kernel];
    },
  });
}
