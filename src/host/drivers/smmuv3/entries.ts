import { hiWord, loWord } from '../../../core/bits.ts';
import { CD_WORDS } from '../../../spec/smmuv3/cd.ts';
import { CONFIG, EATS, S1DSS, STE_WORDS } from '../../../spec/smmuv3/ste.ts';
import { ENTRY_HALVES, type EntryRules } from './entry-writer.ts';
import { startTable } from './page-table.ts';

/** Fields of a stream table entry as masks over its 32-bit words (IHI 0070 §5.2); Wn is word n: bits [63:32] of word 1 are W3. */
const V = 1;
const CFG = 0xe;
const W0_S1 = 0xffff_fff0 | 0;
const W1_S1 = 0xf80f_ffff | 0;
const S1DSS_MASK = 3;
const S1CIR_WBRA = 1 << 2;
const S1COR_WBRA = 1 << 4;
const S1CSH_INNER = 3 << 6;
const S1_CACHE = 0xfc;
const MEV = 1 << 19;
const S2FWB = 1 << 25;
const S1STALLD = 1 << 27;
const EATS_FULL = EATS.FULL << 28;
const EATS_SPLIT = EATS.SPLIT << 28;
const EATS_MASK = 3 << 28;
const STRW_MASK = 3 << 30;
/** SHCFG: use the incoming attribute. */
const SHCFG_INCOMING = 1 << 12;
const SHCFG_MASK = 3 << 12;
const VMID_MASK = 0xffff;
const VTCR_MASK = 0x7_ffff;
const S2AA64 = 1 << 19;
const S2ENDI = 1 << 20;
const S2PTW = 1 << 22;
const S2S = 1 << 25;
const S2R = 1 << 26;
const S2TTB_LO = 0xffff_fff0 | 0;
const S2TTB_HI = 0xf_ffff;

/** The bits of a guest's vSTE the host takes over (word pairs), with EATS still in them. */
export const VSTE_ALLOWED = [V | CFG | W0_S1, W1_S1, S1DSS_MASK | S1_CACHE | S1STALLD | EATS_MASK, 0] as const;

function usedBits(e: Int32Array, used: Int32Array): void {
  used[0] = V;
  if ((e[0]! & V) === 0) return;
  used[0] |= CFG;
  const config = (e[0]! & CFG) >> 1;
  if (config === CONFIG.BYPASS) used[3]! |= SHCFG_MASK;
  if ((config & CONFIG.BYPASS) === 0) return;
  if ((config & 1) !== 0) {
    used[0]! |= W0_S1;
    used[1]! |= W1_S1;
    used[2]! |= S1DSS_MASK | S1_CACHE | S1STALLD | STRW_MASK | EATS_MASK | MEV;
    used[4]! |= VMID_MASK;
    if ((e[2]! & S1DSS_MASK) === S1DSS.BYPASS) used[3]! |= SHCFG_MASK;
  }
  if ((config & 2) !== 0) {
    used[2]! |= S2FWB | EATS_MASK | MEV;
    used[3]! |= SHCFG_MASK;
    used[4]! |= VMID_MASK;
    used[5]! |= VTCR_MASK | S2AA64 | S2ENDI | S2PTW | S2S | S2R;
    used[6]! |= S2TTB_LO;
    used[7]! |= S2TTB_HI;
  }
}

/**
 * Bits that may change at any moment. MEV only merges events. EATS between off and full: the attach sequence has the
 * function's own ATS enable off whenever EATS changes. Not so when split ATS or stage-2 stalls are involved, whose
 * combination with full ATS makes the entry illegal.
 */
function safeBits(from: Int32Array, to: Int32Array, safe: Int32Array): void {
  safe[2]! |= MEV;
  const split = ((from[2]! | to[2]!) & EATS_SPLIT) !== 0;
  const stalling = ((from[5]! | to[5]!) & S2S) !== 0;
  if (!split && !stalling) safe[2]! |= EATS_FULL;
}

export const STE_RULES: EntryRules = { used: usedBits, safe: safeBits };

/** What a device contributes to its own entries. */
export interface SteDevice {
  readonly attrTypesOvr: boolean;
  /** The SMMU has the stall model, and whether this device uses it. */
  readonly stalls: boolean;
  readonly stallEnabled: boolean;
}

export interface StageTwo {
  readonly vmid: number;
  /** Host-physical address of the start table. */
  readonly ttb: number;
  /** IPA bits, and the code of the output size (S2PS). */
  readonly ias: number;
  readonly psCode: number;
  readonly fwb: boolean;
}

export function invalidSte(into: Int32Array): void {
  into.fill(0, 0, STE_WORDS);
}

export function abortSte(into: Int32Array): void {
  invalidSte(into);
  into[0] = V | (CONFIG.ABORT << 1);
}

export function bypassSte(into: Int32Array, dev: SteDevice): void {
  invalidSte(into);
  into[0] = V | (CONFIG.BYPASS << 1);
  if (dev.attrTypesOvr) into[3] = SHCFG_INCOMING;
}

/** STE[50:32] of word 2: S2T0SZ, S2SL0, inner-shareable write-back walks, 4 KiB granule, S2PS. */
export function vtcr(ias: number, psCode: number): number {
  const sl0 = startTable(2, ias).level === 0 ? 2 : 1;
  return (64 - ias) | (sl0 << 6) | (1 << 8) | (1 << 10) | (3 << 12) | (psCode << 16);
}

