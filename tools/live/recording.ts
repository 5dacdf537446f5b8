import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { MachineSanitizer } from '../../src/machine/sanitize.ts';
import { type RecordingOf, TraceRecorder } from '../../src/trace/index.ts';

/** `--record FOLDER`: where recordings of a live run go. */
export function recordFolder(): string | null {
  const at = process.argv.indexOf('--record');
  return at < 0 ? null : (process.argv[at + 1] ?? '.');
}

/** What judges the driver of a run (`--sanitize`), by the recorder it listens to. */
const JUDGES = new WeakMap<TraceRecorder, MachineSanitizer>();
/** Any address a guest of a live run may have its tables at, bytes. */
const RAM = [{ gpa: 0, size: 2 ** 40 }];

export function recorderFor(iommu: 'smmuv3' | 'vtd'): TraceRecorder | null {
  const sanitize = process.argv.includes('--sanitize');
  if (recordFolder() === null && !sanitize) return null;
  const recorder = new TraceRecorder(iommu, recordFolder() !== null);
  if (sanitize) JUDGES.set(recorder, new MachineSanitizer({ iommu, ram: RAM }, recorder));
  return recorder;
}

function tellFindings(judge: MachineSanitizer): void {
  const found = judge.findings().filter((f) => f.severity !== 'hint');
  for (const f of found) process.stdout.write(`    ${f.severity} ${f.rule} (${f.count}): ${f.message}\n`);
  if (found.length === 0) process.stdout.write('    the driver was judged: no finding of level warning or above\n');
  for (const [why, rules] of judge.unjudged())
    process.stdout.write(`    not judged (${why}): ${[...rules].join(', ')}\n`);
}

/** Writes what was recorded as FOLDER/NAME.ndjson.gz, and what the driver did wrong to standard output. */
export function saveRecording(recorder: TraceRecorder | null, name: string, of: RecordingOf): void {
  const judge = recorder === null ? undefined : JUDGES.get(recorder);
  if (judge !== undefined) tellFindings(judge);
  const folder = recordFolder();
  if (recorder === null || folder === null) return;
  mkdirSync(folder, { recursive: true });
  const path = join(folder, `${name}.ndjson.gz`);
  writeFileSync(path, gzipSync(recorder.text(of), { level: 9 }));
  process.stdout.write(`    recorded ${recorder.events} events in ${path}\n`);
}
