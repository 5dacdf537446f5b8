import { TWO32 } from '../../core/bits.ts';
import { ACCESS } from '../../ports/dma.ts';
import type { Memory } from '../../ports/memory.ts';
import { FAULT } from '../../spec/vtd/faults.ts';
import {
  beyondWidth,
  FirstStageReserved,
  FS,
  isCanonical,
  levelIndex,
  type PagingLimits,
  vtdLevelShift,
} from '../../spec/vtd/paging.ts';
import { PGTT } from '../../spec/vtd/tables.ts';
import { TableReader } from './table-reader.ts';
import { VTD_WALK_ARCHITECTURE, type VtdWalkChoices } from './vtd-choices.ts';
import type { VtdRegime } from './vtd-regime.ts';
import { VtdSecondStage, type WalkCache } from './vtd-second.ts';

const RW = ACCESS.READ | ACCESS.WRITE;
/** In a WalkCache's attr, beside FS.RW and FS.US of the levels above: the table's flags may be written. */
const TABLE_WRITABLE = 8;

/** Whether a physical address lies in the interrupt window 0xFEE0_0000 to 0xFEEF_FFFF. */
export function inInterruptWindow(lo: number, hi: number): boolean {
  return hi === 0 && lo >>> 20 === 0xfee;
}

/** What a first stage grants. @param granted R/W and U/S of the whole path. WPE=0: a privileged write passes over read-only. */
function firstPerm(r: VtdRegime, granted: number, priv: boolean): number {
  return (granted & FS.RW) !== 0 || (priv && !r.wpe) ? RW : ACCESS.READ;
}

/** Why the entries so far forbid an access. @param perm what they grant (`firstPerm`). @returns 0: they do not. */
function refusalOf(granted: number, need: number, priv: boolean, perm: number): number {
  if (!priv && (granted & FS.US) === 0) return FAULT.US;
  return (need & ~perm) !== 0 ? FAULT.SM_WRITE : 0;
}

/**
 * One address through everything a regime says: first stage, second stage, both nested, or pass-through (VT-d §3.6 to
 * §3.8). Works on host memory for the hardware and on guest memory for a device model that decides a record or fills a
 * shadow. Results are fields, valid until the next walk; nothing allocates.
 */
export class VtdWalker {
  /** Physical address of the byte; the same as words. */
  out = 0;
  outLo = 0;
  outHi = 0;
  /** log2 bytes for which the translation holds. */
  shift = 0;
  /** READ and WRITE as granted to a request of this privilege. */
  perm = 0;
  /** The same for user and for privileged requests, to be cached. */
  userPerm = 0;
  privPerm = 0;
  /** A later write through this translation sets no flag: D is set (or does not exist) in every stage. */
  dirty = false;
  /** log2 bytes of the first-stage leaf; 0 when no first stage took part. */
  firstShift = 0;
  /** The second-stage leaf's SNP bit. */
  snp = false;
  /** Fault reason after a failed walk, in the codes of the regime's mode. */
  reason = 0;
  /** After a failure: the second stage lacked a mapping or a permission. Then `ipa`, `ipaAccess` say which. */
  secondMissing = false;
  /** Second-stage input address of the failure, rounded down to its 4 KiB page (exact up to 57 bits). */
  ipa = 0;
  ipaAccess = 0;
  readonly second: VtdSecondStage;
  /** After a failure in a first stage: physical address of the table whose entry decided. */
  get table(): number {
    return this.#tableHi * TWO32 + (this.#tableLo >>> 0);
  }
  /** Where first-stage walks start lower down; null: always at the top. `second.cache` is the second stage's. */
  cache: WalkCache | null = null;
  readonly #memory: Memory;
  readonly #reader: TableReader;
  readonly #reserved: FirstStageReserved;
  readonly #haw: number;
  readonly #choices: VtdWalkChoices;
  /** Where the first-stage table lies in physical memory, and whether an update of it is allowed. */
  #tableLo = 0;
  #tableHi = 0;
  #tableWritable = true;

  /** @param choices what the unit leaves in memory; default: what the architecture says. */
  constructor(memory: Memory, limits: PagingLimits, choices: VtdWalkChoices = VTD_WALK_ARCHITECTURE) {
    this.#memory = memory;
    this.#choices = choices;
    this.#reader = new TableReader(memory);
    this.second = new VtdSecondStage(memory, limits);
    this.#reserved = new FirstStageReserved(limits);
    this.#haw = limits.haw;
  }

