import { TWO32 } from '../../core/bits.ts';
import type { Memory } from '../../ports/memory.ts';
import { blockAllowed, DESC_TYPE, S1_HI, S1_LO, TABLE_HI } from '../../spec/smmuv3/descriptors.ts';
import { CLASS, EVENT } from '../../spec/smmuv3/events.ts';
import type { Iotlb } from '../cache/iotlb.ts';
import type { Context } from '../cache/tags.ts';
import { PERM_ALL, PERM_EXEC, PERM_READ, PERM_WRITE, type Stage1Regime, type Stage2Regime } from './vmsa-regime.ts';
import { index, joined, lowBits, outputAddress, Stage2Walker } from './vmsa-stage2.ts';

/** Hierarchical attribute bits of table descriptors, as the walker collects them (word hi, bits 30:27). */
const HIERARCHY = TABLE_HI.PXN | TABLE_HI.UXN | TABLE_HI.AP0_NO_UNPRIV | TABLE_HI.AP1_READ_ONLY;
const HIERARCHY_SHIFT = 27;
const READ = PERM_READ & 7;
const WRITE = PERM_WRITE & 7;
/** Cache attribute of a stage-2 entry: device memory. */
export const ATTR_DEVICE = 1;

/**
 * VMSAv8-64 stage 1, alone or nested in stage 2: every table access of stage 1 goes through stage 2, and so does the
 * result. One instance serves one memory; nothing is allocated; results are fields, valid until the next call.
 *
 * The same walker serves the physical IOMMU (memory: host-physical) and a device model that must say which fault a guest
 * sees (memory: guest-physical, stage 2 the guest's own or absent).
 */
export class VmsaWalker {
  readonly #memory: Memory;
  readonly #s2: Stage2Walker;
  /** Output address of the byte asked for. */
  out = 0;
  /** log2 bytes the translation holds for, both stages taken together. */
  outShift = 0;
  /** What both stages allow now, as PERM bits. */
  perm = 0;
  /** log2 bytes of the stage-1 mapping alone. */
  guestShift = 0;
  /** The stage-1 mapping is global (nG = 0). */
  global = false;
  /** 1 or 2: the stage that faulted. */
  stage = 0;
  /** CLASS of the fault: what was being accessed. */
  cls: number = CLASS.IN;
  /** Level of the fault in its stage's tables. */
  level = 0;
  /** Stage-2 faults: the intermediate physical address, bytes. */
  ipa = 0;
  /** Stage-2 faults: the PERM bits the access needed of stage 2. */
  need = 0;
  /** F_WALK_EABT: physical address of the descriptor. */
  fetch = 0;
  /** The faulting table access was a read (TTRnW); false for a descriptor update. */
  tableRead = true;
  /** The stage-2 leaf of the result is device memory. */
  device = false;
  /** Leave out stage 2 of the result: `out` is the intermediate address (split-stage ATS). */
  split = false;
  /** QEMU's order: a table whose APTable forbids the access is a permission fault, whatever it points to. */
  tablePermission = false;
  /** Where walks look up and keep last-level tables and stage-2 translations of tables; null: nowhere. */
  tlb: Iotlb | null = null;
  /** Contexts for `tlb`, of stage 1 and of stage 2; the caller sets them before each walk. */
  context1: Context | null = null;
  context2: Context | null = null;

  constructor(memory: Memory) {
    this.#memory = memory;
    this.#s2 = new Stage2Walker(memory);
  }

  /**
   * Stage 2 alone.
   * @param ipa bytes, below 2^53. @param need PERM bits.
   * @param cls what a fault belongs to: CLASS.IN for a transaction, CLASS.CD for a CD fetch.
   * @returns 0 or the event code of the fault.
   */
  stage2(s2: Stage2Regime, ipa: number, need: number, cls: number): number {
    const w = this.#s2;
    const fault = w.walk(s2, ipa, need);
    if (fault !== 0) return this.#fault2(fault, ipa, need, cls, true);
    this.out = w.out;
    this.outShift = w.shift;
    this.perm = w.perm;
    this.device = w.device;
    this.guestShift = 0;
    this.global = false;
    return 0;
  }

