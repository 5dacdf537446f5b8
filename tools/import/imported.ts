import { hex } from '../../src/core/errors.ts';
import type { IommuKind } from '../../src/trace/index.ts';
import { openOutput } from '../files/output.ts';

/** Events as `FORMAT.md` has them, without their numbers. */
export type ImportedEvent = { readonly t: string; readonly [field: string]: string | number | boolean };

/** A log turned into events, and what it did not have. */
export interface Imported {
  readonly iommu: IommuKind;
  readonly events: readonly ImportedEvent[];
  /** Lines that are of the IOMMU and say nothing an event could hold, by name. */
  readonly skipped: ReadonlyMap<string, number>;
  /** What a log of this kind cannot know, a clause each. */
  readonly unknown: readonly string[];
}

/** What the log does not say about its machine. */
export interface ImportedMachine {
  /** QEMU's command line; '' when nobody knows it. */
  readonly cmdline: string;
  /** Where the register window lies (bytes). */
  readonly base: number;
}

/** Bytes of the register windows of QEMU's boards. */
export const WINDOW_BYTES: { readonly [kind in IommuKind]: number } = { smmuv3: 0x2_0000, vtd: 0x1000 };
/** Where QEMU's boards have their IOMMU: `-M virt,iommu=smmuv3` and q35. */
export const BOARD_WINDOW: { readonly [kind in IommuKind]: number } = { smmuv3: 0x0905_0000, vtd: 0xfed9_0000 };

/** Streams that appear in the events, as functions without a name of their own. */
function devices(events: readonly ImportedEvent[]): object[] {
  const sids = new Set(events.flatMap((e) => (typeof e.sid === 'number' ? [e.sid] : [])));
  return [...sids].sort((a, b) => a - b).map((sid) => ({ name: `stream ${hex(sid)}`, sid }));
}

/** The lines of a recording without guest memory. */
export function* recordingLines(file: string, log: Imported, machine: ImportedMachine): Generator<string> {
  yield `${JSON.stringify({
    t: 'header',
    format: 'viommu-trace',
    version: 1,
    iommu: log.iommu,
    lacks: ['memory'],
    source: { cmdline: machine.cmdline, scenario: `imported from ${file}` },
    mmio: { base: hex(machine.base), size: hex(WINDOW_BYTES[log.iommu]) },
    ram: [],
    devices: devices(log.events),
  })}\n`;
  for (const [i, e] of log.events.entries()) yield `${JSON.stringify({ i, ...e })}\n`;
}

/** Writes a recording, gzip'ed when its name ends in `.gz`. @throws ViommuError `EIO`: it cannot be written. */
export async function writeRecording(path: string, lines: Iterable<string>): Promise<void> {
  const output = openOutput(path, path.endsWith('.gz'));
  try {
    for (const line of lines) {
      output.write(line);
      await output.drained();
    }
    await output.finished();
  } catch (e) {
    await output.discard();
    throw e;
  }
}
