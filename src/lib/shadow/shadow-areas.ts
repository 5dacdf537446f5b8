/**
 * What is mapped in a shadow: disjoint areas in ascending order, each a run of pages with the guest-physical page behind its
 * first one, its permissions, and the extent of the guest's leaf it comes from. Leaves are equal or disjoint. Everything
 * counts 4 KiB pages; lookups allocate nothing.
 */
export class ShadowAreas {
  count = 0;
  readonly #counted: ((by: number) => void) | null;
  #first = new Float64Array(16);
  #end = new Float64Array(16);
  #leaf = new Float64Array(16);
  #leafEnd = new Float64Array(16);
  #gpa = new Float64Array(16);
  #perm = new Uint8Array(16);

  /** @param counted hears how many came or went. */
  constructor(counted: ((by: number) => void) | null = null) {
    this.#counted = counted;
  }

  /** First page. */
  first(i: number): number {
    return this.#first[i]!;
  }
  /** The page behind the last one. */
  end(i: number): number {
    return this.#end[i]!;
  }
  /** First page of the leaf. */
  leaf(i: number): number {
    return this.#leaf[i]!;
  }
  /** The page behind the leaf. */
  leafEnd(i: number): number {
    return this.#leafEnd[i]!;
  }
  /** Guest-physical page behind the first one. */
  gpa(i: number): number {
    return this.#gpa[i]!;
  }
  /** ACCESS.READ and ACCESS.WRITE as they are mapped. */
  perm(i: number): number {
    return this.#perm[i]!;
  }

  /** Index of the first area whose leaf ends behind `page`; `count` when there is none. */
  from(page: number): number {
    let lo = 0;
    let hi = this.count;
    while (lo < hi) {
      const mid = (lo + hi) >>> 1;
      if (this.#leafEnd[mid]! > page) hi = mid;
      else lo = mid + 1;
    }
    return lo;
  }

  /** Index of the area that contains `page`; -1 when none does. */
  at(page: number): number {
    for (let i = this.from(page); i < this.count && this.#first[i]! <= page; i++) if (this.#end[i]! > page) return i;
    return -1;
  }

  /** Adds an area that overlaps none, and whose leaf overlaps no other leaf. */
  add(first: number, end: number, leaf: number, leafEnd: number, gpa: number, perm: number): void {
    let i = this.from(first);
    while (i < this.count && this.#first[i]! < first) i++;
    if (this.count === this.#first.length) this.#grow();
    this.#shift(i, i + 1);
    this.#first[i] = first;
    this.#end[i] = end;
    this.#leaf[i] = leaf;
    this.#leafEnd[i] = leafEnd;
    this.#gpa[i] = gpa;
    this.#perm[i] = perm;
    this.count++;
    this.#counted?.(1);
  }

  /** Removes areas `i` to `behind` - 1. */
  remove(i: number, behind: number = i + 1): void {
    this.#shift(behind, i);
    this.count -= behind - i;
    this.#counted?.(i - behind);
  }

  clear(): void {
    const { count } = this;
    this.count = 0;
    this.#counted?.(-count);
  }

  #shift(from: number, to: number): void {
    this.#first.copyWithin(to, from, this.count);
    this.#end.copyWithin(to, from, this.count);
    this.#leaf.copyWithin(to, from, this.count);
    this.#leafEnd.copyWithin(to, from, this.count);
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
    this.#end = bigger(this.#end);
    this.#leaf = bigger(this.#leaf);
    this.#leafEnd = bigger(this.#leafEnd);
    this.#gpa = bigger(this.#gpa);
    const perm = new Uint8Array(n);
    perm.set(this.#perm);
    this.#perm = perm;
  }
}
