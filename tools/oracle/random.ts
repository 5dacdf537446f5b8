/** A small seeded generator (xorshift32), fast enough to fill memories with. */
export class Random {
  #s: number;

  constructor(seed: number) {
    this.#s = seed | 1;
  }

  /** 32 random bits, unsigned. */
  next(): number {
    let s = this.#s;
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    this.#s = s;
    return s >>> 0;
  }

  below(n: number): number {
    return this.next() % n;
  }

  /** True in `percent` of 100 cases. */
  chance(percent: number): boolean {
    return this.next() % 1000 < percent * 10;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }

  bits(n: number): bigint {
    return ((BigInt(this.next()) << 32n) | BigInt(this.next())) & ((1n << BigInt(n)) - 1n);
  }
}
