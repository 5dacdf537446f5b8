/**
 * The command that the host refused last. The queue stopped at it: what is executed next is that command again, or the guest has
 * put another one in its place, as Linux does.
 */
export class RefusedCommand {
  /** A refused command was never done: whatever it named may still be in use. */
  skipped = false;
  #at = -1;
  readonly #words = new Int32Array(4);

  /** The host refused the command in slot `at`. */
  set(at: number, w0: number, w1: number, w2: number, w3: number): void {
    // The one before it was neither done nor replaced yet: nobody looks at it again.
    if (this.#at >= 0) this.skipped = true;
    this.#at = at;
    this.#words.set([w0, w1, w2, w3]);
  }

  /** A command is executed. */
  next(at: number, w0: number, w1: number, w2: number, w3: number): void {
    if (this.#at < 0) return;
    const w = this.#words;
    const again = at === this.#at && w[0] === w0 && w[1] === w1 && w[2] === w2 && w[3] === w3;
    if (!again) this.skipped = true;
    this.#at = -1;
  }

  /** No command waits to be done again: the SMMU was reset, or everything it may have named is forgotten. */
  clear(): void {
    this.#at = -1;
    this.skipped = false;
  }
}
