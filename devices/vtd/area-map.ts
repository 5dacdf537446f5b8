/**
 * What is mapped in a shadow, as disjoint areas in ascending order: first page, pages, guest-physical page and
 * permissions each. Everything counts 4 KiB pages. Lookups allocate nothing.
 */
export class AreaMap {
  count = 0;
  #first = new Float64Array(16);
  #pages = new Float64Array(16);
  #gpa = new Float64Array(16);
  #perm = new Uint8Array(16);

  first(i: number): number {
    return this.#first[i]!;
  }
  pages(i: number): number {
    return this.#pages[i]!;
  }
  gpa(i: number): number {
    return this.#gpa[i]!;
  }
  perm(i: number): number {
    return this.#perm[i]!;
  }

  /** Index of the first area that ends behind `page`; `count` when there is none. */
  from(page: number): number {
    let lo = 0;
    let hi = this.count;
    while (lo < hi) {
      const mid = (lo + hi) >>> 1;
      if (this.#first[mid]! + this.#pages[mid]! > page) hi = mid;
      else lo = mid + 1;
    }
    return lo;
  }

  /** Whether an area has a page in [page, page + pages). */
  overlaps(page: number, pages: number): boolean {
    const i = this.from(page);
    return i < this.count && this.#first[i]! < page + pages;
  }

  /** Adds an area that overlaps none. */
  add(page: number, pages: number, gpa: number, perm: number): void {
    const i = this.from(page);
    if (this.count === this.#first.length) this.#grow();
    this.#shift(i, i + 1);
    this.#first[i] = page;
    this.#pages[i] = pages;
    this.#gpa[i] = gpa;
    this.#perm[i] = perm;
    this.count++;
  }

  remove(i: number): void {
    this.#shift(i + 1, i);
    this.count--;
  }

  clear(): void {
    this.count = 0;
  }

  #shift(from: number, to: number): void {
    this.#first.copyWithin(to, from, this.count);
    this.#pages.copyWithin(to, from, this.count);
    this.#gpa.copyWithin(to, from, this.count);
    this.#perm.copyWithin(to, from, this.count);
  }

  #grow(): void {
    const n = this.#first.length * 2;
    const bigger = (a: Float64Array): Float64Array<ArrayBuffer> => {
      const b = new Float64Array(n);
      b.set(a);
      return b;
    };
    this.#first = bigger(this.#first);
    this.#pages = bigger(this.#pages);
    this.#gpa = bigger(this.#gpa);
    const perm = new Uint8Array(n);
    perm.set(this.#perm);
    this.#perm = perm;
  }
}
