import { hiWord, TWO32 } from '../../core/bits.ts';
import type { Memory } from '../../ports/memory.ts';
import { blockAllowed, DESC_TYPE, S1_HI, S1_LO, TABLE_HI } from '../../spec/smmuv3/descriptors.ts';
import { CLASS, EVENT } from '../../spec/smmuv3/events.ts';
import type { Iotlb } from '../cache/iotlb.ts';
import type { TlbContext } from '../cache/tags.ts';
import { TableReader } from './table-reader.ts';
import { VMSA_ARCHITECTURE, VMSA_ORDER, type VmsaCheckOrder, type VmsaChoices } from './vmsa-choices.ts';
import { PERM_ALL, PERM_EXEC, PERM_READ, PERM_WRITE, type Stage1Regime, type Stage2Regime } from './vmsa-regime.ts';
import { index, joined, leafHi, leafLo, outputHi, Stage2Walker } from './vmsa-stage2.ts';

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
  readonly #reader: TableReader;
  readonly #s2: Stage2Walker;
  /** Output address of the byte asked for, in words. */
  outLo = 0;
  outHi = 0;
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
  /** The intermediate address of the result, or of the stage-2 fault, in words. */
  ipaLo = 0;
  ipaHi = 0;
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
  #choices = VMSA_ARCHITECTURE;
  #order = VMSA_ORDER;
  /** Where walks look up and keep last-level tables and stage-2 translations of tables; null: nowhere. */
  tlb: Iotlb | null = null;
  /** Contexts for `tlb`, of stage 1 and of stage 2; the caller sets them before each walk. */
  context1: TlbContext | null = null;
  context2: TlbContext | null = null;

  constructor(memory: Memory) {
    this.#memory = memory;
    this.#reader = new TableReader(memory);
    this.#s2 = new Stage2Walker(memory);
  }

  /** Walks as an implementation with these choices does, instead of as the architecture says. */
  choose(choices: VmsaChoices, order: VmsaCheckOrder = VMSA_ORDER): void {
    this.#choices = choices;
    this.#order = order;
    this.#s2.choose(choices, order);
  }

  /** Output address of the byte asked for. */
  get out(): number {
    return this.outHi * TWO32 + (this.outLo >>> 0);
  }

  /** Stage-2 faults: the intermediate physical address, bytes. */
  get ipa(): number {
    return this.ipaHi * TWO32 + (this.ipaLo >>> 0);
  }

  /**
   * Stage 2 alone.
   * @param ipa bytes, below 2^53. @param need PERM bits.
   * @param cls what a fault belongs to: CLASS.IN for a transaction, CLASS.CD for a CD fetch.
   * @returns 0 or the event code of the fault.
   */
  stage2(s2: Stage2Regime, ipa: number, need: number, cls: number): number {
    return this.stage2Words(s2, ipa | 0, hiWord(ipa), need, cls);
  }

  /** `stage2` with the intermediate address in words. */
  stage2Words(s2: Stage2Regime, lo: number, hi: number, need: number, cls: number): number {
    const w = this.#s2;
    w.begin();
    const fault = w.walk(s2, lo, hi, need);
    if (fault !== 0) return this.#fault2(fault, lo, hi, need, cls, true);
    this.outLo = w.outLo;
    this.outHi = w.outHi;
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

    const reader = this.#reader;
    reader.begin();
    this.#s2.begin();
    const granule = half.granule;
    const stride = granule - 3;
    let level = half.startLevel;
    const outBits = half.outBits;
    let tableLo = half.ttbLo;
    let tableHi = half.ttbHi;
    let inherited = 0;
    let shift = granule + stride * (3 - level);
    let mask = (1 << (inBits - shift)) - 1;
    const choices = this.#choices;
    const order = this.#order;
    const walks = level < 3 && !(s1.ha && s2 !== null) ? this.tlb : null;
    let cached = false;
    if (walks?.lookupWalk(this.context1!, lo, top, granule + stride)) {
      tableLo = walks.tableLo;
      tableHi = walks.tableHi;
      inherited = walks.attr << HIERARCHY_SHIFT;
      mask = (1 << stride) - 1;
      shift = granule;
      level = 3;
      cached = true;
    }
    for (;;) {
      const inTable = (index(lo, hi, shift) & mask) * 8;
      let atLo = (tableLo + inTable) | 0;
      let atHi = tableHi;
      if (s2 !== null && !cached) {
        const fault = this.#tableAddress(s2, atLo, atHi);
        if (fault !== 0) return fault;
        atLo = this.#atLo;
        atHi = this.#atHi;
      }
      const i = reader.at(atLo, atHi);
      if (i < 0) return this.#abort1(atLo, atHi, level, true);
      if (level === 3 && walks !== null && !cached && (s2 === null || this.#tableShift >= granule)) {
        const attr = inherited >>> HIERARCHY_SHIFT;
        walks.insertWalk(this.context1!, lo, top, granule + stride, atLo - inTable, atHi, attr);
      }
      const dlo = reader.words[i]!;
      const dhi = reader.words[i + 1]!;
      const type = dlo & 3;
      if ((type & 1) === 0) return this.#fault1(EVENT.F_TRANSLATION, level);
      const oaLo = dlo & -(1 << granule);
      const oaHi = outputHi(dlo, dhi, granule, outBits);
      if (level < 3 && type === DESC_TYPE.TABLE) {
        if (order.permissionAtTable && !half.had && tableForbids(dhi, need, choices.privileges))
          return this.#fault1(EVENT.F_PERMISSION, level);
        if (oaHi >>> (outBits - 32) !== 0 && choices.tableAddressSize) return this.#fault1(EVENT.F_ADDR_SIZE, level);
        if (!half.had) inherited |= dhi & HIERARCHY;
        tableLo = oaLo;
        tableHi = oaHi;
        mask = (1 << stride) - 1;
        shift -= stride;
        level++;
        continue;
      }
      if (level === 3 ? type !== DESC_TYPE.TABLE : !(!choices.blockLevels || blockAllowed(granule, level, outBits))) {
        return this.#fault1(EVENT.F_TRANSLATION, level);
      }
      const outside = oaHi >>> (outBits - 32) !== 0;
      if (outside && !order.leafSizeLast) return this.#fault1(EVENT.F_ADDR_SIZE, level);
      const fault = this.#leaf(s1, s2, need, level, dlo, dhi, inherited, atLo, atHi);
      if (fault !== 0) return fault;
      if (outside) return this.#fault1(EVENT.F_ADDR_SIZE, level);
      const outLo = leafLo(oaLo, lo, shift);
      const outHi = leafHi(oaHi, hi, shift);
      const contiguous = (dhi & S1_HI.CONT) !== 0 && choices.contiguousHint;
      const wider = contiguous ? joined(granule, level, shift, outLo ^ lo, outHi ^ hi, inBits) : shift;
      this.guestShift = wider;
      this.outShift = wider;
      this.global = (dlo & S1_LO.NG) === 0;
      this.outLo = outLo;
      this.outHi = outHi;
      return s2 === null || this.split ? 0 : this.#nest(s2, outLo, outHi, need);
    }
  }

  /** Access flag, permission and descriptor update of a stage-1 leaf at physical (atLo, atHi). */
  #leaf(
    s1: Stage1Regime,
    s2: Stage2Regime | null,
    need: number,
    level: number,
    dlo: number,
    dhi: number,
    inherited: number,
    atLo: number,
    atHi: number,
  ): number {
    const young = (dlo & S1_LO.AF) !== 0;
    if (!young && !s1.ha && !s1.affd) return this.#fault1(EVENT.F_ACCESS, level);
    let perm = this.#choices.privileges ? stage1Perm(s1, dlo, dhi, inherited) : plainPerm(dlo, inherited);
    const dirtiable = s1.hd && (dhi & S1_HI.DBM) !== 0 && (dlo & S1_LO.AP2_READ_ONLY) !== 0;
    const clean = dlo & ~S1_LO.AP2_READ_ONLY;
    if ((need & ~(dirtiable ? stage1Perm(s1, clean, dhi, inherited) : perm)) !== 0) {
      this.perm = perm;
      return this.#fault1(EVENT.F_PERMISSION, level);
    }
    const dirty = dirtiable && (need & PERM_WRITE) !== 0;
    if (dirty || (!young && s1.ha)) {
      // Under stage 2 the update is a write to the table's IPA, which stage 2 must allow.
      if (s2 !== null) {
        const fault = this.#s2.walk(s2, this.#descriptorLo, this.#descriptorHi, WRITE);
        if (fault !== 0) return this.#fault2(fault, this.#descriptorLo, this.#descriptorHi, WRITE, CLASS.TT, false);
      }
      const now = (dirty ? clean : dlo) | (s1.ha ? S1_LO.AF : 0);
      if (!this.#memory.store64(atHi * TWO32 + (atLo >>> 0), now, dhi)) return this.#abort1(atLo, atHi, level, false);
      if (dirty) perm = stage1Perm(s1, clean, dhi, inherited);
    }
    this.perm = perm;
    return 0;
  }

  /** IPA of the descriptor last read, for its update; and where it lies. */
  #descriptorLo = 0;
  #descriptorHi = 0;
  #atLo = 0;
  #atHi = 0;
  /** log2 bytes of the stage-2 mapping around the last descriptor. */
  #tableShift = 0;

  /** Stage 2 for one stage-1 descriptor. @returns 0 (`#atLo`, `#atHi` hold its physical address) or the event code. */
  #tableAddress(s2: Stage2Regime, lo: number, hi: number): number {
    const tlb = this.tlb;
    this.#descriptorLo = lo;
    this.#descriptorHi = hi;
    if (tlb?.lookup(this.context2!, lo, hi)) {
      if ((tlb.perm & READ) !== 0 && !(s2.ptw && tlb.attr === ATTR_DEVICE)) {
        this.#tableShift = tlb.shift;
        this.#atLo = tlb.outLo;
        this.#atHi = tlb.outHi;
        return 0;
      }
    }
    const w = this.#s2;
    const fault = w.walk(s2, lo, hi, READ);
    if (fault !== 0) return this.#fault2(fault, lo, hi, READ, CLASS.TT, true);
    if (s2.ptw && w.device) return this.#fault2(EVENT.F_PERMISSION, lo, hi, READ, CLASS.TT, true);
    this.#tableShift = w.shift;
    this.#atLo = w.outLo;
    this.#atHi = w.outHi;
    if (tlb !== null) this.#keep2(tlb, lo, hi);
    return 0;
  }

  /** Keeps the last stage-2 walk. */
  #keep2(tlb: Iotlb, lo: number, hi: number): void {
    const w = this.#s2;
    tlb.insertWords(this.context2!, lo, hi, w.outLo, w.outHi, w.shift, w.perm, 0, w.device ? ATTR_DEVICE : 0);
  }

  /** Stage 2 for the output of stage 1. */
  #nest(s2: Stage2Regime, lo: number, hi: number, need: number): number {
    const w = this.#s2;
    const tlb = this.tlb;
    this.ipaLo = lo;
    this.ipaHi = hi;
    if (tlb?.lookup(this.context2!, lo, hi) && (need & ~tlb.perm) === 0) {
      this.outLo = tlb.outLo;
      this.outHi = tlb.outHi;
      this.perm &= tlb.perm;
      if (tlb.shift < this.outShift) this.outShift = tlb.shift;
      return 0;
    }
    const fault = w.walk(s2, lo, hi, need);
    if (fault !== 0) return this.#fault2(fault, lo, hi, need, CLASS.IN, true);
    this.outLo = w.outLo;
    this.outHi = w.outHi;
    this.perm &= w.perm;
    // A block of stage 2 serves its neighbours too; a page would only push out what stage 1 needs.
    if (tlb !== null && w.shift > this.outShift) this.#keep2(tlb, lo, hi);
    if (w.shift < this.outShift) this.outShift = w.shift;
    return 0;
  }

  #fault1(code: number, level: number): number {
    this.stage = 1;
    this.cls = CLASS.IN;
    this.level = level;
    return code;
  }

  #abort1(lo: number, hi: number, level: number, read: boolean): number {
    this.stage = 1;
    this.cls = CLASS.TT;
    this.level = level;
    this.fetch = hi * TWO32 + (lo >>> 0);
    this.tableRead = read;
    return EVENT.F_WALK_EABT;
  }

  #fault2(code: number, lo: number, hi: number, need: number, cls: number, read: boolean): number {
    this.stage = 2;
    this.cls = cls;
    this.level = this.#s2.level;
    this.ipaLo = lo;
    this.ipaHi = hi;
    this.need = need;
    this.fetch = this.#s2.fetch;
    this.tableRead = read;
    return code;
  }
}

/** Stage-1 permissions where neither privilege nor execution is told apart. */
function plainPerm(dlo: number, inherited: number): number {
  const readOnly = (dlo & S1_LO.AP2_READ_ONLY) !== 0 || (inherited & TABLE_HI.AP1_READ_ONLY) !== 0;
  return readOnly ? PERM_ALL & ~PERM_WRITE : PERM_ALL;
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
function tableForbids(dhi: number, need: number, privileges: boolean): boolean {
  if ((dhi & TABLE_HI.AP1_READ_ONLY) !== 0 && (need & PERM_WRITE) !== 0) return true;
  return privileges && (dhi & TABLE_HI.AP0_NO_UNPRIV) !== 0 && (need & 7) !== 0;
}
