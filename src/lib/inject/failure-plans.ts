import type { FailurePlan, FailureStep } from '../../ports/failures.ts';

/** Lets exactly the nth step fail, as /proc/self/fail-nth does. */
export class FailNth implements FailurePlan {
  /** The step that failed; null: none has yet. */
  failed: FailureStep | null = null;
  #left: number;

  /** @param n from 1. 0: nothing fails. */
  constructor(n: number) {
    this.#left = n;
  }

  /** Steps until the one that fails; 0: it has failed, or none will. */
  get left(): number {
    return this.#left;
  }

  fails(step: FailureStep): boolean {
    if (this.#left === 0 || --this.#left > 0) return false;
    this.failed = step;
    return true;
  }
}

/** Lets steps fail at random, the same ones for the same seed and the same run. */
export class SeededFailures implements FailurePlan {
  /** Steps asked about. */
  asked = 0;
  /** How many of them failed. */
  failed = 0;
  readonly #threshold: number;
  readonly #steps: ReadonlySet<FailureStep> | null;
  #state: number;

  /**
   * @param seed any integer. @param rate the share of steps that fail, 0 to 1.
   * @param steps which kinds of step may fail. Default: all.
   */
  constructor(seed: number, rate: number, steps: readonly FailureStep[] | null = null) {
    // The generator must not begin with 0: it would stay there.
    this.#state = Math.imul(seed, 0x9e37_79b1) ^ 0x2545_f491 || 1;
    this.#threshold = Math.max(0, Math.min(1, rate)) * 2 ** 32;
    this.#steps = steps === null ? null : new Set(steps);
  }

  fails(step: FailureStep): boolean {
    if (this.#steps !== null && !this.#steps.has(step)) return false;
    this.asked++;
    // xorshift32 (Marsaglia).
    let s = this.#state;
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    this.#state = s;
    if (s >>> 0 >= this.#threshold) return false;
    this.failed++;
    return true;
  }
}