  /**
   * @param lo,hi input address. @param access ACCESS bits; EXEC counts as a read (execute permission does not exist in
   *   revision 5), PRIV selects supervisor rules in the first stage. Neither READ nor WRITE: only presence is judged.
   * @returns whether the request is granted.
   */
  walk(r: VtdRegime, lo: number, hi: number, access: number): boolean {
    this.secondMissing = false;
    const need = (access & RW) | ((access >>> 2) & ACCESS.READ);
    switch (r.pgtt) {
      case PGTT.FIRST:
      case PGTT.NESTED:
        return this.#first(r, lo, hi, need, (access & ACCESS.PRIV) !== 0) && this.#window(r);
      case PGTT.SECOND:
        return this.#plainSecond(r, lo, hi, need) && this.#window(r);
      default:
        return this.#passThrough(r, lo, hi);
    }
  }

  #plainSecond(r: VtdRegime, lo: number, hi: number, need: number): boolean {
    const s = this.second;
    if (!s.walk(r.secondRoot, r.secondLevels, r.ssade, lo, hi, need, r.scalable)) {
      if (s.missing) this.#missed(lo, hi, need);
      this.reason = s.reason;
      return false;
    }
    this.out = s.out;
    this.outLo = s.outLo;
    this.outHi = s.outHi;
    this.shift = s.shift;
    this.perm = this.userPerm = this.privPerm = s.perm;
    this.dirty = s.dirty;
    this.snp = s.snp;
    this.firstShift = 0;
    return true;
  }

  #missed(lo: number, hi: number, need: number): void {
    this.secondMissing = true;
    this.ipa = hi * TWO32 + ((lo & ~0xfff) >>> 0);
    this.ipaAccess = need;
  }

  #first(r: VtdRegime, lo: number, hi: number, need: number, priv: boolean): boolean {
    if (!isCanonical(r.firstBits, lo, hi)) return this.#fail(FAULT.NON_CANONICAL);
    const reader = this.#reader;
    const nested = r.pgtt === PGTT.NESTED;
    const cache = this.cache;
    /** The table's address as the entry above gives it; `#tableLo`, `#tableHi` are where it is in memory. */
    let tableLo = r.firstRoot | 0;
    let tableHi = (r.firstRoot / TWO32) | 0;
    let granted: number = FS.RW | FS.US;
    let level = r.firstLevels;
    let found = false;
    reader.begin();
    if (cache?.find(lo, hi)) {
      this.#tableLo = cache.tableLo;
      this.#tableHi = cache.tableHi;
      this.#tableWritable = (cache.attr & TABLE_WRITABLE) !== 0;
      granted = cache.attr & (FS.RW | FS.US);
      level = 1;
      found = true;
    }
    for (; ; level--) {
      const root = level === r.firstLevels;
      if (found) found = false;
      else if (nested) {
        if (!this.#tableThroughSecond(r, tableLo, tableHi, root)) return false;
        if (level === 1 && cache !== null) {
          const writable = this.#tableWritable ? TABLE_WRITABLE : 0;
          cache.keep(lo, hi, this.#tableLo, this.#tableHi, granted | writable);
        }
      } else {
        this.#tableLo = tableLo;
        this.#tableHi = tableHi;
        this.#tableWritable = true;
        if (level === 1 && cache !== null) cache.keep(lo, hi, tableLo, tableHi, granted | TABLE_WRITABLE);
      }
      const atLo = this.#tableLo + 8 * levelIndex(level, lo, hi);
      const atHi = this.#tableHi;
      const i = reader.at(atLo, atHi);
      if (i < 0) return this.#fail(root ? FAULT.FS_ROOT_UNREADABLE : FAULT.FS_UNREADABLE);
      const eLo = reader.words[i]!;
      const eHi = reader.words[i + 1]!;
      if ((eLo & FS.P) === 0) return this.#fail(FAULT.FS_P);
      const leaf = level === 1 || (eLo & FS.PS) !== 0;
      if (((eHi & this.#reserved.hi) | (leaf ? eLo & this.#reserved.leafLo[level]! : 0)) !== 0) {
        return this.#fail(FAULT.FS_RESERVED);
      }
      granted &= eLo;
      if (!leaf) {
        if (this.#choices.permissionAtEachLevel) {
          const refusal = refusalOf(granted, need, priv, firstPerm(r, granted, priv));
          if (refusal !== 0) return this.#fail(refusal);
        }
        if (!this.#flags(r, atLo, atHi, eLo, eHi, FS.A, tableLo, tableHi)) return false;
        tableLo = eLo & ~0xfff;
        tableHi = eHi & 0xf_ffff;
        continue;
      }
      const perm = firstPerm(r, granted, priv);
      const refusal = refusalOf(granted, need, priv, perm);
      if (refusal !== 0) return this.#fail(refusal);
      const shift = vtdLevelShift(level);
      const offset = (1 << shift) - 1;
      const pageLo = (eLo & ~offset) | (lo & offset);
      const pageHi = eHi & 0xf_ffff;
      if (nested) {
        if (beyondWidth(r.secondLevels, pageHi)) return this.#fail(FAULT.FS_ADDRESS);
        if (!this.#plainSecond(r, pageLo, pageHi, need)) return false;
        if (shift < this.shift) this.shift = shift;
      } else {
        this.out = pageHi * TWO32 + (pageLo >>> 0);
        this.outLo = pageLo;
        this.outHi = pageHi;
        this.shift = shift;
        this.perm = RW;
        this.dirty = true;
        this.snp = false;
      }
      let flags = (need & ACCESS.WRITE) !== 0 ? FS.A | FS.D : FS.A;
      if (this.#choices.leafFlagsTogether && (eLo & flags) !== 0) flags = 0;
      this.#grant(r, granted, perm);
      this.dirty &&= ((eLo | flags) & FS.D) !== 0;
      this.firstShift = shift;
      return this.#flags(r, atLo, atHi, eLo, eHi, flags, tableLo, tableHi);
    }
  }

  /** Combines what the second stage left in `perm` with the first stage's R/W and U/S. @param perm of this privilege. */
  #grant(r: VtdRegime, granted: number, perm: number): void {
    const second = this.perm;
    const write = (granted & FS.RW) !== 0 ? RW : ACCESS.READ;
    this.userPerm = (granted & FS.US) !== 0 ? write & second : 0;
    this.privPerm = (r.wpe ? write : RW) & second;
    this.perm = perm & second;
  }

  /** Finds a first-stage table (guest-physical `lo`, `hi`) in host memory. Reads need read permission there (§3.8). */
  #tableThroughSecond(r: VtdRegime, lo: number, hi: number, root: boolean): boolean {
    if (beyondWidth(r.secondLevels, hi)) return this.#fail(root ? FAULT.PASID_INVALID : FAULT.FS_ADDRESS);
    const s = this.second;
    // With second-stage A/D flags a read of a paging structure counts as a write.
    const need = r.ssade ? RW : ACCESS.READ;
    if (!s.walk(r.secondRoot, r.secondLevels, r.ssade, lo, hi, need, true)) {
      if (s.missing) this.#missed(lo, hi, need);
      const partly = s.missing && s.reason !== FAULT.SS_NONE;
      return this.#fail(partly ? (root ? FAULT.FS_ROOT_SECOND_READ : FAULT.FS_SECOND_READ) : s.reason);
    }
    this.#tableLo = s.outLo;
    this.#tableHi = s.outHi;
    this.#tableWritable = (s.perm & ACCESS.WRITE) !== 0;
    return true;
  }

  /** Sets A, D and EA of the entry at physical `atLo`, `atHi`, when they are not set yet. */
  #flags(
    r: VtdRegime,
    atLo: number,
    atHi: number,
    eLo: number,
    eHi: number,
    flags: number,
    tableLo: number,
    tableHi: number,
  ): boolean {
    const all = r.eafe ? flags | FS.EA : flags;
    if ((eLo & all) === all) return true;
    if (!this.#tableWritable) {
      this.#missed(tableLo, tableHi, RW);
      return this.#fail(FAULT.FS_SECOND_WRITE);
    }
    return this.#memory.store64(atHi * TWO32 + (atLo >>> 0), eLo | all, eHi) || this.#fail(FAULT.FS_UPDATE);
  }

  #passThrough(r: VtdRegime, lo: number, hi: number): boolean {
    const beyond = this.#haw >= 64 ? false : hi >>> (this.#haw - 32) !== 0;
    if (beyond) return this.#fail(r.scalable ? FAULT.PT_BEYOND : FAULT.BEYOND_WIDTH);
    if (inInterruptWindow(lo, hi)) return this.#fail(r.scalable ? FAULT.SM_INTERRUPT : FAULT.INTERRUPT_OUTPUT);
    this.out = hi * TWO32 + (lo >>> 0);
    this.outLo = lo;
    this.outHi = hi;
    this.shift = 12;
    this.perm = this.userPerm = this.privPerm = RW;
    this.dirty = true;
    this.snp = false;
    this.firstShift = 0;
    return true;
  }

  /** An output in the interrupt window is refused; a larger page around the window must not be cached whole. */
  #window(r: VtdRegime): boolean {
    const out = this.out;
    if (out >= 0xfee0_0000 && out < 0xfef0_0000) {
      return this.#fail(r.scalable || r.pgtt !== PGTT.SECOND ? FAULT.SM_INTERRUPT : FAULT.INTERRUPT_OUTPUT);
    }
    if (this.shift > 12 && out < TWO32 && out >>> this.shift === 0xfee0_0000 >>> this.shift) this.shift = 12;
    return true;
  }

  #fail(reason: number): boolean {
    this.reason = reason;
    return false;
  }
}
