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

/** A register access of random size and place in a window. */
export function anyAccess(r: Random, base: number, near: number, far: number, values: () => number): Step {
  const size = r.pick([1, 2, 4, 4, 4, 8, 8]);
  const offset = r.below(r.chance(90) ? near : far) & ~(size - 1);
  if (r.chance(50)) return ['r', base + offset, size];
  return ['w', base + offset, size, values() | 0, r.chance(70) ? 0 : r.next() | 0];
}
