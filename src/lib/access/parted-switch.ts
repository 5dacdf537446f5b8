import type { VerbOutcome } from '../uapi/host-verbs.ts';
import type { WorkBudget } from './work-budget.ts';

/** What a switch moves, and who is told. */
export interface SwitchTargets {
  /** Makes everything what the registers ask for now, as far as the budget goes: `work.unfinished`. @returns the first refusal. */
  place(): VerbOutcome;
  /** Tries again what the host refused, as far as the budget goes. @returns the first refusal. */
  again(): VerbOutcome;
  /** Whether nothing of before is in force any more. @param refused what `place` or `again` returned. */
  holds(refused: VerbOutcome): boolean;
  /** The guest sees it. @param bits what was given to `begin`. */
  show(bits: number): void;
}

/**
 * A switch of all translations of a unit. The guest sees that it is so once it is so: the streams are gone through in parts, and
 * while the host keeps what was in force before, each read of a register tries again.
 */
export class PartedSwitch {
  /** Bits that the guest does not see yet. */
  pending = 0;
  /** Not all streams have been gone through: commands wait for that. */
  going = false;
  readonly #work: WorkBudget;
  readonly #targets: SwitchTargets;

  constructor(work: WorkBudget, targets: SwitchTargets) {
    this.#work = work;
    this.#targets = targets;
  }

  /** The registers ask for something else. One that is going begins again. @param bits what the guest is to see in the end. */
  begin(bits: number): void {
    this.pending |= bits;
    this.#work.operation();
    this.#place();
  }

  /** An occasion. @returns whether all streams have been gone through. */
  nextPart(): boolean {
    if (!this.going) return true;
    this.#work.operation(true);
    this.#place();
    return !this.going;
  }

  /** The guest reads a register: what the host refused is tried again. */
  goOn(): void {
    if (this.pending === 0 || this.going) return;
    // A command in hand keeps its place: a guest that looks at both would else see neither end.
    this.#work.beside(() => {
      const refused = this.#targets.again();
      if (!this.#work.unfinished) this.#settle(refused);
    });
  }

  /** Reset, or a state was loaded: nobody waits for it. */
  reset(): void {
    this.pending = 0;
    this.going = false;
  }

  #place(): void {
    const work = this.#work;
    const refused = this.#targets.place();
    this.going = work.unfinished;
    if (this.going) {
      work.pause();
      return;
    }
    // A command in hand begins again: what it had done was done to what is void now.
    work.operation();
    this.#settle(refused);
  }

  #settle(refused: VerbOutcome): void {
    if (!this.#targets.holds(refused)) return;
    const { pending } = this;
    this.pending = 0;
    this.#targets.show(pending);
  }
}
