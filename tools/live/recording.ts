import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { type RecordingOf, TraceRecorder } from '../../src/trace/index.ts';

/** `--record FOLDER`: where recordings of a live run go. */
export function recordFolder(): string | null {
  const at = process.argv.indexOf('--record');
  return at < 0 ? null : (process.argv[at + 1] ?? '.');
}

export function recorderFor(iommu: 'smmuv3' | 'vtd'): TraceRecorder | null {
  return recordFolder() === null ? null : new TraceRecorder(iommu);
}

/** Writes what was recorded as FOLDER/NAME.ndjson.gz. */
export function saveRecording(recorder: TraceRecorder | null, name: string, of: RecordingOf): void {
  const folder = recordFolder();
  if (recorder === null || folder === null) return;
  mkdirSync(folder, { recursive: true });
  const path = join(folder, `${name}.ndjson.gz`);
  writeFileSync(path, gzipSync(recorder.text(of), { level: 9 }));
  process.stdout.write(`    recorded ${recorder.events} events in ${path}\n`);
}
