type Words = Int32Array<ArrayBuffer> | Uint32Array<ArrayBuffer> | Uint16Array<ArrayBuffer> | Uint8Array<ArrayBuffer>;
type Maker<T extends Words> = new (length: number) => T;

const FIRST = 1024;

/** A typed array that grows by doubling: one column of a table with as many rows as a recording has moments. */
export class Growing<T extends Words> {
  /** How many values there are. */
  length = 0;
  readonly #make: Maker<T>;
  #values: T;

  constructor(make: Maker<T>) {
    this.#make = make;
    this.#values = new make(FIRST);
  }

  push(value: number): void {
    if (this.length === this.#values.length) {
      const more = new this.#make(2 * this.length);
      more.set(this.#values);
      this.#values = more;
    }
    this.#values[this.length++] = value;
  }

  at(n: number): number {
    return this.#values[n]!;
  }

  set(n: number, value: number): void {
    this.#values[n] = value;
  }

  /** The values as an array of their own, which can be given away. */
  copy(): T {
    return this.#values.slice(0, this.length) as T;
  }
}

/** Texts that occur again and again, by number. */
export class Texts {
  /** By number. */
  readonly list: string[] = [];
  readonly #numbers = new Map<string, number>();

  number(text: string): number {
    const known = this.#numbers.get(text);
    if (known !== undefined) return known;
    this.#numbers.set(text, this.list.length);
    return this.list.push(text) - 1;
  }

  /** -1: it does not occur. */
  find(text: string): number {
    return this.#numbers.get(text) ?? -1;
  }
}
