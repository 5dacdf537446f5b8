import { hiWord, loWord, TWO32 } from '../../../core/bits.ts';
import type { Memory } from '../../../ports/memory.ts';
import { FS, SS } from '../../../spec/vtd/paging.ts';
import type { PageAllocator } from '../page-allocator.ts';

export interface VtdPageTableConfig {
  readonly stage: 'first' | 'second';
  readonly levels: number;
  /** Largest leaf: level 1 (4 KiB) to 3 (1 GiB). */
  readonly largest: number;
}

/** Leaf and pointer bits by stage. */
const POINTER = { first: FS.P | FS.RW | FS.US, second: SS.R | SS.W } as const;
const PRESENT = { first: FS.P, second: SS.R | SS.W } as const;
const PAGE = 4096;

/**
 * One stage's page table in host memory, as the kernel's VT-d driver keeps it: the largest leaves that fit, tables given
 * back when their last entry goes. Positions are page numbers (exact up to 57 bits of address). Nothing here invalidates a
 * cache; the owner does that after `unmap`, before `reclaim`.
 */
export class VtdPageTable {
  readonly config: VtdPageTableConfig;
  /** Host-physical address of the top table. */
  readonly root: number;
  readonly #memory: PageAllocator;
  readonly #space: Memory;
  readonly #pointer: number;
  readonly #present: number;
  /** Entries in use by table. */
  readonly #live = new Map<number, number>();
  readonly #retired: number[] = [];
  /** Tables on the way to the entry last found, by level. */
  readonly #path = new Float64Array(6);

  private constructor(memory: PageAllocator, config: VtdPageTableConfig, root: number) {
    this.config = config;
    this.root = root;
    this.#memory = memory;
    this.#space = memory.space;
    this.#pointer = POINTER[config.stage];
    this.#present = PRESENT[config.stage];
    this.#live.set(root, 0);
  }

  /** @returns null when no page is left. */
  static create(memory: PageAllocator, config: VtdPageTableConfig): VtdPageTable | null {
    const root = memory.allocate();
    return root < 0 ? null : new VtdPageTable(memory, config, root);
  }

  /** 4 KiB pages the tables occupy, retired ones included until `reclaim`. */
  get pages(): number {
    return this.#live.size + this.#retired.length;
  }

  /** Tables left the tree since the last `reclaim`. */
  get retired(): boolean {
    return this.#retired.length > 0;
  }

  /**
   * Maps `pages` pages from page `pfn` on to `hpa` on. Nothing may be mapped there.
   * @param bits leaf bits below 12, PS excluded.
   * @returns pages mapped; fewer than asked: out of memory.
   */
  map(pfn: number, hpa: number, pages: number, bits: number): number {
    let done = 0;
    while (done < pages) {
      const at = pfn + done;
      const to = hpa / PAGE + done;
      const level = this.#leafLevel(at, to, pages - done);
      const table = this.#descend(at, level);
      if (table < 0) {
        this.#prune(at);
        break;
      }
      const unit = 512 ** (level - 1);
      const first = Math.floor(at / unit) % 512;
      const count = Math.min(512 - first, Math.floor((pages - done) / unit));
      const leaf = level > 1 ? bits | SS.PS : bits;
      for (let i = 0; i < count; i++) {
        const out = (to + i * unit) * PAGE;
        this.#space.store64(table + 8 * (first + i), loWord(out) | leaf, hiWord(out));
      }
      this.#live.set(table, this.#live.get(table)! + count);
      done += count * unit;
    }
    return done;
  }

