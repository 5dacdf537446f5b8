import { hiWord, loWord, TWO32 } from '../../../core/bits.ts';
import type { Memory } from '../../../ports/memory.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import type { StageCopy } from '../../kernel/driver.ts';
import type { ShadowFormat } from './format.ts';
import type { PoolMember, ShadowPool } from './pool.ts';
import { TableFinder } from './table-finder.ts';

const PAGE = 4096;
const ENTRIES = 512;
const PAGE_WORDS = PAGE / 4;
const RW = 3;
/** More pages than any table has. */
const ALL = 2 ** 52;
/** Bits of an entry's high word that belong to the address. */
const OUT_HIGH = 0xf_ffff;

/** What a copy of a guest's stage is made of. */
export interface ShadowTablesParts {
  readonly format: ShadowFormat;
  /** Host-physical address of the start table: empty, and its owner's. */
  readonly root: number;
  readonly pool: ShadowPool;
  readonly space: Memory;
  /** Host-physical addresses end here. */
  readonly limit: number;
  /** Leaves without WRITE are refused. */
  readonly refusesReadOnly: boolean;
  /**
   * Every cache forgets pages [page, page + pages), up to 2^52. @param leaf no table left the tree.
   * @returns 0 or -errno: some cache may still know them.
   */
  readonly forget: (page: number, pages: number, leaf: boolean) => number;
  /** The hardware caches what is not present and has to be told of new entries. */
  readonly announces: boolean;
}

/** What the kernel itself mapped: it is there whatever the guest invalidates. */
interface Fixed {
  readonly page: number;
  readonly pages: number;
  readonly hpa: number;
  readonly prot: number;
}

/**
 * The table of a second stage that repeats one of a guest, page by page as it is used. Unlike a page table of the kernel it
 * keeps no account of what it holds: an entry is the only record of a page, a table stays where it is when its last entry
 * goes, and everything goes at once by emptying the start table and taking the same pages again.
 */
export class ShadowTables implements StageCopy, PoolMember {
  mappedFirst = 0;
  mappedEnd = 0;
  taken = 0;
  readonly #p: ShadowTablesParts;
  readonly #space: Memory;
  readonly #find: TableFinder;
  /** Pages from the pool; those before `#used` are, or have been, tables of the tree since it was last empty. */
  readonly #held: number[] = [];
  #used = 0;
  /** Of those, tables that no cache knows any more, and tables that a cache may still know. */
  readonly #spare: number[] = [];
  readonly #retired: number[] = [];
  /** Entries of the start table that have been in use since it was empty, and the same by index. */
  readonly #roots: number[] = [];
  readonly #rooted: Uint8Array;
  #fixed: Fixed[] = [];
  /** An invalidation failed: some cache may still know what is gone. */
  #stale = false;

  constructor(parts: ShadowTablesParts) {
    this.#p = parts;
    this.#space = parts.space;
    this.#find = new TableFinder(parts.space, parts.format, parts.root);
    this.#rooted = new Uint8Array(parts.format.rootEntries);
    parts.pool.join(this);
  }

  get pages(): number {
    return this.#held.length;
  }

  perm(page: number): number {
    const entry = this.#find.leaf(page);
    if (entry < 0) return 0;
    const { permShift, never } = this.#p.format;
    const { lo, hi } = this.#space;
    return ((lo >>> permShift) & RW) | (never === null ? 0 : never(hi));
  }

  map(page: number, hpa: number, first: number, end: number, prot: number): number {
    const { format, limit, refusesReadOnly, announces } = this.#p;
    if (refusesReadOnly && (prot & 2) === 0) return -E.INVAL;
    if (page >= format.rootEntries * ENTRIES ** (format.levels - 1) || hpa + PAGE > limit) return -E.RANGE;
    const level = end - first < ENTRIES ? 1 : this.#leafLevel(page, hpa, first, end);
    let table = this.#table(page, level);
    if (table < 0) {
      // Nobody else gave a page: the pages this one has are as good.
      const r = this.#used > 0 ? this.clear() : -E.NOMEM;
      table = r < 0 ? -1 : this.#table(page, level);
      if (table < 0) return r < 0 ? r : -E.NOMEM;
    }
    this.#fill(table, level, page, hpa, first, end, prot);
    if (announces) {
      const r = this.#forget(this.mappedFirst, this.mappedEnd - this.mappedFirst, true);
      if (r < 0) return r;
    }
    return this.mappedEnd - page;
  }

