/** More leaves than this are not remembered. */
const MOST = 65_536;

/**
 * The leaves above 4 KiB that something was mapped from: where an invalidation of any address of a leaf takes all of it away,
 * it has to be known which leaf an address belongs to. Pages count 4 KiB; leaves are aligned to their own size and may overlap.
 */
export class LargeLeaves {
  /** Bit per log2 pages of a leaf. */
  #sizes = 0;
  /** By log2 pages: numbers of the leaves. */
  readonly #leaves: (Set<number> | undefined)[] = [];
  #count = 0;
  /** The range the last `widen` answered: [first, end). */
  first = 0;
  end = 0;

  /** No more fit: `clear` comes first. */
  get full(): boolean {
    return this.#count >= MOST;
  }

  /** @param shift log2 pages, above 0. */
  add(page: number, shift: number): void {
    let set = this.#leaves[shift];
    if (set === undefined) {
      set = new Set();
      this.#leaves[shift] = set;
    }
    const before = set.size;
    set.add(Math.floor(page / 2 ** shift));
    this.#count += set.size - before;
    this.#sizes |= 1 << shift;
  }

  clear(): void {
    if (this.#sizes === 0) return;
    this.#sizes = 0;
    this.#count = 0;
    this.#leaves.length = 0;
  }

  /** log2 pages of the largest leaf that has `page`; 0: none does. */
  shiftAt(page: number): number {
    for (let shift = 31 - Math.clz32(this.#sizes); shift > 0; shift--) {
      if (this.#leaves[shift]?.has(Math.floor(page / 2 ** shift))) return shift;
    }
    return 0;
  }

  /** Widens [first, end) to all of the leaves that have a page in it, and forgets them. */
  widen(first: number, end: number): void {
    this.first = first;
    this.end = end;
    if (this.#sizes === 0) return;
    while (this.#wider());
    this.#forget();
  }

  #wider(): boolean {
    const { first, end } = this;
    for (let sizes = this.#sizes; sizes !== 0; sizes &= sizes - 1) {
      const shift = 31 - Math.clz32(sizes & -sizes);
      const unit = 2 ** shift;
      const leaves = this.#leaves[shift]!;
      const low = Math.floor(this.first / unit);
      const high = Math.floor((this.end - 1) / unit);
      if (leaves.has(low)) this.first = low * unit;
      if (leaves.has(high)) this.end = Math.max(this.end, (high + 1) * unit);
    }
    return this.first !== first || this.end !== end;
  }

  #forget(): void {
    for (let sizes = this.#sizes; sizes !== 0; sizes &= sizes - 1) {
      const shift = 31 - Math.clz32(sizes & -sizes);
      const leaves = this.#leaves[shift]!;
      const unit = 2 ** shift;
      const low = Math.ceil(this.first / unit);
      const high = Math.floor(this.end / unit);
      const before = leaves.size;
      if (high - low < before) for (let leaf = low; leaf < high; leaf++) leaves.delete(leaf);
      else for (const leaf of leaves) if (leaf >= low && leaf < high) leaves.delete(leaf);
      this.#count -= before - leaves.size;
      if (leaves.size === 0) this.#sizes &= ~(1 << shift);
    }
  }
}
