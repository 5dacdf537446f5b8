import { TWO32 } from '../../core/bits.ts';
import { ACCESS } from '../../ports/dma.ts';
import type { Memory } from '../../ports/memory.ts';
import { FAULT } from '../../spec/vtd/faults.ts';
import {
  beyondWidth,
  levelIndex,
  type PagingLimits,
  SecondStageReserved,
  SS,
  vtdLevelShift,
} from '../../spec/vtd/paging.ts';
import { TableReader } from './table-reader.ts';

const RW = ACCESS.READ | ACCESS.WRITE;

/** A paging-structure cache: the last-level table of a 2 MiB region, and what the levels above it allow. */
export interface WalkCache {
  /** @returns false: not known. Else the fields are valid. */
  find(lo: number, hi: number): boolean;
  readonly tableLo: number;
  readonly tableHi: number;
  /** Four bits of the walker's. */
  readonly attr: number;
  keep(lo: number, hi: number, tableLo: number, tableHi: number, attr: number): void;
}

/**
 * The second-stage walk (VT-d §3.7): three to five levels, cumulative R and W, 2 MiB and 1 GiB leaves. Results are fields,
 * valid until the next walk. Nothing allocates.
 */
export class VtdSecondStage {
  /** Physical address of the byte. */
  out = 0;
  /** The same as words. */
  outLo = 0;
  outHi = 0;
  /** log2 bytes of the leaf. */
  shift = 0;
  /** READ and WRITE as the whole path grants them. */
  perm = 0;
  /** D is set, or the table has no such flag. */
  dirty = false;
  /** The leaf's SNP bit. */
  snp = false;
  /** Fault reason after a failed walk. */
  reason = 0;
  /** Level of the entry that decided. */
  level = 0;
  /** The failed walk lacked permission or presence (what a mapping would cure), nothing was malformed. */
  missing = false;
  /** Where walks start lower down; null: always at the top. */
  cache: WalkCache | null = null;
  readonly #memory: Memory;
  readonly #reader: TableReader;
  readonly #reserved: SecondStageReserved;

  constructor(memory: Memory, limits: PagingLimits) {
    this.#memory = memory;
    this.#reader = new TableReader(memory);
    this.#reserved = new SecondStageReserved(limits);
  }

  /**
   * @param ad SSADE: write A and D flags.
   * @param lo,hi input address. @param need READ and WRITE wanted.
   * @param scalable scalable-mode fault codes instead of legacy ones.
   * @returns whether the translation exists and grants `need`.
   */
  walk(root: number, levels: number, ad: boolean, lo: number, hi: number, need: number, scalable: boolean): boolean {
    if (beyondWidth(levels, hi)) return this.#fail(scalable ? FAULT.SS_BEYOND : FAULT.BEYOND_WIDTH, levels);
    const reader = this.#reader;
    const reserved = this.#reserved;
    const cache = this.cache;
    let tableLo = root | 0;
    let tableHi = (root / TWO32) | 0;
    let perm: number = RW;
    let level = levels;
    reader.begin();
    if (cache?.find(lo, hi)) {
      tableLo = cache.tableLo;
      tableHi = cache.tableHi;
      perm = cache.attr & RW;
      level = 1;
    }
    for (; ; level--) {
      const atLo = tableLo + 8 * levelIndex(level, lo, hi);
      const i = reader.at(atLo, tableHi);
      if (i < 0) return this.#unreadable(scalable, level, levels);
      const eLo = reader.words[i]!;
      const eHi = reader.words[i + 1]!;
      if ((eLo & RW) === 0) return this.#denied(scalable, level, 0, need);
      perm &= eLo;
      if (level !== 1 && (eLo & SS.PS) === 0) {
        if (((eLo & reserved.pointerLo[level]!) | (eHi & reserved.pointerHi)) !== 0) {
          return this.#fail(scalable ? FAULT.SS_RESERVED : FAULT.ENTRY_RESERVED, level);
        }
        if (ad && (eLo & SS.A) === 0 && !this.#store(atLo, tableHi, eLo | SS.A, eHi)) {
          return this.#fail(FAULT.SS_A, level);
        }
        tableLo = eLo & ~0xfff;
        tableHi = eHi & 0xf_ffff;
        if (level === 2 && cache !== null) cache.keep(lo, hi, tableLo, tableHi, perm);
        continue;
      }
      if (((eLo & reserved.leafLo[level]!) | (eHi & reserved.leafHi)) !== 0) {
        return this.#fail(scalable ? FAULT.SS_RESERVED : FAULT.ENTRY_RESERVED, level);
      }
      if ((need & ~perm) !== 0) return this.#denied(scalable, level, perm, need);
      this.dirty = true;
      if (ad) {
        const flags = (need & ACCESS.WRITE) !== 0 ? SS.A | SS.D : SS.A;
        if ((eLo & flags) !== flags && !this.#store(atLo, tableHi, eLo | flags, eHi)) {
          return this.#fail((need & ACCESS.WRITE) !== 0 ? FAULT.SS_D : FAULT.SS_A, level);
        }
        this.dirty = ((eLo | flags) & SS.D) !== 0;
      }
      const shift = vtdLevelShift(level);
      const offset = (1 << shift) - 1;
      this.outLo = (eLo & ~offset) | (lo & offset);
      this.outHi = eHi & 0xf_ffff;
      this.out = this.outHi * TWO32 + (this.outLo >>> 0);
      this.shift = shift;
      this.perm = perm;
      this.snp = (eLo & SS.SNP) !== 0;
      this.level = level;
      return true;
    }
  }

  #store(atLo: number, atHi: number, lo: number, hi: number): boolean {
    return this.#memory.store64(atHi * TWO32 + (atLo >>> 0), lo, hi);
  }

  #fail(reason: number, level: number): boolean {
    this.reason = reason;
    this.level = level;
    this.missing = false;
    return false;
  }

  /** Legacy mode reports an unreadable root table like a badly programmed context entry. */
  #unreadable(scalable: boolean, level: number, levels: number): boolean {
    if (level === levels) return this.#fail(scalable ? FAULT.SS_ROOT_UNREADABLE : FAULT.CONTEXT_INVALID, level);
    return this.#fail(scalable ? FAULT.SS_UNREADABLE : FAULT.TABLE_UNREADABLE, level);
  }

  /** @param perm what the path still grants. */
  #denied(scalable: boolean, level: number, perm: number, need: number): boolean {
    const write = (need & ACCESS.WRITE & ~perm) !== 0;
    if (!scalable) this.reason = write ? FAULT.WRITE : FAULT.READ;
    else if (perm === 0) this.reason = FAULT.SS_NONE;
    else this.reason = write ? FAULT.SM_WRITE : FAULT.SM_READ;
    this.level = level;
    this.missing = true;
    return false;
  }
}
