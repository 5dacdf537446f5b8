import { hiWord, loWord } from '../../../core/bits.ts';
import { DESC_TYPE, levelShift, OA_HI, S1_HI, S1_LO } from '../../../spec/smmuv3/descriptors.ts';
import type { PageAllocator } from '../page-allocator.ts';
import { leafAttributes, leafAttributesHigh, type Smmuv3PageTableConfig } from './leaf.ts';

const GRANULE = 12;
const STRIDE = 9;
const LAST = 3;
/** Start tables of stage 2 are concatenated up to this many (VMSAv8-64, DDI 0487 D8.2). */
const MAX_CONCATENATED = 16;
const { TABLE, BLOCK } = DESC_TYPE;
const shiftOf = (level: number): number => levelShift(GRANULE, level);

/** Start level and size of the start table for a 4 KiB granule, as STE.S2SL0/S2T0SZ and CD.T0SZ will say. */
export function startTable(stage: 1 | 2, ias: number): { level: number; entries: number; pages: number } {
  let level = LAST + 1 - Math.ceil((ias - GRANULE) / STRIDE);
  let entries = 2 ** (ias - shiftOf(level));
  if (stage === 2 && level === 0 && entries <= MAX_CONCATENATED) {
    level = 1;
    entries *= 2 ** STRIDE;
  }
  return { level, entries, pages: Math.max(1, entries / 2 ** STRIDE) };
}

/**
 * VMSAv8-64 page tables with the 4 KiB granule in real host memory, for one translation stage, as the kernel's SMMU driver
 * keeps them: concatenated stage-2 start tables, blocks of 1 GiB and 2 MiB wherever alignment allows. Nothing here
 * invalidates a cache; the owner does that after `unmap`, before it lets go of the memory.
 */
export class Smmuv3PageTable {
  readonly config: Smmuv3PageTableConfig;
  readonly startLevel: number;
  /** Host-physical address of the start table (TTB). */
  readonly root: number;
  readonly #memory: PageAllocator;
  readonly #rootPages: number;
  #pages: number;
  /** Tables that left the tree in the current `unmap`; freed by `reclaim`, after the caches were told. */
  readonly #retired: number[] = [];

  private constructor(
    memory: PageAllocator,
    config: Smmuv3PageTableConfig,
    root: number,
    level: number,
    pages: number,
  ) {
    this.config = config;
    this.startLevel = level;
    this.root = root;
    this.#memory = memory;
    this.#rootPages = pages;
    this.#pages = pages;
  }

  /** @returns null when no page is left (ENOMEM). */
  static create(memory: PageAllocator, config: Smmuv3PageTableConfig): Smmuv3PageTable | null {
    const start = startTable(config.stage, config.ias);
    const root = memory.allocate(start.pages);
    return root < 0 ? null : new Smmuv3PageTable(memory, config, root, start.level, start.pages);
  }

  /** 4 KiB pages the tables occupy, retired ones included until `reclaim`. */
  get pages(): number {
    return this.#pages;
  }

  /** Nothing but the start table is there. */
  get unused(): boolean {
    return this.#pages === this.#rootPages;
  }

