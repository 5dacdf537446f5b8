import { TWO32 } from '../../core/bits.ts';
import { type TlbContext, TlbTags, type TlbTagsData } from './tags.ts';
import { CLASS_OF_SHIFT, pageHi, pageLo, SHIFT_OF_CLASS, TlbTable, type TlbTableData } from './tlb-table.ts';

/** Pages of one size class a range invalidation looks up; beyond, the whole context is renewed. */
const RANGE_PAGES = 512;
/** Pages whose entries lie in consecutive sets. */
const RUN_PAGES = 0x2_0000;
/** Contexts an all-contexts address invalidation visits one by one; beyond, each is renewed. */
const VISITED_CONTEXTS = 64;

export interface IotlbOptions {
  /** Translations kept: a power of two, or 0 for none. */
  readonly entries: number;
  /** Last-level table addresses kept: a power of two; 0 or absent switches the walk cache off. */
  readonly walkEntries?: number;
  /** Contexts kept (4096). */
  readonly contexts?: number;
}

export interface IotlbData {
  readonly leaves: TlbTableData;
  readonly walks: TlbTableData;
  readonly tags: TlbTagsData;
}

/**
 * The translation cache of an IOMMU: 16 bytes per entry, invalidations of a context, a domain or everything in constant
 * time, invalidations by address independent of what is cached. Results of lookups are fields, valid until the next one.
 * Input addresses are hi/lo words, canonical to 57 bits (ignored top bytes already replaced by the sign).
 */
export class Iotlb {
  readonly #leaves: TlbTable;
  readonly #walks: TlbTable;
  readonly #tags: TlbTags;
  readonly #walkCache: boolean;
  readonly #entries: number;
  /** Output address of the byte looked up, in words. */
  outLo = 0;
  outHi = 0;
  /** log2 bytes of the entry. */
  shift = 0;
  /** Six bits, as inserted. */
  perm = 0;
  /** log2 bytes of the first stage's mapping, as inserted. */
  guestShift = 0;
  /** Four bits of the owner's. */
  attr = 0;
  /** Address of the last-level table (walk cache), in words. */
  tableLo = 0;
  tableHi = 0;