export function stageTwoSte(into: Int32Array, dev: SteDevice, s2: StageTwo, ats: boolean): void {
  invalidSte(into);
  into[0] = V | (CONFIG.S2 << 1);
  into[2] = (ats ? EATS_FULL : 0) | (s2.fwb ? S2FWB : 0);
  into[3] = dev.attrTypesOvr ? SHCFG_INCOMING : 0;
  into[4] = s2.vmid;
  into[5] = vtcr(s2.ias, s2.psCode) | S2AA64 | S2PTW | S2R | (dev.stallEnabled ? S2S : 0);
  into[6] = loWord(s2.ttb) & S2TTB_LO;
  into[7] = hiWord(s2.ttb) & S2TTB_HI;
}

/** A context descriptor table of the kernel's own, for its stage-1 domains. */
export interface CdTableLocation {
  readonly base: number;
  readonly s1Fmt: number;
  readonly cdMax: number;
}

export function cdTableSte(
  into: Int32Array,
  dev: SteDevice,
  table: CdTableLocation,
  ats: boolean,
  s1dss: number,
): void {
  invalidSte(into);
  into[0] = V | (CONFIG.S1 << 1) | (table.s1Fmt << 4) | (loWord(table.base) & ~0x3f);
  into[1] = (hiWord(table.base) & 0xf_ffff) | (table.cdMax << 27);
  into[2] =
    s1dss |
    S1CIR_WBRA |
    S1COR_WBRA |
    S1CSH_INNER |
    (dev.stalls && !dev.stallEnabled ? S1STALLD : 0) |
    (ats ? EATS_FULL : 0);
  if (dev.attrTypesOvr && s1dss === S1DSS.BYPASS) into[3] = SHCFG_INCOMING;
}

/**
 * A guest's stage 1 over the parent's stage 2.
 * @param vste the guest's words 0 and 1 (four halves), EATS removed.
 */
export function nestedSte(into: Int32Array, dev: SteDevice, s2: StageTwo, vste: ArrayLike<number>, ats: boolean): void {
  stageTwoSte(into, dev, s2, ats);
  into[0] = V | (CONFIG.NESTED << 1) | (vste[0]! & W0_S1);
  into[1] = vste[1]!;
  // A stream that does nothing but fault must not fill the event queue all its neighbours share.
  into[2]! |= vste[2]! | MEV;
}

/** Fields of a context descriptor's first words (IHI 0070 §5.4). */
const CD_V = 1 << 31;
const EPD0 = 1 << 14;
const EPD1 = 1 << 30;
/** T0SZ, TG0, IR0, OR0, SH0: what EPD0 makes the hardware ignore, with TTB0. */
const TCR0 = 0x3fff;
const TTB_LO = 0xffff_fff0 | 0;
const TTB_HI = 0xf_ffff;
const WALKS = (1 << 8) | (1 << 10) | (3 << 12);
const AA64 = 1 << 9;
const HD_HA = 3 << 10;
const CD_S = 1 << 12;
const R_A = 3 << 13;
const CD_A = 1 << 14;
const ASET = 1 << 15;
/** Attr0 non-cacheable, Attr1 write-back, Attr2 device, Attr3 outer write-back: the indexes the page tables use. */
const MAIR_LO = 0xf404_ff44 | 0;

export const CD_RULES: EntryRules = {
  used(e, used) {
    used[0] = CD_V;
    if ((e[0]! & CD_V) === 0) return;
    for (let i = 0; i < ENTRY_HALVES; i++) used[i] = -1;
    if ((e[0]! & EPD0) === 0) return;
    used[0]! &= ~TCR0;
    used[2]! &= ~TTB_LO;
    used[3]! &= ~TTB_HI;
  },
  safe: null,
};

export interface StageOne {
  readonly asid: number;
  /** Host-physical address of the start table. */
  readonly ttb: number;
  readonly ias: number;
  readonly ipsCode: number;
  readonly dirty: boolean;
}

/**
 * A descriptor that translates nothing and says nothing: every access aborts without a record. Hardware that stalls whatever is
 * not allowed (IDR0.STALL_MODEL=2) wants S set, and then records.
 */
export function quietCd(into: Int32Array, stallForce: boolean): void {
  into.fill(0, 0, CD_WORDS);
  into[0] = EPD0 | EPD1 | CD_V;
  into[1] = AA64 | ASET | (stallForce ? CD_S | R_A : CD_A);
}

/** The context descriptor of one of the kernel's stage-1 domains: TTB0 only, faults recorded and aborted. */
export function stageOneCd(into: Int32Array, s1: StageOne, stall: boolean): void {
  into.fill(0, 0, CD_WORDS);
  into[0] = (64 - s1.ias) | WALKS | EPD1 | CD_V;
  into[1] = s1.ipsCode | AA64 | (s1.dirty ? HD_HA : 0) | (stall ? CD_S : 0) | R_A | ASET | (s1.asid << 16);
  into[2] = loWord(s1.ttb) & TTB_LO;
  into[3] = hiWord(s1.ttb) & TTB_HI;
  into[6] = MAIR_LO;
}
