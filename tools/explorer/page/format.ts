import type { MomentView, Run } from './protocol.ts';

export function hex(v: number | bigint): string {
  return v < 0 ? '-' : `0x${v.toString(16)}`;
}

/** A number with its thousands apart. */
export function count(n: number): string {
  return n.toLocaleString('en');
}

/** A stream by its name, if it has one. */
export function streamName(run: Run, stream: number): string {
  const name = run.devices.find((d) => d.sid === stream)?.name;
  return name === undefined ? hex(stream) : `${hex(stream)} (${name})`;
}

/** What a moment says, on one line. */
export function summary(m: MomentView): string {
  const decoded = m.decoded.filter(([, v]) => v !== '0' && v !== 'false');
  const pairs: readonly (readonly [string, string | number])[] = decoded.length > 0 ? decoded : Object.entries(m.args);
  return pairs.map(([k, v]) => `${k} ${v}`).join('  ');
}

/** log2 bytes in words. */
export function sizeOf(shift: number): string {
  return `${2 ** (shift % 10)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][Math.floor(shift / 10)]}`;
}