  /** @throws RangeError when a size is not a power of two. */
  constructor(options: IotlbOptions) {
    const walkEntries = options.walkEntries ?? 0;
    for (const n of [options.entries, walkEntries]) {
      if (n !== 0 && (n & (n - 1)) !== 0) throw new RangeError(`cache size ${n} is not a power of two`);
    }
    this.#entries = options.entries;
    this.#tags = new TlbTags(options.contexts ?? 4096, () => {
      this.#leaves.clear();
      this.#walks.clear();
    });
    this.#leaves = new TlbTable(options.entries, this.#tags.live);
    this.#walks = new TlbTable(walkEntries, this.#tags.live);
    this.#walkCache = walkEntries > 0;
  }

  /** Output address of the byte looked up. */
  get out(): number {
    return this.outHi * TWO32 + (this.outLo >>> 0);
  }

  /** Address of the last-level table. */
  get table(): number {
    return this.tableHi * TWO32 + (this.tableLo >>> 0);
  }

  /** The context, made on first use. Hold on to it; when its tag is 0, ask again. */
  context(domain: number, id: number): TlbContext {
    return this.#tags.get(domain, id);
  }

  findContext(domain: number, id: number): TlbContext | null {
    return this.#tags.find(domain, id);
  }

  contextsOf(domain: number): readonly TlbContext[] {
    return this.#tags.domain(domain)?.contexts ?? [];
  }

  lookup(context: TlbContext, lo: number, hi: number): boolean {
    const t = this.#leaves.words;
    let sizes = context.sizes;
    const tag = context.tag << 16;
    while (sizes !== 0) {
      const cls = 31 - Math.clz32(sizes & -sizes);
      sizes &= sizes - 1;
      const shift = SHIFT_OF_CLASS[cls]!;
      const i = this.#leaves.find(tag | (cls << 13) | pageHi(hi, shift), pageLo(lo, hi, shift));
      if (i < 0) continue;
      const data = t[i + 3]!;
      const page = t[i + 2]!;
      if (shift < 32) {
        this.outLo = (page << 12) | (lo & ((1 << shift) - 1));
        this.outHi = ((data & 0xff) << 12) | (page >>> 20);
      } else {
        this.outLo = lo;
        this.outHi = ((data & 0xff) << 12) | (page >>> 20) | (hi & 3);
      }
      this.shift = shift;
      this.perm = (data >>> 8) & 0x3f;
      this.guestShift = (data >>> 14) & 0x3f;
      this.attr = (data >>> 20) & 0xf;
      return true;
    }
    return false;
  }

  /**
   * @param out output address of the byte at (lo, hi). @param shift log2 bytes the translation holds for, ≥ 12.
   * @param perm six bits. @param attr four bits.
   */
  insert(
    context: TlbContext,
    lo: number,
    hi: number,
    out: number,
    shift: number,
    perm: number,
    guestShift: number,
    attr: number,
  ): void {
    this.insertWords(context, lo, hi, out | 0, (out / TWO32) | 0, shift, perm, guestShift, attr);
  }

  /** `insert` with the output address in words. */
  insertWords(
    context: TlbContext,
    lo: number,
    hi: number,
    outLo: number,
    outHi: number,
    shift: number,
    perm: number,
    guestShift: number,
    attr: number,
  ): void {
    const cls = CLASS_OF_SHIFT[shift]!;
    if (context.tag === 0 || this.#entries === 0 || cls < 0) return;
    const size = SHIFT_OF_CLASS[cls]!;
    // The entry holds the output of its first byte.
    const baseLo = size < 32 ? outLo & -(1 << size) : 0;
    const baseHi = size < 32 ? outHi : outHi & ~3;
    const page = (baseLo >>> 12) | (baseHi << 20);
    const data = ((baseHi >>> 12) & 0xff) | (perm << 8) | (guestShift << 14) | (attr << 20);
    this.#leaves.put((context.tag << 16) | (cls << 13) | pageHi(hi, size), pageLo(lo, hi, size), page, data);
    context.sizes |= 1 << cls;
    if (guestShift > size && guestShift > context.split) context.split = guestShift;
  }

  /** Marks that the domain holds a mapping shared by all its contexts. */
  markGlobal(context: TlbContext): void {
    const d = this.#tags.domain(context.domain);
    if (d !== null) d.globals = true;
  }

  /** Finds the last-level table that covers 2^shift bytes around the address: `table`, `attr`. */
  lookupWalk(context: TlbContext, lo: number, hi: number, shift: number): boolean {
    const cls = CLASS_OF_SHIFT[shift]!;
    if ((context.walks & (1 << cls)) === 0) return false;
    const i = this.#walks.find((context.tag << 16) | (cls << 13) | pageHi(hi, shift), pageLo(lo, hi, shift));
    if (i < 0) return false;
    const data = this.#walks.words[i + 3]!;
    const page = this.#walks.words[i + 2]!;
    this.tableLo = page << 12;
    this.tableHi = ((data & 0xff) << 12) | (page >>> 20);
    this.attr = (data >>> 20) & 0xf;
    return true;
  }

  /** @param shift one of SIZE_CLASSES. @param tableLo,tableHi 4 KiB aligned. @param attr four bits. */
  insertWalk(
    context: TlbContext,
    lo: number,
    hi: number,
    shift: number,
    tableLo: number,
    tableHi: number,
    attr: number,
  ): void {
    if (!this.#walkCache || context.tag === 0) return;
    const cls = CLASS_OF_SHIFT[shift]!;
    const page = (tableLo >>> 12) | (tableHi << 20);
    const data = ((tableHi >>> 12) & 0xff) | (attr << 20);
    this.#walks.put((context.tag << 16) | (cls << 13) | pageHi(hi, shift), pageLo(lo, hi, shift), page, data);
    context.walks |= 1 << cls;
  }

  /**
   * Drops what intersects `pages` 4 KiB pages from (lo, hi) on. More may go: beyond 512 pages of a size, everything. A leaf
   * of the guest that is kept in pieces (because the stage below has smaller ones) goes as a whole: the guest knows
   * nothing of the pieces and names any address of its leaf once.
   * @param leaf only translations; cached table walks stay.
   */
  invalidateRange(context: TlbContext, lo: number, hi: number, pages: number, leaf: boolean): void {
    if (context.split > 0 && !this.#dropWholeLeaves(context, lo, hi, pages)) this.#tags.renew(context);
    else if (!this.#dropRange(this.#leaves, context, context.sizes, lo, hi, pages)) this.#tags.renew(context);
    else if (!leaf && context.walks !== 0 && !this.#dropRange(this.#walks, context, context.walks, lo, hi, pages)) {
      this.#tags.renew(context);
    }
  }

  /** Widens the range to whole leaves of the largest split size. @returns false: too wide to go through. */
  #dropWholeLeaves(context: TlbContext, lo: number, hi: number, pages: number): boolean {
    const unit = 2 ** (context.split - 12);
    const start = (hi >>> 0) * 0x10_0000 + (lo >>> 12);
    const first = start - (start % unit);
    const end = start + pages;
    const last = Math.min(end + ((unit - (end % unit)) % unit), 2 ** 52);
    return this.#dropRange(
      this.#leaves,
      context,
      context.sizes,
      (first % 0x10_0000) * 4096,
      Math.floor(first / 0x10_0000),
      last - first,
    );
  }

  #dropRange(table: TlbTable, context: TlbContext, classes: number, lo: number, hi: number, pages: number): boolean {
    const tag = context.tag << 16;
    for (let sizes = classes; sizes !== 0; sizes &= sizes - 1) {
      const cls = 31 - Math.clz32(sizes & -sizes);
      const shift = SHIFT_OF_CLASS[cls]!;
      if (pages === 1) {
        table.drop(tag | (cls << 13) | pageHi(hi, shift), pageLo(lo, hi, shift));
        continue;
      }
      const unit = 2 ** (shift - 12);
      // 52-bit page numbers are exact; a range does not wrap at the top (IHI 0070 §4.4.1).
      const start = (hi >>> 0) * 0x10_0000 + (lo >>> 12);
      const first = Math.floor(start / unit);
      const last = Math.floor(Math.min(start + pages - 1, 2 ** 52 - 1) / unit);
      if (last - first >= RANGE_PAGES) return false;
      for (let page = first; page <= last; ) {
        const key1 = tag | (cls << 13) | ((page / TWO32) & 0x1fff);
        const run = Math.min(last - page + 1, RUN_PAGES - (page % RUN_PAGES));
        table.dropRun(key1, page | 0, run);
        page += run;
      }
    }
    return true;
  }

  /** `invalidateRange` in every context of a domain with id ≥ 0. */
  invalidateRangeAll(domain: number, lo: number, hi: number, pages: number, leaf: boolean): void {
    const d = this.#tags.domain(domain);
    if (d === null) return;
    const list = d.contexts;
    for (let i = 0; i < list.length; i++) {
      const c = list[i]!;
      if (c.id < 0) continue;
      if (list.length > VISITED_CONTEXTS) this.#tags.renew(c);
      else this.invalidateRange(c, lo, hi, pages, leaf);
    }
  }

  /** Whether an invalidation of one context by address must reach the others of its domain too. */
  hasGlobals(domain: number): boolean {
    return this.#tags.domain(domain)?.globals === true;
  }

  invalidateContext(context: TlbContext): void {
    if (context.tag !== 0) this.#tags.renew(context);
  }

  /** @param own also the context with id -1. */
  invalidateDomain(domain: number, own: boolean): void {
    const d = this.#tags.domain(domain);
    if (d === null) return;
    for (let i = 0; i < d.contexts.length; i++) {
      const c = d.contexts[i]!;
      if (own || c.id >= 0) this.#tags.renew(c);
    }
    d.globals = false;
  }

  invalidateAll(): void {
    for (const d of this.#tags.domains()) {
      for (let i = 0; i < d.contexts.length; i++) this.#tags.renew(d.contexts[i]!);
      d.globals = false;
    }
  }

  save(): IotlbData {
    return { leaves: this.#leaves.save(), walks: this.#walks.save(), tags: this.#tags.save() };
  }

  /** Contexts handed out before are dead afterwards. */
  load(data: IotlbData): void {
    this.#tags.load(data.tags);
    this.#leaves.load(data.leaves);
    this.#walks.load(data.walks);
  }
}
