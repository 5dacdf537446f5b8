import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import type { Line } from './files.ts';

/** A recording as its header and its events, to be spoiled. */
export function recording(name: string): { header: Line; events: Line[] } {
  const text = gunzipSync(readFileSync(`guest-fixtures/recordings/${name}.ndjson.gz`)).toString('utf8');
  const [header, ...events] = text
    .trimEnd()
    .split('\n')
    .map((l) => JSON.parse(l) as Line);
  return { header: header!, events };
}

/** Numbers from 0 again, as a recorder that never saw the missing ones would have. */
export function renumbered(events: readonly Line[]): Line[] {
  return events.map((e, i) => ({ ...e, i }));
}

/** `hex` with one bit turned over. */
export function flipped(hex: unknown, bit: number): string {
  return `0x${(BigInt(String(hex)) ^ (1n << BigInt(bit))).toString(16)}`;
}
