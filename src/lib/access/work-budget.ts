/**
 * What one access may cost, in units of about a microsecond on a slow machine: a count of work, never of time, so that a run
 * repeats exactly.
 */
const WORK = 4096;

/**
 * Bounds the work of one access of a guest, whatever its queues and tables hold: when the budget is spent, the rest goes on at
 * the next occasion, with everything still in order.
 */
export class WorkBudget {
  /** Units left of this occasion. */
  left = WORK;
  /** Something was begun and is to go on. */
  waiting = false;
  /** The operation in hand was not finished: it has to be called again, in the same round. */
  unfinished = false;
  /** Number of the operation in hand, so that it does nothing twice when it goes on. */
  round = 0;
  /** Goes on with what waits. */
  go: (() => void) | null = null;
  readonly #later: ((action: () => void) => void) | null;
  readonly #resume = () => this.resume();

  /** @param later runs an action at the next occasion outside of any access; null: the guest's next read goes on. */
  constructor(later: ((action: () => void) => void) | null) {
    this.#later = later;
  }

  /** An occasion: the whole budget is there. */
  begin(): void {
    this.left = WORK;
  }

  /** An operation begins, or (`again`) the one in hand goes on. */
  operation(again = false): void {
    this.unfinished = false;
    if (!again) this.round++;
  }

  spend(units: number): void {
    this.left -= units;
  }

  /** Whether the budget of this occasion is spent. */
  get over(): boolean {
    return this.left <= 0;
  }

  /** The rest waits for the next occasion. */
  pause(): void {
    if (this.waiting) return;
    this.waiting = true;
    this.#later?.(this.#resume);
  }

  /** An occasion for what waits, if anything does. */
  resume(): void {
    if (!this.waiting) return;
    this.waiting = false;
    this.begin();
    this.go?.();
  }
}