  /**
   * Stage 1, nested in `s2` unless that is null.
   * @param lo,hi the 64-bit input address. @param need PERM bits (of one privilege).
   * @returns 0 or the event code of the fault.
   */
  stage1(s1: Stage1Regime, s2: Stage2Regime | null, lo: number, hi: number, need: number): number {
    const upper = (hi & (1 << 23)) !== 0;
    const half = upper ? s1.half1 : s1.half0;
    const sign = upper ? -1 : 0;
    const top = half.tbi ? (hi << 8) >> 8 : hi;
    const inBits = half.inBits;
    this.level = half.startLevel;
    const outside = inBits >= 32 ? (top ^ sign) >> (inBits - 32) !== 0 : top !== sign || (lo ^ sign) >>> inBits !== 0;
    if (half.disabled || outside) return this.#fault1(EVENT.F_TRANSLATION, half.startLevel);

    const m = this.#memory;
    const granule = half.granule;
    const stride = granule - 3;
    let level = half.startLevel;
    let table = half.ttb;
    let inherited = 0;
    let mask = (1 << (inBits - (granule + stride * (3 - level)))) - 1;
    const walks = level < 3 && !(s1.ha && s2 !== null) ? this.tlb : null;
    let cached = false;
    if (walks?.lookupWalk(this.context1!, lo, top, granule + stride)) {
      table = walks.table;
      inherited = walks.attr << HIERARCHY_SHIFT;
      mask = (1 << stride) - 1;
      level = 3;
      cached = true;
    }
    for (;;) {
      const shift = granule + stride * (3 - level);
      const inTable = (index(lo, hi, shift) & mask) * 8;
      let at = table + inTable;
      if (s2 !== null && !cached) {
        at = this.#tableAddress(s2, at);
        if (at < 0) return -at;
      }
      if (!m.load64(at)) return this.#abort1(at, level, true);
      if (level === 3 && walks !== null && !cached && (s2 === null || this.#tableShift >= granule)) {
        walks.insertWalk(this.context1!, lo, top, granule + stride, at - inTable, inherited >>> HIERARCHY_SHIFT);
      }
      const dlo = m.lo;
      const dhi = m.hi;
      const type = dlo & 3;
      if ((type & 1) === 0) return this.#fault1(EVENT.F_TRANSLATION, level);
      const oa = outputAddress(dlo, dhi, granule, half.outBits);
      if (level < 3 && type === DESC_TYPE.TABLE) {
        if (this.tablePermission && !half.had && tableForbids(dhi, need))
          return this.#fault1(EVENT.F_PERMISSION, level);
        if (oa >= half.outLimit) return this.#fault1(EVENT.F_ADDR_SIZE, level);
        if (!half.had) inherited |= dhi & HIERARCHY;
        table = oa;
        mask = (1 << stride) - 1;
        level++;
        continue;
      }
      if (level === 3 ? type !== DESC_TYPE.TABLE : !blockAllowed(granule, level, half.outBits)) {
        return this.#fault1(EVENT.F_TRANSLATION, level);
      }
      const base = oa - lowBits(oa, shift);
      if (base >= half.outLimit) return this.#fault1(EVENT.F_ADDR_SIZE, level);
      const within = offsetWithin(lo, hi, shift);
      const fault = this.#leaf(s1, s2, need, level, base + within, dlo, dhi, inherited, at);
      if (fault !== 0) return fault;
      const wider = (dhi & S1_HI.CONT) === 0 ? shift : contiguous(granule, level, shift, this.ipa, lo, hi, inBits);
      this.guestShift = wider;
      this.outShift = wider;
      this.global = (dlo & S1_LO.NG) === 0;
      return s2 === null || this.split ? 0 : this.#nest(s2, need);
    }
  }

  /** Access flag, permission and descriptor update of a stage-1 leaf whose output is `oa`; leaves `oa` in `out` and `ipa`. */
  #leaf(
    s1: Stage1Regime,
    s2: Stage2Regime | null,
    need: number,
    level: number,
    oa: number,
    dlo: number,
    dhi: number,
    inherited: number,
    at: number,
  ): number {
    const young = (dlo & S1_LO.AF) !== 0;
    if (!young && !s1.ha && !s1.affd) return this.#fault1(EVENT.F_ACCESS, level);
    let perm = stage1Perm(s1, dlo, dhi, inherited);
    const dirtiable = s1.hd && (dhi & S1_HI.DBM) !== 0 && (dlo & S1_LO.AP2_READ_ONLY) !== 0;
    const clean = dlo & ~S1_LO.AP2_READ_ONLY;
    if ((need & ~(dirtiable ? stage1Perm(s1, clean, dhi, inherited) : perm)) !== 0) {
      this.perm = perm;
      return this.#fault1(EVENT.F_PERMISSION, level);
    }
    const dirty = dirtiable && (need & PERM_WRITE) !== 0;
    if (dirty || (!young && s1.ha)) {
      // Under stage 2 the update is a write to the table's IPA, which stage 2 must allow.
      if (s2 !== null && this.#descriptorWritable(s2) !== 0) return this.#updateFault;
      const now = (dirty ? clean : dlo) | (s1.ha ? S1_LO.AF : 0);
      if (!this.#memory.store64(at, now, dhi)) return this.#abort1(at, level, false);
      if (dirty) perm = stage1Perm(s1, clean, dhi, inherited);
    }
    this.perm = perm;
    this.out = oa;
    this.ipa = oa;
    return 0;
  }

  /** IPA of the descriptor last read, for its update. */
  #descriptorIpa = 0;
  #updateFault = 0;

  #descriptorWritable(s2: Stage2Regime): number {
    const ipa = this.#descriptorIpa;
    const fault = this.#s2.walk(s2, ipa, WRITE);
    this.#updateFault = fault === 0 ? 0 : this.#fault2(fault, ipa, WRITE, CLASS.TT, false);
    return fault;
  }

  /** log2 bytes of the stage-2 mapping around the last descriptor. */
  #tableShift = 0;

  /** Stage 2 for one stage-1 descriptor. @returns its physical address, or minus the event code. */
  #tableAddress(s2: Stage2Regime, ipa: number): number {
    const tlb = this.tlb;
    this.#descriptorIpa = ipa;
    if (tlb?.lookup(this.context2!, ipa | 0, (ipa / TWO32) | 0)) {
      if ((tlb.perm & READ) !== 0 && !(s2.ptw && tlb.attr === ATTR_DEVICE)) {
        this.#tableShift = tlb.shift;
        return tlb.out;
      }
    }
    const w = this.#s2;
    const fault = w.walk(s2, ipa, READ);
    if (fault !== 0) return -this.#fault2(fault, ipa, READ, CLASS.TT, true);
    if (s2.ptw && w.device) return -this.#fault2(EVENT.F_PERMISSION, ipa, READ, CLASS.TT, true);
    this.#tableShift = w.shift;
    if (tlb !== null) this.#keep2(tlb, ipa);
    return w.out;
  }