  /** The largest leaf around `page` that [first, end) covers, that the memory is aligned for, and where no table is. */
  #leafLevel(page: number, hpa: number, first: number, end: number): number {
    for (let level = this.#p.format.largest; level > 1; level--) {
      const unit = ENTRIES ** (level - 1);
      const base = page - (page % unit);
      const out = hpa / PAGE - (page - base);
      if (base < first || base + unit > end || out % unit !== 0 || (out + unit) * PAGE > this.#p.limit) continue;
      if (!this.#find.hasTable(page, level)) return level;
    }
    return 1;
  }

  /** Writes the entry of `page`, and those around it in its table that [first, end) covers, up to the next table. */
  #fill(table: number, level: number, page: number, hpa: number, first: number, end: number, prot: number): void {
    const { format, limit } = this.#p;
    const space = this.#space;
    const lo = format.leaf(prot) | (level === 1 ? format.page : format.block);
    const hi = format.leafHigh(prot);
    if (end - first === 1) {
      space.store64(table + 8 * (page % ENTRIES), loWord(hpa) | lo, hiWord(hpa) | hi);
      this.mappedFirst = page;
      this.mappedEnd = page + 1;
      return;
    }
    const unit = ENTRIES ** (level - 1);
    const span = unit * (level === format.levels ? format.rootEntries : ENTRIES);
    const base = page - (page % span);
    const aligned = page - (page % unit);
    const out = hpa - (page - aligned) * PAGE;
    const from = Math.max(Math.ceil(first / unit) * unit, base);
    const last = Math.min(Math.floor(end / unit) * unit, base + span);
    const to = Math.min(last, aligned + Math.floor((limit - out) / PAGE / unit) * unit);
    let up = aligned;
    while (up < to && this.#leaf(table, level, base, up, out + (up - aligned) * PAGE, lo, hi)) up += unit;
    let down = aligned;
    while (down > from && this.#leaf(table, level, base, down - unit, out - (aligned - down + unit) * PAGE, lo, hi)) {
      down -= unit;
    }
    this.mappedFirst = down;
    this.mappedEnd = up;
  }

  /** Writes the leaf of page `at` if its entry is empty. @returns false: a table is there. */
  #leaf(table: number, level: number, base: number, at: number, hpa: number, lo: number, hi: number): boolean {
    const { format } = this.#p;
    const space = this.#space;
    const index = (at - base) / ENTRIES ** (level - 1);
    const entry = table + 8 * index;
    space.load64(entry);
    if ((space.lo & format.present) !== 0) return level === 1 || (space.lo & format.typeMask) !== format.table;
    space.store64(entry, loWord(hpa) | lo, hiWord(hpa) | hi);
    if (level === format.levels) this.#root(index);
    return true;
  }