  /**
   * Maps [iova, iova+bytes) to [hpa, …), all multiples of 4 KiB, with the largest blocks that fit. Nothing may be mapped there.
   * @returns bytes mapped: less than asked when memory ran out, or at something already mapped.
   */
  map(iova: number, hpa: number, bytes: number, prot: number): number {
    const attrs = leafAttributes(this.config, prot);
    const attrsHi = leafAttributesHigh(this.config, prot);
    let done = 0;
    while (done < bytes) {
      const level = this.#blockLevel(iova + done, hpa + done, bytes - done);
      const size = 2 ** shiftOf(level);
      const entry = this.#makeEntry(iova + done, level);
      if (entry < 0) return done;
      const space = this.#memory.space;
      const run = Math.min(this.#runTo(iova + done, level), Math.floor((bytes - done) / size));
      for (let i = 0; i < run; i++, done += size) {
        const at = entry + 8 * i;
        space.load64(at);
        if ((space.lo & 1) !== 0 && !this.#clearEmpty(at, space.lo, space.hi, level)) return done;
        const out = hpa + done;
        space.store64(at, loWord(out) | attrs | (level === LAST ? TABLE : BLOCK), hiWord(out) | attrsHi);
      }
    }
    return done;
  }

  /**
   * Takes tables without entries out of the tree above [iova, iova + bytes), for a `map` that is taken back: `unmap` leaves
   * the table of a range that does not fill it, as the kernel does. They are kept until `reclaim`.
   */
  prune(iova: number, bytes: number): void {
    this.#pruneIn(this.root, this.startLevel, 0, iova, iova + bytes);
  }

  #pruneIn(table: number, level: number, base: number, from: number, end: number): void {
    const space = this.#memory.space;
    const size = 2 ** shiftOf(level);
    const first = Math.floor((from - base) / size);
    const last = Math.ceil((end - base) / size);
    for (let i = first; level < LAST && i < last; i++) {
      const entry = table + 8 * i;
      space.load64(entry);
      if ((space.lo & 3) !== TABLE) continue;
      const below = this.#address(space.lo, space.hi);
      const at = base + i * size;
      this.#pruneIn(below, level + 1, at, Math.max(from, at), Math.min(end, at + size));
      if (!this.#empty(below)) continue;
      space.store64(entry, 0, 0);
      this.#retired.push(below);
    }
  }

  #empty(table: number): boolean {
    for (let i = 0; i < 2 ** STRIDE; i++) {
      this.#memory.space.load64(table + 8 * i);
      if ((this.#memory.space.lo & 1) !== 0) return false;
    }
    return true;
  }

  #blockLevel(iova: number, hpa: number, bytes: number): number {
    for (let level = Math.max(1, this.startLevel); level < LAST; level++) {
      const size = 2 ** shiftOf(level);
      if (bytes >= size && iova % size === 0 && hpa % size === 0) return level;
    }
    return LAST;
  }

  /** Entries from that of `iova` to the end of its table. */
  #runTo(iova: number, level: number): number {
    const index = Math.floor(iova / 2 ** shiftOf(level));
    return 2 ** STRIDE - (index % 2 ** STRIDE);
  }

  /** An entry in the way of a block: a table without a leaf is taken away, anything else stays. */
  #clearEmpty(entry: number, lo: number, hi: number, level: number): boolean {
    if (level === LAST || (lo & 3) !== TABLE) return false;
    const table = this.#address(lo, hi);
    if (this.#anyLeaf(table, level + 1)) return false;
    this.#memory.space.store64(entry, 0, 0);
    this.#retire(table, level + 1);
    return true;
  }

  #anyLeaf(table: number, level: number): boolean {
    const space = this.#memory.space;
    for (let i = 0; i < 2 ** STRIDE; i++) {
      space.load64(table + 8 * i);
      const lo = space.lo;
      if ((lo & 1) === 0) continue;
      if (level === LAST || (lo & 3) !== TABLE) return true;
      if (this.#anyLeaf(this.#address(lo, space.hi), level + 1)) return true;
    }
    return false;
  }

  /** Host-physical address of the entry for `iova` at `level`, tables made on the way. @returns -1: memory out or a block there. */
  #makeEntry(iova: number, level: number): number {
    const space = this.#memory.space;
    let entry = this.#rootEntry(iova);
    for (let at = this.startLevel; at < level; at++) {
      space.load64(entry);
      const lo = space.lo;
      if ((lo & 1) === 0) {
        const page = this.#memory.allocate();
        if (page < 0) return -1;
        this.#pages++;
        space.store64(entry, loWord(page) | TABLE, hiWord(page));
        entry = this.#entryIn(page, iova, at + 1);
      } else if ((lo & 3) === TABLE) {
        entry = this.#entryIn(this.#address(lo, space.hi), iova, at + 1);
      } else {
        return -1;
      }
    }
    return entry;
  }

