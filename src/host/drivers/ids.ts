/** Numbers 1..last for VMIDs and ASIDs; 0 stays with the kernel. The lowest free one is taken, without allocation. */
export class IdPool {
  readonly #last: number;
  readonly #taken: Int32Array;
  /** No free number below. */
  #from = 1;

  /** @param bits of the hardware's field, 8 or 16. @param limit at most so many. */
  constructor(bits: number, limit = Number.POSITIVE_INFINITY) {
    this.#last = Math.min(2 ** bits - 1, limit);
    this.#taken = new Int32Array(2 ** bits / 32);
  }

  /** @returns -1: none left. */
  take(): number {
    for (let id = this.#from; id <= this.#last; id++) {
      const w = this.#taken[id >>> 5]!;
      if (w === -1) {
        id |= 31;
        continue;
      }
      if ((w & (1 << (id & 31))) !== 0) continue;
      this.#taken[id >>> 5] = w | (1 << (id & 31));
      this.#from = id + 1;
      return id;
    }
    this.#from = this.#last + 1;
    return -1;
  }

  give(id: number): void {
    this.#taken[id >>> 5]! &= ~(1 << (id & 31));
    if (id < this.#from) this.#from = id;
  }
}
