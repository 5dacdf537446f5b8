/** How the caches of a unit are emptied, and who hears of what it owes. */
export interface OwedParts {
  /** Has every cache of the unit and of the functions behind it forget everything. @returns 0, or -errno: it refuses again. */
  readonly everything: () => number;
  /** It owes something now, or no longer. */
  readonly changed: (owes: boolean) => void;
}

/**
 * What a unit owes its kernel. One that refuses an invalidation may go on using what was to go, and may fill again from there
 * what it did forget. So everything is asked for again, before whatever the kernel wants next; until the unit has done that,
 * each flush is an error, and what it may still use stays as it is.
 */
export class OwedInvalidations {
  #owes = false;
  #asking = false;
  #later: (() => void)[] = [];
  readonly #parts: OwedParts;

  constructor(parts: OwedParts) {
    this.#parts = parts;
  }

  /** The unit refused an invalidation. */
  refused(): void {
    if (this.#owes) return;
    this.#owes = true;
    this.#parts.changed(true);
  }

  /** Asks again for what was refused. @returns 0: nothing is owed; -errno: the unit refuses still. */
  settle(): number {
    if (!this.#owes || this.#asking) return 0;
    this.#asking = true;
    const r = this.#parts.everything();
    this.#asking = false;
    if (r !== 0) return r;
    this.#owes = false;
    this.#parts.changed(false);
    const actions = this.#later;
    this.#later = [];
    for (const action of actions) action();
    return 0;
  }

  /** Does something once no cache can hold what is gone: at once when nothing is owed. Actions keep their order. */
  afterwards(action: () => void): void {
    if (this.#owes) this.#later.push(action);
    else action();
  }
}
