import { flipped, mutable, type QtestKind } from '../conformance/qtest-pair.ts';
import type { Random } from '../oracle/random.ts';
import type { Step } from './target.ts';

/** A request of a transcript, and whether its recorded reply is behind a withheld invalidation. */
export interface Asked {
  readonly request: string;
  readonly stale: boolean;
}

/** Where fields of registers, table entries and commands begin to mean something else. */
const BOUNDARIES: readonly bigint[] = [
  0n,
  1n,
  2n,
  3n,
  0xfffn,
  0x1000n,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_ffffn,
  0x1_0000_0000n,
  0xffff_ffff_f000n,
  0x8_0000_0000_0000n,
  0x7fff_ffff_ffff_ffffn,
  // Not all ones: QEMU's VT-d takes an entry like that for one that it could not read.
  0xffff_ffff_ffff_fffen,
];

/** A change: what is done to which of the stores that decide something. */
export function change(rnd: Random): Step {
  const place = rnd.next() >>> 1;
  const what = rnd.below(100);
  if (what < 40) return ['flip', place, rnd.below(64)];
  if (what < 60) return ['set', place, rnd.below(BOUNDARIES.length)];
  if (what < 70) return ['add', place, rnd.pick([-4096, -64, -8, -1, 1, 8, 64, 4096])];
  if (what < 80) return ['drop', place];
  if (what < 90) return ['copy', place, rnd.next() >>> 1];
  return ['swap', place, rnd.next() >>> 1];
}

/** The number that a store writes, of at most 8 bytes, and how another one is written. */
function numberIn(request: string): { readonly value: bigint; readonly bits: number; with(v: bigint): string } {
  const words = request.split(' ');
  if (words[0] !== 'write') {
    const bits = words[0] === 'writel' ? 32 : 64;
    return { value: BigInt(words[2]!), bits, with: (v) => `${words[0]} ${words[1]} 0x${v.toString(16)}` };
  }
  const bytes = Buffer.from(words[3]!.slice(2), 'hex');
  const size = Math.min(bytes.length, 8);
  let value = 0n;
  for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i]!);
  return {
    value,
    bits: size * 8,
    with: (v) => {
      for (let i = 0; i < size; i++) bytes[i] = Number((v >> BigInt(8 * i)) & 0xffn);
      return `${words[0]} ${words[1]} ${words[2]} 0x${bytes.toString('hex')}`;
    },
  };
}

function withValue(request: string, next: (value: bigint) => bigint): string {
  const v = numberIn(request);
  return v.with(BigInt.asUintN(v.bits, next(v.value)));
}

/** Changes a transcript. @param list is changed. */
export function apply(kind: QtestKind, list: Asked[], step: Step): void {
  const places = list.flatMap((a, i) => (mutable(kind, a.request) ? [i] : []));
  if (places.length === 0) return;
  const at = places[Number(step[1]) % places.length]!;
  const other = places[Number(step[2] ?? 0) % places.length]!;
  const { request, stale } = list[at]!;
  switch (step[0]) {
    case 'flip':
      list[at] = { request: flipped(request, Number(step[2])), stale };
      return;
    case 'set':
      list[at] = { request: withValue(request, () => BOUNDARIES[Number(step[2]) % BOUNDARIES.length]!), stale };
      return;
    case 'add':
      list[at] = { request: withValue(request, (v) => v + BigInt(step[2] ?? 0)), stale };
      return;
    case 'drop':
      list.splice(at, 1);
      return;
    case 'copy':
      list.splice(other, 0, { request, stale });
      return;
    case 'swap':
      [list[at], list[other]] = [list[other]!, list[at]!];
      return;
    default:
      throw new Error(`no such change: ${step[0]}`);
  }
}