  #rootEntry(iova: number): number {
    return this.root + 8 * Math.floor(iova / 2 ** shiftOf(this.startLevel));
  }

  #entryIn(table: number, iova: number, level: number): number {
    return table + 8 * (Math.floor(iova / 2 ** shiftOf(level)) % 2 ** STRIDE);
  }

  #address(lo: number, hi: number): number {
    return (hi & OA_HI) * 2 ** 32 + ((lo & ~0xfff) >>> 0);
  }

  /**
   * Unmaps [iova, iova+bytes), multiples of 4 KiB; holes are skipped, a block only partly inside is split first.
   * Tables that leave the tree are kept until `reclaim`.
   * @returns bytes that were mapped there.
   */
  unmap(iova: number, bytes: number): number {
    this.unmappedLevels = 0;
    return this.#unmapIn(this.root, this.startLevel, 0, iova, iova + bytes);
  }

  /** Leaf levels the last `unmap` cleared: bit 0 level 3, bit 1 level 2, bit 2 level 1. */
  unmappedLevels = 0;

  /** Whether tables left the tree, so that walk caches must be told before `reclaim`. */
  get retired(): boolean {
    return this.#retired.length > 0;
  }

  /** Frees what `unmap` and `map` took out of the tree: for after the invalidation. */
  reclaim(): void {
    for (const page of this.#retired) this.#memory.free(page);
    this.#pages -= this.#retired.length;
    this.#retired.length = 0;
  }

  /** @param base input address of entry 0 of `table`. */
  #unmapIn(table: number, level: number, base: number, from: number, end: number): number {
    const size = 2 ** shiftOf(level);
    let done = 0;
    const first = Math.floor((from - base) / size);
    const last = Math.ceil((end - base) / size);
    for (let i = first; i < last; i++) {
      const at = base + i * size;
      const lowest = Math.max(from, at);
      const highest = Math.min(end, at + size);
      done += this.#unmapEntry(table + 8 * i, level, at, lowest, highest);
    }
    return done;
  }

  #unmapEntry(entry: number, level: number, at: number, from: number, end: number): number {
    const space = this.#memory.space;
    space.load64(entry);
    const { lo, hi } = space;
    if ((lo & 1) === 0) return 0;
    const size = 2 ** shiftOf(level);
    const whole = from === at && end === at + size;
    if (level < LAST && (lo & 3) === TABLE) {
      const table = this.#address(lo, hi);
      const done = this.#unmapIn(table, level + 1, at, from, end);
      if (whole) {
        space.store64(entry, 0, 0);
        this.#retire(table, level + 1);
      }
      return done;
    }
    if (!whole) {
      const table = this.#split(entry, level, lo, hi);
      return table < 0 ? 0 : this.#unmapIn(table, level + 1, at, from, end);
    }
    space.store64(entry, 0, 0);
    this.unmappedLevels |= 1 << (LAST - level);
    return size;
  }

  /** Replaces a block by a table of the next level that says the same. @returns the table, or -1. */
  #split(entry: number, level: number, lo: number, hi: number): number {
    const table = this.#memory.allocate();
    if (table < 0) return -1;
    this.#pages++;
    const space = this.#memory.space;
    const out = this.#address(lo, hi);
    const size = 2 ** shiftOf(level + 1);
    const attrs = (lo & 0xffc) | (level + 1 === LAST ? TABLE : BLOCK);
    for (let i = 0; i < 2 ** STRIDE; i++) {
      space.store64(table + 8 * i, loWord(out + i * size) | attrs, hiWord(out + i * size) | (hi & ~OA_HI));
    }
    space.store64(entry, loWord(table) | TABLE, hiWord(table));
    return table;
  }

  #retire(table: number, level: number): void {
    if (level < LAST) {
      const space = this.#memory.space;
      for (let i = 0; i < 2 ** STRIDE; i++) {
        space.load64(table + 8 * i);
        if ((space.lo & 3) === TABLE) this.#retire(this.#address(space.lo, space.hi), level + 1);
      }
    }
    this.#retired.push(table);
  }

  /** Host-physical address behind `iova` (bytes), or -1. Permissions do not matter. */
  iovaToPhys(iova: number): number {
    if (iova >= 2 ** this.config.ias) return -1;
    const entry = this.#leafEntry(iova);
    if (entry < 0) return -1;
    const space = this.#memory.space;
    space.load64(entry);
    return this.#address(space.lo, space.hi) + (iova % 2 ** this.#leafShift);
  }

  #leafShift = GRANULE;

  /** Address of the leaf entry for `iova`, its size in `#leafShift`; -1 when nothing is mapped (then the hole's size). */
  #leafEntry(iova: number): number {
    const space = this.#memory.space;
    let entry = this.#rootEntry(iova);
    for (let level = this.startLevel; ; level++) {
      space.load64(entry);
      const lo = space.lo;
      this.#leafShift = shiftOf(level);
      if ((lo & 1) === 0) return -1;
      if (level === LAST || (lo & 3) !== TABLE) return entry;
      entry = this.#entryIn(this.#address(lo, space.hi), iova, level + 1);
    }
  }

  /**
   * Reports every dirty leaf that meets [iova, iova+bytes) and, unless `keep`, makes it clean again. Holes are skipped.
   * @returns leaves cleaned: their cached copies must be invalidated before the next write is seen.
   */
  readDirty(iova: number, bytes: number, keep: boolean, report: (iova: number, bytes: number) => void): number {
    const space = this.#memory.space;
    let cleaned = 0;
    for (let at = iova; at < iova + bytes; ) {
      const entry = this.#leafEntry(at);
      const size = 2 ** this.#leafShift;
      const start = at - (at % size);
      if (entry >= 0) {
        space.load64(entry);
        const { lo, hi } = space;
        if ((hi & S1_HI.DBM) !== 0 && (lo & S1_LO.AP2_READ_ONLY) === 0) {
          const from = Math.max(start, iova);
          report(from, Math.min(start + size, iova + bytes) - from);
          if (!keep) {
            space.store64(entry, lo | S1_LO.AP2_READ_ONLY, hi);
            cleaned++;
          }
        }
      }
      at = start + size;
    }
    return cleaned;
  }

  /** Gives every page back. The caches must have forgotten these tables. */
  destroy(): void {
    this.reclaim();
    const size = 2 ** shiftOf(this.startLevel);
    const entries = 2 ** this.config.ias / size;
    const space = this.#memory.space;
    for (let i = 0; i < entries; i++) {
      space.load64(this.root + 8 * i);
      const lo = space.lo;
      if (this.startLevel < LAST && (lo & 3) === TABLE) this.#retire(this.#address(lo, space.hi), this.startLevel + 1);
    }
    this.reclaim();
    this.#memory.free(this.root, this.#rootPages);
    this.#pages = 0;
  }
}