  #leafLevel(pfn: number, to: number, left: number): number {
    for (let level = this.config.largest; level > 1; level--) {
      const unit = 512 ** (level - 1);
      if (pfn % unit === 0 && to % unit === 0 && left >= unit) return level;
    }
    return 1;
  }

  /** The table of `level` that holds page `pfn`; missing ones are made. @returns -1: out of memory. */
  #descend(pfn: number, level: number): number {
    let table = this.root;
    for (let l = this.config.levels; l > level; l--) {
      const entry = table + 8 * (Math.floor(pfn / 512 ** (l - 1)) % 512);
      this.#space.load64(entry);
      if ((this.#space.lo & this.#present) !== 0) {
        table = address(this.#space);
        continue;
      }
      const made = this.#memory.allocate();
      if (made < 0) return -1;
      this.#live.set(made, 0);
      this.#live.set(table, this.#live.get(table)! + 1);
      this.#space.store64(entry, loWord(made) | this.#pointer, hiWord(made));
      table = made;
    }
    return table;
  }

  /** The leaf entry of page `pfn`, or -1; `#path` holds the tables above, `leafLevel` says which level decided. */
  #leaf(pfn: number): number {
    let table = this.root;
    for (let level = this.config.levels; ; level--) {
      this.#path[level] = table;
      this.#leafAt = level;
      const entry = table + 8 * (Math.floor(pfn / 512 ** (level - 1)) % 512);
      this.#space.load64(entry);
      const lo = this.#space.lo;
      if ((lo & this.#present) === 0) return -1;
      if (level === 1 || (lo & SS.PS) !== 0) return entry;
      table = address(this.#space);
    }
  }
  #leafAt = 1;

  /** Clears every leaf that meets [pfn, pfn + pages). @returns pages cleared. */
  unmap(pfn: number, pages: number): number {
    const end = pfn + pages;
    let cleared = 0;
    for (let at = pfn; at < end; ) {
      const entry = this.#leaf(at);
      const unit = 512 ** (this.#leafAt - 1);
      const next = (Math.floor(at / unit) + 1) * unit;
      if (entry >= 0) {
        this.#space.store64(entry, 0, 0);
        cleared += unit;
        this.#leave(at, this.#leafAt);
      }
      at = next;
    }
    return cleared;
  }

  /** One entry of the table at `level` on the path is gone; empty tables leave the tree upwards. */
  #leave(pfn: number, level: number): void {
    for (let l = level; ; l++) {
      const table = this.#path[l]!;
      const left = this.#live.get(table)! - 1;
      this.#live.set(table, left);
      if (left > 0 || l === this.config.levels) return;
      this.#live.delete(table);
      this.#retired.push(table);
      this.#space.store64(this.#path[l + 1]! + 8 * (Math.floor(pfn / 512 ** l) % 512), 0, 0);
    }
  }

  /** Takes tables away that were made on the way to `pfn` and hold nothing. */
  #prune(pfn: number): void {
    this.#leaf(pfn);
    const table = this.#path[this.#leafAt]!;
    if (this.#live.get(table) !== 0 || table === this.root) return;
    this.#live.set(table, 1);
    this.#leave(pfn, this.#leafAt);
  }

  /** Gives retired tables back. The caches must have forgotten them. */
  reclaim(): void {
    for (const table of this.#retired) this.#memory.free(table);
    this.#retired.length = 0;
  }

  /** @param iova bytes. @returns host-physical address of the byte, or -1. */
  lookup(iova: bigint): number {
    const entry = this.#leaf(Number(iova >> 12n));
    if (entry < 0) return -1;
    this.#space.load64(entry);
    const bytes = 512 ** (this.#leafAt - 1) * PAGE;
    const base = address(this.#space);
    return base - (base % bytes) + Number(iova % BigInt(bytes));
  }

  /**
   * Reports every second-stage leaf with D in [pfn, pfn + pages) and, unless `keep`, clears D.
   * @returns leaves cleaned: their cached copies must go before the next write is seen.
   */
  readDirty(pfn: number, pages: number, keep: boolean, report: (pfn: number, pages: number) => void): number {
    const end = pfn + pages;
    let cleaned = 0;
    for (let at = pfn; at < end; ) {
      const entry = this.#leaf(at);
      const unit = 512 ** (this.#leafAt - 1);
      const start = Math.floor(at / unit) * unit;
      if (entry >= 0) {
        this.#space.load64(entry);
        const { lo, hi } = this.#space;
        if ((lo & SS.D) !== 0) {
          const from = Math.max(start, pfn);
          report(from, Math.min(start + unit, end) - from);
          if (!keep) {
            this.#space.store64(entry, lo & ~SS.D, hi);
            cleaned++;
          }
        }
      }
      at = start + unit;
    }
    return cleaned;
  }

  /** Gives every page back. The caches must have forgotten these tables. */
  destroy(): void {
    this.reclaim();
    for (const table of this.#live.keys()) this.#memory.free(table);
    this.#live.clear();
  }
}

/** Bits [51:12] of the entry just loaded. */
function address(space: Memory): number {
  return (space.hi & 0xf_ffff) * TWO32 + ((space.lo & ~0xfff) >>> 0);
}
