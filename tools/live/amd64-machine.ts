import { writeFileSync } from 'node:fs';
import { vtdProperties } from '../../devices/vtd/properties.ts';
import { parseQemuArgs } from '../../src/lib/qemu-args/qemu-args.ts';
import {
  busWindow,
  device,
  eisaId,
  integer,
  memoryFixed,
  memoryWindow,
  methodReturningArg,
  name,
  resources,
  scope,
} from '../../src/machine/firmware/aml.ts';
import { dmar } from '../../src/machine/firmware/dmar.ts';
import { acpiTable, TableBytes, VIOMMU_MAKER } from '../../src/machine/firmware/table.ts';
import { VtdUnit } from '../../src/machine/vtd-unit.ts';
import type { Tell } from '../../src/ports/tell.ts';
import type { RecordingOf, TraceRecorder } from '../../src/trace/index.ts';
import { liveFiles } from './environment.ts';
import { type LiveRun, NVME_DEVFN, startSession } from './session.ts';

/** The last 32 MiB of 512 MiB RAM are our registers; QEMU's ACPI tables sit at their very end, above the PCI window. */
const PC = {
  WINDOW: 0x1e00_0000,
  WINDOW_BYTES: 0x200_0000,
  ECAM: 0x1e10_0000,
  PCI: 0x1f00_0000,
  PCI_BYTES: 0x80_0000,
  MSI: 0xfee0_0000,
  MSI_BYTES: 0x10_0000,
  /** QEMU's own PCI is segment 0. */
  SEGMENT: 1,
} as const;

export interface PcOptions {
  readonly ats: boolean;
  readonly scalable: boolean;
  readonly deaf?: boolean;
  readonly tell: Tell;
  readonly record?: TraceRecorder | null;
}

/** The unit in QEMU's words: replay reads its properties from them. */
function cmdlineOf(o: Pick<PcOptions, 'ats' | 'scalable'>): string {
  const mode = o.scalable ? ',scalable-mode=on,fsts=on' : '';
  return `qemu-system-x86_64 -M q35 -m 512M -device intel-iommu,intremap=off,device-iotlb=${o.ats ? 'on' : 'off'}${mode}`;
}

/** What a recording of it says about the machine. */
export function pcRecording(o: Pick<PcOptions, 'ats' | 'scalable'>): RecordingOf {
  return {
    cmdline: cmdlineOf(o),
    guestKernel: 'Linux 7.2 amd64 under QEMU, devices of ours',
    scenario: `${o.scalable ? 'scalable' : 'legacy'} mode, NVMe${o.ats ? ' with ATS' : ''}`,
    mmio: { base: PC.WINDOW, size: 0x1000 },
    ram: [{ gpa: 0, size: PC.WINDOW }],
    devices: [{ name: 'nvme', sid: NVME_DEVFN }],
  };
}

/** A second host bridge, and the windows nobody else may take. */
function ssdt(): Uint8Array {
  const bridge = device('PCJ1', [
    name('_HID', eisaId('PNP0A08')),
    name('_CID', eisaId('PNP0A03')),
    name('_UID', integer(77)),
    name('_SEG', integer(PC.SEGMENT)),
    name('_BBN', integer(0)),
    name('_CBA', integer(PC.ECAM)),
    name('_CRS', resources([busWindow(0, 0), memoryWindow(PC.PCI, PC.PCI + PC.PCI_BYTES - 1)])),
    methodReturningArg('_OSC', 4, 3),
  ]);
  const reserved = device('JRES', [
    name('_HID', eisaId('PNP0C02')),
    name('_UID', integer(78)),
    name('_CRS', resources([memoryFixed(PC.WINDOW, PC.PCI - PC.WINDOW)])),
  ]);
  return acpiTable('SSDT', 2, new TableBytes().append(scope('\\_SB', [bridge, reserved])).done(), VIOMMU_MAKER);
}

export function bootPc(options: PcOptions): Promise<LiveRun> {
  const files = liveFiles('amd64');
  const props = vtdProperties(parseQemuArgs(cmdlineOf(options)))!;
  return startSession({
    files,
    bdf: '0001:00:01.0',
    // ioremap lives in the vmalloc area.
    window: { base: PC.WINDOW, bytes: PC.WINDOW_BYTES, minva: '0xffffc90000000000' },
    machine: {
      layout: { ram: 0, window: PC.WINDOW },
      plan: {
        iommu: PC.WINDOW,
        ecam: { base: PC.ECAM, buses: 1 },
        pci: { base: PC.PCI, bytes: PC.PCI_BYTES },
        doorbell: { base: PC.MSI, bytes: PC.MSI_BYTES },
        tell: options.tell,
        record: options.record ?? null,
      },
      make: (vm, irq, tell) =>
        new VtdUnit(vm, {
          name: 'vtd',
          properties: props,
          irq,
          tell,
          ignoreInvalidations: options.deaf ?? false,
        }),
      raise: () => ({ address: 0, data: 0 }),
      iommuPages: [0],
    },
    qemu: (at) => {
      writeFileSync(at('ssdt.aml'), ssdt());
      const structures = [
        { kind: 'drhd', base: PC.WINDOW, segment: PC.SEGMENT, includeAll: true, scopes: [] } as const,
      ];
      writeFileSync(at('dmar.aml'), dmar({ hostAddressWidth: 48, interruptRemapping: false, structures }));
      const kernel = 'console=ttyS0 nokaslr quiet loglevel=7 panic=-1 mem=480M intel_iommu=on';
      return [
        ...['-M', 'q35', '-cpu', 'max,la57=off', '-smp', '1', '-vga', 'none'],
        ...['-acpitable', `file=${at('ssdt.aml')}`, '-acpitable', `file=${at('dmar.aml')}`],
        ...['-append', options.scalable ? `${kernel},sm_on` : kernel],
      ];
    },
  });
}
