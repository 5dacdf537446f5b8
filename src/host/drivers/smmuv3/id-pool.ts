/** Numbers 1..last for VMIDs and ASIDs; 0 stays with the kernel. The lowest free one is taken. */
export class IdPool {
  readonly #last: number;
  readonly #free: number[] = [];
  #next = 1;

  constructor(bits: number) {
    this.#last = 2 ** bits - 1;
  }

  /** @returns −1: none left. */
  take(): number {
    if (this.#free.length > 0) {
      let least = 0;
      for (let i = 1; i < this.#free.length; i++) if (this.#free[i]! < this.#free[least]!) least = i;
      return this.#free.splice(least, 1)[0]!;
    }
    return this.#next > this.#last ? -1 : this.#next++;
  }

  give(id: number): void {
    this.#free.push(id);
  }
}
