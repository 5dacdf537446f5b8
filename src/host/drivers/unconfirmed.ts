/** How the caches of a unit are emptied, and who hears that they may not be. */
export interface UnconfirmedParts {
  /** Has every cache of the unit and of the functions behind it forget everything. @returns 0, or -errno: it refuses again. */
  readonly everything: () => number;
  /** There is something it has not confirmed, or no longer. */
  readonly changed: (some: boolean) => void;
}

/**
 * What a unit has not confirmed to have forgotten. One that refuses an invalidation may go on using what was to go, and may
 * fill again from there what it did forget. So everything is asked for again, before whatever the kernel wants next; until the unit has done that,
 * each flush is an error, and what it may still use stays as it is.
 */
export class UnconfirmedInvalidations {
  #some = false;
  #asking = false;
  #later: (() => void)[] = [];
  readonly #parts: UnconfirmedParts;

  constructor(parts: UnconfirmedParts) {
    this.#parts = parts;
  }

  /** The unit refused an invalidation. */
  refused(): void {
    if (this.#some) return;
    this.#some = true;
    this.#parts.changed(true);
  }

  /** Asks again for what was refused. @returns 0: it has confirmed everything; -errno: it refuses still. */
  settle(): number {
    if (!this.#some || this.#asking) return 0;
    this.#asking = true;
    const r = this.#parts.everything();
    this.#asking = false;
    if (r !== 0) return r;
    this.#some = false;
    this.#parts.changed(false);
    const actions = this.#later;
    this.#later = [];
    for (const action of actions) action();
    return 0;
  }

  /** Does something once no cache can hold what is gone: at once when everything is confirmed. Actions keep their order. */
  afterwards(action: () => void): void {
    if (this.#some) this.#later.push(action);
    else action();
  }
}
