import type { VtdRegime } from '../../../src/lib/walk/vtd-regime.ts';
import { ACCESS } from '../../../src/ports/dma.ts';
import type { Memory } from '../../../src/ports/memory.ts';
import { FAULT } from '../../../src/spec/vtd/faults.ts';
import {
  beyondWidth,
  FirstStageReserved,
  FS,
  isCanonical,
  levelIndex,
  type PagingLimits,
  SecondStageReserved,
  SS,
} from '../../../src/spec/vtd/paging.ts';
import { PGTT, pointer } from '../../../src/spec/vtd/tables.ts';

/**
 * Why QEMU 11.1 refuses an access that hardware refused: it judges permissions at every level, before the reserved bits of
 * the entry, where the architecture looks at presence, reserved bits and the permissions of the whole path. Decides
 * reasons only, and writes no accessed flags.
 */
export class QemuWalk {
  readonly #memory: Memory;
  readonly #second: SecondStageReserved;
  readonly #first: FirstStageReserved;

  constructor(memory: Memory, limits: PagingLimits) {
    this.#memory = memory;
    this.#second = new SecondStageReserved(limits);
    this.#first = new FirstStageReserved(limits);
  }

  /** @returns the reason, or 0: nothing is wrong with the tables. */
  reason(r: VtdRegime, lo: number, hi: number, access: number): number {
    if (r.pgtt === PGTT.FIRST) return this.#firstStage(r, lo, hi, access);
    return r.pgtt === PGTT.SECOND ? this.#secondStage(r, lo, hi, access) : 0;
  }

  #secondStage(r: VtdRegime, lo: number, hi: number, access: number): number {
    if (beyondWidth(r.secondLevels, hi)) return FAULT.BEYOND_WIDTH;
    const write = (access & ACCESS.WRITE) !== 0;
    let table = r.secondRoot;
    for (let level = r.secondLevels; ; level--) {
      if (!this.#memory.load64(table + 8 * levelIndex(level, lo, hi))) {
        return level === r.secondLevels ? FAULT.CONTEXT_INVALID : FAULT.TABLE_UNREADABLE;
      }
      const eLo = this.#memory.lo;
      const eHi = this.#memory.hi;
      if ((eLo & (write ? SS.W : SS.R)) === 0) return write ? FAULT.WRITE : FAULT.READ;
      const leaf = level === 1 || (eLo & SS.PS) !== 0;
      const badLo = leaf ? this.#second.leafLo[level]! : this.#second.pointerLo[level]!;
      const badHi = leaf ? this.#second.leafHi : this.#second.pointerHi;
      if (((eLo & badLo) | (eHi & badHi)) !== 0) return FAULT.ENTRY_RESERVED;
      if (leaf) return 0;
      table = pointer(eLo, eHi);
    }
  }

  #firstStage(r: VtdRegime, lo: number, hi: number, access: number): number {
    if (!isCanonical(r.firstBits, lo, hi)) return FAULT.NON_CANONICAL;
    const write = (access & ACCESS.WRITE) !== 0;
    let table = r.firstRoot;
    for (let level = r.firstLevels; ; level--) {
      if (!this.#memory.load64(table + 8 * levelIndex(level, lo, hi))) {
        return level === r.firstLevels ? FAULT.FS_ROOT_UNREADABLE : FAULT.FS_UNREADABLE;
      }
      const eLo = this.#memory.lo;
      const eHi = this.#memory.hi;
      if ((eLo & FS.P) === 0) return FAULT.FS_P;
      if ((eLo & FS.US) === 0) return FAULT.US;
      if (write && (eLo & FS.RW) === 0) return FAULT.SM_WRITE;
      const leaf = level === 1 || (eLo & FS.PS) !== 0;
      if (((eHi & this.#first.hi) | (leaf ? eLo & this.#first.leafLo[level]! : 0)) !== 0) return FAULT.FS_RESERVED;
      if (leaf) return 0;
      table = pointer(eLo, eHi);
    }
  }
}
