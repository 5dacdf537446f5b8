import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { ViommuError } from '../../src/core/errors.ts';
import type { PhysicalMap } from '../../src/machine/physical-map.ts';
import { packageFolder } from '../package-folder.ts';

/** r, w: device read and write; l, s: load and store in memory shared with the devices. */
export type AccessKind = 'r' | 'w' | 'l' | 's';

export interface Access {
  readonly kind: AccessKind;
  readonly address: number;
  readonly size: number;
  readonly value: bigint;
}

/** One access as a line: `w 0xc000020 4 0x8`. */
export function accessText(kind: AccessKind, address: number, size: number, value: bigint): string {
  return `${kind} 0x${address.toString(16)} ${size} 0x${value.toString(16)}`;
}

/** @throws ViommuError `E_TRACE_FORMAT` with the line's number. */
export function parseAccesses(text: string): Access[] {
  return text
    .trimEnd()
    .split('\n')
    .map((line, n) => {
      const m = /^([rwls]) (0x[0-9a-f]+) ([1248]) (0x[0-9a-f]+)$/.exec(line);
      if (m === null) throw new ViommuError('E_TRACE_FORMAT', 'trace', `line ${n + 1}: not an access: ${line}`);
      return { kind: m[1] as AccessKind, address: Number(m[2]), size: Number(m[3]), value: BigInt(m[4]!) };
    });
}

export function accessesPath(name: string): string {
  return join(packageFolder(), 'guest-fixtures/aarch64/accesses', `${name}.txt.gz`);
}

export function loadAccesses(name: string): Access[] {
  return parseAccesses(gunzipSync(readFileSync(accessesPath(name))).toString('latin1'));
}

/**
 * Does the accesses on a machine.
 * @returns null when everything read what it should, else the first access that did not, in words.
 */
export function replayAccesses(map: PhysicalMap, accesses: readonly Access[]): string | null {
  for (const [n, a] of accesses.entries()) {
    if (a.kind === 'w' || a.kind === 's') {
      map.write(a.address, a.size, Number(a.value & 0xffff_ffffn) | 0, Number(a.value >> 32n) | 0);
      continue;
    }
    map.read(a.address, a.size);
    const got = BigInt.asUintN(8 * a.size, (BigInt(map.hi >>> 0) << 32n) | BigInt(map.lo >>> 0));
    if (got !== a.value)
      return `access ${n}: ${accessText(a.kind, a.address, a.size, a.value)}, got 0x${got.toString(16)}`;
  }
  return null;
}
