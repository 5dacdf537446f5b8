import { FAILURE_STEP, type FailurePlan } from '../../ports/failures.ts';
import type { Memory } from '../../ports/memory.ts';

/**
 * A memory whose loads a plan may let abort, one by one. Nothing is found by `locate`, so that every word is loaded, and
 * asked about.
 */
export class FailingMemory implements Memory {
  readonly changes = -1;
  readonly words = new Int32Array(0);
  readonly index = 0;
  readonly room = 0;
  lo = 0;
  hi = 0;
  readonly writable = false;
  readonly #memory: Memory;
  readonly #plan: FailurePlan;

  /** @param plan asked before every load. */
  constructor(memory: Memory, plan: FailurePlan) {
    this.#memory = memory;
    this.#plan = plan;
  }

  locate(): boolean {
    return false;
  }

  load32(addr: number): boolean {
    if (this.#plan.fails(FAILURE_STEP.FETCH) || !this.#memory.load32(addr)) return false;
    this.lo = this.#memory.lo;
    return true;
  }

  load64(addr: number): boolean {
    if (this.#plan.fails(FAILURE_STEP.FETCH) || !this.#memory.load64(addr)) return false;
    this.lo = this.#memory.lo;
    this.hi = this.#memory.hi;
    return true;
  }

  store32(addr: number, value: number): boolean {
    return this.#memory.store32(addr, value);
  }

  store64(addr: number, lo: number, hi: number): boolean {
    return this.#memory.store64(addr, lo, hi);
  }

  readBytes(addr: number, into: Uint8Array): boolean {
    return !this.#plan.fails(FAILURE_STEP.FETCH) && this.#memory.readBytes(addr, into);
  }

  writeBytes(addr: number, from: Uint8Array): boolean {
    return this.#memory.writeBytes(addr, from);
  }

  readPart(lo: number, hi: number, into: Uint8Array, start: number, count: number): boolean {
    return !this.#plan.fails(FAILURE_STEP.FETCH) && this.#memory.readPart(lo, hi, into, start, count);
  }

  writePart(lo: number, hi: number, from: Uint8Array, start: number, count: number): boolean {
    return this.#memory.writePart(lo, hi, from, start, count);
  }
}
