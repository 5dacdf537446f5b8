/** Domain ids of a unit: 0 is reserved, 1 is the kernel's for shared address spaces. The lowest free one is taken. */
const FIRST = 2;

export class DomainIds {
  readonly #limit: number;
  readonly #taken = new Set<number>();
  #lowest = FIRST;

  /** @param limit domain ids the unit has. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** @returns -1: none left. */
  take(): number {
    let id = this.#lowest;
    while (this.#taken.has(id)) id++;
    if (id >= this.#limit) return -1;
    this.#taken.add(id);
    this.#lowest = id + 1;
    return id;
  }

  give(id: number): void {
    this.#taken.delete(id);
    if (id < this.#lowest) this.#lowest = id;
  }
}
