import { ViommuError } from '../../core/errors.ts';
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

/** Every bit of the result depends on every bit of `word`, and no two words have one result (the end of MurmurHash3). */
function mixed(word: number): number {
  let h = word ^ (word >>> 16);
  h = Math.imul(h, 0x85eb_ca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2_ae35);
  return h ^ (h >>> 16);
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
   * @param seed any integer that a number holds exactly. @param rate the share of steps that fail, 0 to 1.
   * @param steps which kinds of step may fail. Default: all.
   * @param stream 0 … 15: generators of one seed that draw independently of each other.
   * @throws ViommuError `EINVAL` for another seed.
   */
  constructor(seed: number, rate: number, steps: readonly FailureStep[] | null = null, stream = 0) {
    if (!Number.isSafeInteger(seed))
      throw new ViommuError('EINVAL', 'caller', '`seed` is an integer below 2^53', { found: String(seed) });
    // Neighbouring seeds, and seeds that differ in high bits alone, begin at unrelated places. The generator must not begin
    // with 0: it would stay there.
    const high = Math.floor(seed / 2 ** 32);
    this.#state = mixed(seed ^ mixed(high * 16 + stream + 0x9e37_79b1)) || 1;
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
