/** The command that the host refused last; `at` -1: none, or it was done since. */
export class RefusedCommand {
  at = -1;
  readonly #words = new Int32Array(4);

  set(at: number, w0: number, w1: number, w2: number, w3: number): void {
    this.at = at;
    this.#words.set([w0, w1, w2, w3]);
  }

  /** The command in its place is executed. */
  again(w0: number, w1: number, w2: number, w3: number): void {
    const w = this.#words;
    if (w[0] === w0 && w[1] === w1 && w[2] === w2 && w[3] === w3) this.at = -1;
  }
}
