import { V86_LAYOUT } from '../../src/adapters/v86/machine.ts';
import type { RecordingOf } from '../../src/trace/recorder.ts';
import { MEMORY, type V86Run } from './start.ts';

/** A machine as v86 is one, with a unit of these properties, in QEMU's words. The guest has no interrupt remapping. */
export function machineWith(unit: string): string {
  return `qemu-system-i386 -M q35 -m 128M -device intel-iommu,intremap=off,${unit}`;
}

/** What a recording of a run says of its origin. */
export function recordingOf(cmdline: string, scenario: string, run: V86Run, kernel = '6.1'): RecordingOf {
  return {
    cmdline,
    guestKernel: `Linux ${kernel} i386 in v86`,
    scenario,
    mmio: { base: V86_LAYOUT.VTD, size: 0x1000 },
    ram: [{ gpa: 0, size: MEMORY }],
    devices: [
      { name: 'nvme', sid: run.rid, ats: run.nvme.fn.memory.ats !== null, pri: run.nvme.fn.memory.pri !== null },
    ],
  };
}
