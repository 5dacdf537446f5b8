import type { Random } from '../../oracle/random.ts';
import type { Step } from '../target.ts';

/** Makes steps of a guest without a plan: half of what it writes makes sense. */
export interface GuestSteps {
  /** Descriptors everywhere, most of them leading to others. @param store a store of 8 bytes before the first step. */
  fill(store: (gpa: number, lo: number, hi: number) => void): void;
  /** Switches the IOMMU on. */
  enable(): Step[];
  /** A table entry, or a structure. */
  table(): Step[];
  /** A command with its doorbell, and sometimes acknowledging what it came to. */
  command(): Step[];
  /** An access to any register. */
  register(): Step[];
  /** Something large: one command over and over in the largest queue that fits, with its doorbell. */
  flood(): Step[];
  /** A command whose completion or status is written to `address`. */
  completion(address: number): Step[];
}

/** Where a guest has things. */
export interface Places {
  /** First byte of RAM. */
  readonly ram: number;
  /** Bytes of RAM that tables and queues lie in. */
  readonly bytes: number;
  /** Registers of the IOMMU. */
  readonly iommu: number;
  /** Requester ids. */
  readonly rids: readonly number[];
}

/** A store of the guest's processor. */
export function store(at: number, lo: number, hi: number): Step {
  return ['w', at, 8, lo | 0, hi | 0];
}

/** Where a large queue lies, bytes behind the first of RAM. */
export const LARGE_QUEUE = 0x80_0000;

/** Stores of the guest's processor, `count` of them, `stride` bytes apart: `lo` and `add` more for each, of `every` in turn. */
export function stores(at: number, count: number, stride: number, lo: number, hi: number, add = 0, every = 1): Step {
  return ['fill', at, count, stride, lo | 0, hi | 0, add, every];
}

/**
 * Four table pages that lead to each other, so that a few pages are a table of any size. What the last of them leads to in turn:
 * memory, page by page or in one piece, itself, or something that is none.
 * @param at a page of tables. @param bits of an entry. @param elsewhere addresses of registers and of nothing.
 */
export function selfSimilar(r: Random, at: (n: number) => number, bits: number, elsewhere: readonly number[]): Step[] {
  const steps: Step[] = [];
  for (let n = 0; n < 3; n++) steps.push(stores(at(n), 512, 8, at(n + 1) | bits, 0));
  const last = r.pick([at(0), at(0), at(3), at(4), ...elsewhere]);
  steps.push(
    stores(
      at(3),
      512,
      8,
      (last & ~0xfff) | bits,
      r.chance(10) ? 1 : 0,
      r.pick([0, 0x1000, 0x4000]),
      r.pick([1, 2, 512]),
    ),
  );
  return steps;
}

/** A register access of random size and place in a window. */
export function anyAccess(r: Random, base: number, near: number, far: number, values: () => number): Step {
  const size = r.pick([1, 2, 4, 4, 4, 8, 8]);
  const offset = r.below(r.chance(90) ? near : far) & ~(size - 1);
  if (r.chance(50)) return ['r', base + offset, size];
  return ['w', base + offset, size, values() | 0, r.chance(70) ? 0 : r.next() | 0];
}
