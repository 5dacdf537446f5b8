import { hiWord, loWord } from '../../../core/bits.ts';
import type { Memory } from '../../../ports/memory.ts';

/** What the kernel's page allocator offers: zeroed 4 KiB pages in host-physical memory. */
export interface PageAllocator {
  readonly space: Memory;
  /** `count` contiguous pages, aligned to their size. @returns host-physical address, or −1. */
  allocate(count?: number): number;
  free(hpa: number, count?: number): void;
}

/** Protection of a mapping. CACHE is what iommufd always asks for; MMIO marks doorbell pages. */
export const PROT = { READ: 1, WRITE: 2, CACHE: 4, NOEXEC: 8, MMIO: 16, PRIV: 32 } as const;

export interface IoPgtableConfig {
  readonly stage: 1 | 2;
  /** Input address bits (stage 2: the IPA size), 32..48. */
  readonly ias: number;
  /** Output address bits. */
  readonly oas: number;
  /** Stage 2 with STE.S2FWB: MemAttr is read as a forced write-back. */
  readonly fwb?: boolean;
  /** Stage 1 with CD.HD: writable entries carry DBM, so the hardware clears AP[2] on the first write. */
  readonly dirty?: boolean;
}

const GRANULE = 12;
const STRIDE = 9;
const LAST = 3;
/** Start tables of stage 2 are concatenated up to this many (VMSAv8-64, DDI 0487 D8.2). */
const MAX_CONCATENATED = 16;
/** High word of an output address field, bits [47:32]. */
const HI_ADDR = 0xffff;
const TABLE = 3;
const BLOCK = 1;
const AF = 1 << 10;
const SH_OUTER = 2 << 8;
const SH_INNER = 3 << 8;
const NON_GLOBAL = 1 << 11;
const AP_UNPRIV = 1 << 6;
const AP_RDONLY = 1 << 7;
const DBM_HI = 1 << 19;
const XN_HI = 3 << 21;

const ATTR_STAGE1 = { NC: 0, CACHE: 1 << 2, DEVICE: 2 << 2 } as const;
const ATTR_STAGE2 = { NC: 5 << 2, CACHE: 0xf << 2, DEVICE: 1 << 2, FORCED: 6 << 2 } as const;

/** log2 bytes one entry of `level` covers. */
function shiftOf(level: number): number {
  return GRANULE + STRIDE * (LAST - level);
}

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
export class IoPgtable {
  readonly config: IoPgtableConfig;
  readonly startLevel: number;
  /** Host-physical address of the start table (TTB). */
  readonly root: number;
  readonly #memory: PageAllocator;
  readonly #rootPages: number;
  #pages: number;
  /** Tables that left the tree in the current `unmap`; freed by `reclaim`, after the caches were told. */
  readonly #retired: number[] = [];

  private constructor(memory: PageAllocator, config: IoPgtableConfig, root: number, level: number, pages: number) {
    this.config = config;
    this.startLevel = level;
    this.root = root;
    this.#memory = memory;
    this.#rootPages = pages;
    this.#pages = pages;
  }

  /** @returns null when no page is left (ENOMEM). */
  static create(memory: PageAllocator, config: IoPgtableConfig): IoPgtable | null {
    const start = startTable(config.stage, config.ias);
    const root = memory.allocate(start.pages);
    return root < 0 ? null : new IoPgtable(memory, config, root, start.level, start.pages);
  }

  /** 4 KiB pages the tables occupy, retired ones included until `reclaim`. */
  get pages(): number {
    return this.#pages;
  }

  /**
   * Maps [iova, iova+bytes) to [hpa, …), all multiples of 4 KiB, with the largest blocks that fit. Nothing may be mapped there.
   * @returns bytes mapped: less than asked when memory ran out, or at something already mapped.
   */
  map(iova: number, hpa: number, bytes: number, prot: number): number {
    const attrs = this.#attributes(prot);
    const attrsHi = this.#attributesHigh(prot);
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

  /** An entry in the way of a block: a table without a leaf gives way, anything else stays. */
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

  /** Host-physical address of the entry for `iova` at `level`, tables made on the way. @returns −1: memory out or a block there. */
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
    return (hi & HI_ADDR) * 2 ** 32 + ((lo & ~0xfff) >>> 0);
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

  /** Replaces a block by a table of the next level that says the same. @returns the table, or −1. */
  #split(entry: number, level: number, lo: number, hi: number): number {
    const table = this.#memory.allocate();
    if (table < 0) return -1;
    this.#pages++;
    const space = this.#memory.space;
    const out = this.#address(lo, hi);
    const size = 2 ** shiftOf(level + 1);
    const attrs = (lo & 0xffc) | (level + 1 === LAST ? TABLE : BLOCK);
    for (let i = 0; i < 2 ** STRIDE; i++) {
      space.store64(table + 8 * i, loWord(out + i * size) | attrs, hiWord(out + i * size) | (hi & ~HI_ADDR));
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

  /** Host-physical address behind `iova` (bytes), or −1. Permissions do not matter. */
  iovaToPhys(iova: number): number {
    if (iova >= 2 ** this.config.ias) return -1;
    const entry = this.#leafEntry(iova);
    if (entry < 0) return -1;
    const space = this.#memory.space;
    space.load64(entry);
    return this.#address(space.lo, space.hi) + (iova % 2 ** this.#leafShift);
  }

  #leafShift = GRANULE;

  /** Address of the leaf entry for `iova`, its size in `#leafShift`; −1 when nothing is mapped (then the hole's size). */
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
        if ((hi & DBM_HI) !== 0 && (lo & AP_RDONLY) === 0) {
          const from = Math.max(start, iova);
          report(from, Math.min(start + size, iova + bytes) - from);
          if (!keep) {
            space.store64(entry, lo | AP_RDONLY, hi);
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

  #attributes(prot: number): number {
    const share = AF | ((prot & PROT.CACHE) !== 0 ? SH_INNER : SH_OUTER);
    if (this.config.stage === 2) {
      const access = ((prot & PROT.READ) !== 0 ? 1 << 6 : 0) | ((prot & PROT.WRITE) !== 0 ? 1 << 7 : 0);
      const cached = this.config.fwb === true ? ATTR_STAGE2.FORCED : ATTR_STAGE2.CACHE;
      return share | access | pick(prot, ATTR_STAGE2.DEVICE, cached, ATTR_STAGE2.NC);
    }
    const readOnly = (prot & PROT.WRITE) === 0 && (prot & PROT.READ) !== 0 ? AP_RDONLY : 0;
    const user = (prot & PROT.PRIV) === 0 ? AP_UNPRIV : 0;
    const attr = pick(prot, ATTR_STAGE1.DEVICE, ATTR_STAGE1.CACHE, ATTR_STAGE1.NC);
    return share | NON_GLOBAL | readOnly | user | attr;
  }

  #attributesHigh(prot: number): number {
    const never = (prot & PROT.NOEXEC) !== 0 ? XN_HI : 0;
    const dbm = this.config.stage === 1 && this.config.dirty === true && (prot & PROT.WRITE) !== 0 ? DBM_HI : 0;
    return never | dbm;
  }
}

function pick(prot: number, device: number, cached: number, plain: number): number {
  if ((prot & PROT.MMIO) !== 0) return device;
  return (prot & PROT.CACHE) !== 0 ? cached : plain;
}