  /** Keeps the last stage-2 walk. */
  #keep2(tlb: Iotlb, ipa: number): void {
    const w = this.#s2;
    const attr = w.device ? ATTR_DEVICE : 0;
    tlb.insert(this.context2!, ipa | 0, (ipa / TWO32) | 0, w.out, w.shift, w.perm, 0, attr);
  }

  /** Stage 2 for the output of stage 1 in `ipa`. */
  #nest(s2: Stage2Regime, need: number): number {
    const w = this.#s2;
    const tlb = this.tlb;
    const ipa = this.ipa;
    if (tlb?.lookup(this.context2!, ipa | 0, (ipa / TWO32) | 0) && (need & ~tlb.perm) === 0) {
      this.out = tlb.out;
      this.perm &= tlb.perm;
      if (tlb.shift < this.outShift) this.outShift = tlb.shift;
      return 0;
    }
    const fault = w.walk(s2, ipa, need);
    if (fault !== 0) return this.#fault2(fault, ipa, need, CLASS.IN, true);
    this.out = w.out;
    this.perm &= w.perm;
    // A block of stage 2 serves its neighbours too; a page would only push out what stage 1 needs.
    if (tlb !== null && w.shift > this.outShift) this.#keep2(tlb, ipa);
    if (w.shift < this.outShift) this.outShift = w.shift;
    return 0;
  }

  #fault1(code: number, level: number): number {
    this.stage = 1;
    this.cls = CLASS.IN;
    this.level = level;
    return code;
  }

  #abort1(at: number, level: number, read: boolean): number {
    this.stage = 1;
    this.cls = CLASS.TT;
    this.level = level;
    this.fetch = at;
    this.tableRead = read;
    return EVENT.F_WALK_EABT;
  }

  #fault2(code: number, ipa: number, need: number, cls: number, read: boolean): number {
    this.stage = 2;
    this.cls = cls;
    this.level = this.#s2.level;
    this.ipa = ipa;
    this.need = need;
    this.fetch = this.#s2.fetch;
    this.tableRead = read;
    return code;
  }
}