  /** The table of `level` that holds `page`; missing ones are made. @returns -1: no page is left, or a leaf is in the way. */
  #table(page: number, level: number): number {
    const { format, root } = this.#p;
    if (level === 1) {
      const known = this.#find.table(page);
      if (known >= 0) return known;
    }
    const space = this.#space;
    let table = root;
    for (let l = format.levels; l > level; l--) {
      const index = Math.floor(page / ENTRIES ** (l - 1));
      const entry = table + 8 * (l === format.levels ? index : index % ENTRIES);
      space.load64(entry);
      if ((space.lo & format.present) !== 0) {
        if ((space.lo & format.typeMask) !== format.table) return -1;
        table = address(space);
        continue;
      }
      const made = this.#take();
      if (made < 0) return -1;
      space.store64(entry, loWord(made) | format.pointer, hiWord(made));
      if (l === format.levels) this.#root(index);
      table = made;
    }
    if (level === 1) this.#find.learn(page, table);
    return table;
  }

  #root(index: number): void {
    if (this.#rooted[index] !== 0) return;
    this.#rooted[index] = 1;
    this.#roots.push(index);
  }

  /** A zeroed page: one it has, or one of the pool's. @returns -1: there is none. */
  #take(): number {
    let page = this.#spare.pop() ?? -1;
    if (page < 0 && this.#used < this.#held.length) page = this.#held[this.#used++]!;
    if (page >= 0) {
      const space = this.#space;
      space.locate(page);
      space.words.fill(0, space.index, space.index + PAGE_WORDS);
      return page;
    }
    page = this.#p.pool.take(this);
    if (page < 0) return -1;
    this.#held.push(page);
    this.#used++;
    this.taken = this.#p.pool.now;
    return page;
  }

  unmap(page: number, pages: number): number {
    if (pages === 1) {
      const entry = this.#find.leaf(page);
      if (entry < 0) return this.#stale ? this.#forget(page, 1, true) : 0;
      if (this.#find.level === 1) {
        this.#space.store64(entry, 0, 0);
        return this.#gone(page, 1, true);
      }
    }
    this.#cleared = false;
    this.#leaves = true;
    this.#everything = false;
    const { format, root } = this.#p;
    const end = Math.min(page + pages, format.rootEntries * ENTRIES ** (format.levels - 1));
    this.#clearIn(root, format.levels, 0, page, end);
    if (!this.#cleared && !this.#stale) return 0;
    return this.#everything ? this.#gone(0, ALL, false) : this.#gone(page, pages, this.#leaves);
  }

  /** Of the `unmap` in hand: something went; only leaves did; more went than was named. */
  #cleared = false;
  #leaves = true;
  #everything = false;

  /** Clears [from, end) below a table whose first entry stands for page `base`. */
  #clearIn(table: number, level: number, base: number, from: number, end: number): void {
    const { format } = this.#p;
    const space = this.#space;
    const unit = ENTRIES ** (level - 1);
    const first = Math.max(0, Math.floor((from - base) / unit));
    const entries = level === format.levels ? format.rootEntries : ENTRIES;
    const last = Math.min(Math.ceil((end - base) / unit), entries);
    for (let i = first; i < last; i++) {
      const entry = table + 8 * i;
      space.load64(entry);
      const { lo, hi } = space;
      if ((lo & format.present) === 0) continue;
      const at = base + i * unit;
      const whole = at >= from && at + unit <= end;
      const leaf = level === 1 || (lo & format.typeMask) !== format.table;
      if (whole) {
        this.#cleared = true;
        space.store64(entry, 0, 0);
        if (!leaf) this.#prune(address(space), level - 1);
        continue;
      }
      const below = leaf ? this.#split(entry, level, lo, hi) : address(space);
      if (below >= 0) this.#clearIn(below, level - 1, at, from, end);
    }
  }

  /** A table left the tree. What is below it is used again when everything is emptied. */
  #prune(table: number, level: number): void {
    this.#leaves = false;
    this.#find.reset();
    if (level === 1) this.#retired.push(table);
  }

  /** Replaces a large leaf by a table of smaller ones; without a page for it the leaf goes whole. @returns the table, or -1. */
  #split(entry: number, level: number, lo: number, hi: number): number {
    const space = this.#space;
    const { format } = this.#p;
    this.#cleared = true;
    this.#leaves = false;
    const made = this.#take();
    if (made < 0) {
      space.store64(entry, 0, 0);
      this.#everything = true;
      return -1;
    }
    const bits = (lo & 0xfff & ~format.typeMask) | (level === 2 ? format.page : format.block);
    const out = (hi & OUT_HIGH) * TWO32 + ((lo & ~0xfff) >>> 0);
    const step = ENTRIES ** (level - 2) * PAGE;
    for (let i = 0; i < ENTRIES; i++) {
      space.store64(made + 8 * i, loWord(out + i * step) | bits, hiWord(out + i * step) | (hi & ~OUT_HIGH));
    }
    space.store64(entry, loWord(made) | format.pointer, hiWord(made));
    return made;
  }

  clear(): number {
    if (this.#roots.length === 0 && !this.#stale) return 0;
    const { root } = this.#p;
    for (const index of this.#roots) {
      this.#space.store64(root + 8 * index, 0, 0);
      this.#rooted[index] = 0;
    }
    this.#roots.length = 0;
    this.#find.reset();
    const r = this.#forget(0, ALL, false);
    if (r === 0) {
      this.#used = 0;
      this.#spare.length = 0;
    }
    this.#fixAgain(0, ALL);
    return r;
  }

  surrender(): number {
    const r = this.clear();
    // What the kernel mapped is in tables again: those stay.
    if (r === 0) this.#p.pool.give(this.#held.splice(this.#used));
    return r;
  }

  /** A mapping of the kernel's own, that no invalidation of a guest takes away. @returns 0 or -errno. */
  fix(page: number, hpa: number, pages: number, prot: number): number {
    const fixed = { page, pages, hpa, prot };
    this.#fixed.push(fixed);
    const r = this.#put(fixed);
    if (r < 0) this.#fixed.pop();
    return r;
  }

  /** Takes mappings of the kernel's own in [page, page + pages) away again. @returns 0 or -errno. */
  unfix(page: number, pages: number): number {
    this.#fixed = this.#fixed.filter((f) => f.page < page || f.page + f.pages > page + pages);
    return this.unmap(page, pages);
  }

  #put({ page, pages, hpa, prot }: Fixed): number {
    for (let done = 0; done < pages; ) {
      const r = this.map(page + done, hpa + done * PAGE, page + done, page + pages, prot);
      if (r < 0) return r;
      done += r;
    }
    return 0;
  }

  #fixAgain(page: number, pages: number): void {
    for (const f of this.#fixed) if (f.page < page + pages && f.page + f.pages > page) this.#put(f);
  }

  /** Pages went: the caches forget them, and what is the kernel's own comes back. */
  #gone(page: number, pages: number, leaf: boolean): number {
    const r = this.#forget(page, pages, leaf);
    if (this.#fixed.length > 0) this.#fixAgain(page, pages);
    return r;
  }

  /** After a failure the next call makes the caches forget everything. */
  #forget(page: number, pages: number, leaf: boolean): number {
    const { forget } = this.#p;
    const r = this.#stale ? forget(0, ALL, false) : forget(page, pages, leaf);
    this.#stale = r !== 0;
    if (r === 0 && this.#retired.length > 0) {
      for (const page of this.#retired) this.#spare.push(page);
      this.#retired.length = 0;
    }
    return r;
  }

  /** Nobody uses the start table any more; it is empty behind this. @returns whether no cache can know the pages. */
  destroy(): boolean {
    this.#fixed = [];
    const forgotten = this.clear() === 0;
    this.#p.pool.leave(this);
    if (forgotten) this.#p.pool.give(this.#held.splice(0));
    return forgotten;
  }
}

/** Bits [51:12] of the entry just loaded. */
function address(space: Memory): number {
  return (space.hi & OUT_HIGH) * TWO32 + ((space.lo & ~0xfff) >>> 0);
}
