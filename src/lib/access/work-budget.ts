/**
 * What one access may cost, in units of about two microseconds on a slow machine: a count of work, never of time, so that a run
 * repeats exactly.
 */
const WORK = 2048;

/** What is looked at for a unit of work, where a list is gone through for one that may be in it; and units of a list at most. */
const LOOKS = 64;
const MOST_LOOK_WORK = 512;

/** Units of work of going through a list of `count`. A part of the budget only, or what needs it would never go on. */
export function lookWork(count: number): number {
  return Math.min(count / LOOKS, MOST_LOOK_WORK);
}

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
  /** What the host refused first of the operation in hand, in an earlier part of it: -errno; 0: nothing. */
  refused = 0;
  /** Number of the operation in hand, so that it does nothing twice when it goes on. */
  round = 0;
  /** Goes on with what waits. */
  go: (() => void) | null = null;
  /** Number of the last operation. */
  #rounds = 0;
  readonly #later: ((action: () => void) => void) | null;
  readonly #inner: () => boolean;
  readonly #resume = () => this.resume();

  /**
   * @param later runs an action at the next occasion outside of any access; null: the guest's next read goes on.
   * @param inner whether the access under way lies inside another one: then it is no occasion of its own.
   */
  constructor(later: ((action: () => void) => void) | null, inner: () => boolean = () => false) {
    this.#later = later;
    this.#inner = inner;
  }

  /** An occasion: the whole budget is there. A request of a function that reaches the device has what is left of it. */
  begin(): void {
    if (!this.#inner()) this.left = WORK;
  }

  /** An operation begins, or (`again`) the one in hand goes on. */
  operation(again = false): void {
    this.unfinished = false;
    if (again) return;
    this.round = ++this.#rounds;
    this.refused = 0;
  }

  /**
   * Carries an operation out beside the one in hand, which goes on afterwards as if nothing had been. Whether it was finished is
   * asked within it.
   */
  beside(action: () => void): void {
    const { unfinished, round, refused } = this;
    this.operation();
    action();
    this.unfinished = unfinished;
    this.round = round;
    this.refused = refused;
  }

  /** A part of the operation in hand is over. @param outcome of the part, -errno or not. @returns that of all parts so far. */
  part(outcome: number): number {
    if (outcome < 0) this.refused ||= outcome;
    return this.refused || outcome;
  }

  /**
   * Carries an operation out that nobody can be asked to wait for (a reset, a function that is taken out), in as many budgets as
   * it takes. @param action is called until it leaves `unfinished` false. @returns the first refusal, or the last outcome.
   */
  whole(action: () => number): number {
    let outcome = 0;
    this.operation();
    do {
      this.operation(true);
      this.left = WORK;
      outcome = this.part(action());
    } while (this.unfinished);
    return outcome;
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

  /** The guest reads a register: an occasion, for what waits and for what comes of the read itself. */
  occasion(): void {
    if (this.waiting) this.resume();
    else this.begin();
  }

  /** An occasion for what waits, if anything does. */
  resume(): void {
    if (!this.waiting) return;
    this.waiting = false;
    this.begin();
    this.go?.();
  }
}