/**
 * Stage-1 permissions of both privileges (Arm ARM D8.4): AP, XN and the attributes inherited from tables. What
 * unprivileged code may write, privileged code does not execute; PAN takes privileged data access from unprivileged pages.
 */
export function stage1Perm(s1: Stage1Regime, dlo: number, dhi: number, inherited: number): number {
  const unpriv = (dlo & S1_LO.AP1_UNPRIV) !== 0 && (inherited & TABLE_HI.AP0_NO_UNPRIV) === 0;
  const writable = (dlo & S1_LO.AP2_READ_ONLY) === 0 && (inherited & TABLE_HI.AP1_READ_ONLY) === 0;
  let perm = writable ? PERM_READ | PERM_WRITE : PERM_READ;
  if (!unpriv) perm &= 0x38;
  const unprivWrites = (perm & 2) !== 0;
  const uxn = (dhi & S1_HI.UXN) !== 0 || (inherited & TABLE_HI.UXN) !== 0 || (s1.wxn && unprivWrites);
  const pxn =
    (dhi & S1_HI.PXN) !== 0 ||
    (inherited & TABLE_HI.PXN) !== 0 ||
    unprivWrites ||
    (s1.wxn && writable) ||
    (s1.uwxn && unprivWrites);
  if (!uxn) perm |= PERM_EXEC & 7;
  if (!pxn) perm |= PERM_EXEC & 0x38;
  if (s1.pan && unpriv) perm &= ~0x18;
  return perm & PERM_ALL;
}

/** Whether APTable of one table descriptor alone takes away what the access needs. */
function tableForbids(dhi: number, need: number): boolean {
  if ((dhi & TABLE_HI.AP1_READ_ONLY) !== 0 && (need & PERM_WRITE) !== 0) return true;
  return (dhi & TABLE_HI.AP0_NO_UNPRIV) !== 0 && (need & 7) !== 0;
}

/** The low `shift` bits of an address, as a number. @param shift 12..47. */
export function offsetWithin(lo: number, hi: number, shift: number): number {
  if (shift < 32) return lo & ((1 << shift) - 1);
  return (hi & ((1 << (shift - 32)) - 1)) * TWO32 + (lo >>> 0);
}

/** `joined` for a 64-bit input address. */
function contiguous(
  granule: number,
  level: number,
  shift: number,
  out: number,
  lo: number,
  hi: number,
  inBits: number,
): number {
  return joined(granule, level, shift, out, (hi & 0xf_ffff) * TWO32 + (lo >>> 0), inBits);
}
