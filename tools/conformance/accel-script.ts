import type { Random } from '../oracle/random.ts';

/** One step of a script: what the guest does, in qtest's words, and what is read afterwards. */
export interface AccelStep {
  /** What it is, for reports and for the rows of known differences. */
  readonly name: string;
  readonly requests: readonly string[];
}

/** What both kinds of script have. */
export interface AccelKind {
  readonly name: 'smmuv3' | 'vtd';
  /** QEMU's and our command line, without the function. */
  readonly machine: readonly string[];
  readonly qemu: readonly string[];
  readonly ours: readonly string[];
  /** Everything a script starts from: tables, marked pages, queues, a function that may send. */
  readonly prelude: readonly string[];
  /** Reads that are compared after every step, and the bits that count. */
  readonly reads: readonly { readonly request: string; readonly mask: bigint }[];
  /** Addresses the function reads after every step. */
  readonly probes: readonly number[];
  /** A script of so many steps. */
  script(random: Random, steps: number): AccelStep[];
}

export const w32 = (at: number | bigint, value: number | bigint): string =>
  `writel 0x${at.toString(16)} 0x${value.toString(16)}`;
export const w64 = (at: number | bigint, value: number | bigint): string =>
  `writeq 0x${at.toString(16)} 0x${BigInt.asUintN(64, BigInt(value)).toString(16)}`;
export const zero = (at: number, bytes: number): string => `memset 0x${at.toString(16)} 0x${bytes.toString(16)} 0x0`;

/** Pages the function may read: each begins with its own word. */
export function marks(base: number, count: number): string[] {
  return Array.from({ length: count }, (_, i) => w32(base + 0x1000 * i, 0x1111_0000 + i));
}
