import { ACCESS } from '../../ports/dma.ts';
import type { Memory } from '../../ports/memory.ts';
import { FAULT } from '../../spec/vtd/faults.ts';
import {
  beyondWidth,
  levelIndex,
  levelShift,
  type PagingLimits,
  SecondStageReserved,
  SS,
} from '../../spec/vtd/paging.ts';

const RW = ACCESS.READ | ACCESS.WRITE;

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
  readonly #memory: Memory;
  readonly #reserved: SecondStageReserved;

  constructor(memory: Memory, limits: PagingLimits) {
    this.#memory = memory;
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
    const memory = this.#memory;
    const reserved = this.#reserved;
    let table = root;
    let perm = RW;
    for (let level = levels; ; level--) {
      const i = levelIndex(level, lo, hi);
      let eLo: number;
      let eHi: number;
      if (memory.locate(table)) {
        const at = memory.index + 2 * i;
        eLo = memory.words[at]!;
        eHi = memory.words[at + 1]!;
      } else {
        if (!memory.load64(table + 8 * i)) return this.#unreadable(scalable, level, levels);
        eLo = memory.lo;
        eHi = memory.hi;
      }
      if ((eLo & RW) === 0) return this.#denied(scalable, level, 0, need);
      perm &= eLo;
      if (level !== 1 && (eLo & SS.PS) === 0) {
        if (((eLo & reserved.pointerLo[level]!) | (eHi & reserved.pointerHi)) !== 0) {
          return this.#fail(scalable ? FAULT.SS_RESERVED : FAULT.ENTRY_RESERVED, level);
        }
        if (ad && (eLo & SS.A) === 0 && !memory.store64(table + 8 * i, eLo | SS.A, eHi)) {
          return this.#fail(FAULT.SS_A, level);
        }
        table = (eHi & 0xf_ffff) * 0x1_0000_0000 + ((eLo & ~0xfff) >>> 0);
        continue;
      }
      if (((eLo & reserved.leafLo[level]!) | (eHi & reserved.leafHi)) !== 0) {
        return this.#fail(scalable ? FAULT.SS_RESERVED : FAULT.ENTRY_RESERVED, level);
      }
      if ((need & ~perm) !== 0) return this.#denied(scalable, level, perm, need);
      this.dirty = true;
      if (ad) {
        const flags = (need & ACCESS.WRITE) !== 0 ? SS.A | SS.D : SS.A;
        if ((eLo & flags) !== flags && !memory.store64(table + 8 * i, eLo | flags, eHi)) {
          return this.#fail((need & ACCESS.WRITE) !== 0 ? FAULT.SS_D : FAULT.SS_A, level);
        }
        this.dirty = ((eLo | flags) & SS.D) !== 0;
      }
      const shift = levelShift(level);
      const offset = (1 << shift) - 1;
      this.outLo = (eLo & ~offset) | (lo & offset);
      this.outHi = eHi & 0xf_ffff;
      this.out = this.outHi * 0x1_0000_0000 + (this.outLo >>> 0);
      this.shift = shift;
      this.perm = perm;
      this.snp = (eLo & SS.SNP) !== 0;
      this.level = level;
      return true;
    }
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
