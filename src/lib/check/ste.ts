import { POW2 } from '../../core/bits.ts';
import { GRANULE0 } from '../../spec/smmuv3/cd.ts';
import { levelShift } from '../../spec/smmuv3/descriptors.ts';
import { EVENT } from '../../spec/smmuv3/events.ts';
import {
  CONFIG,
  EATS,
  S1FMT,
  STRW,
  steConfig,
  steEats,
  steS1CdMax,
  steS1ContextPtr,
  steS1Enabled,
  steS1Fmt,
  steS1Stalld,
  steS2Aa64,
  steS2Enabled,
  steS2Endi,
  steS2Ha,
  steS2Hd,
  steS2Ps,
  steS2S,
  steS2Sl0,
  steS2T0sz,
  steS2Tg,
  steS2Ttb,
  steStrw,
  steValid,
} from '../../spec/smmuv3/ste.ts';
import { outputBits, stage2StartLevel } from '../walk/vmsa-regime.ts';
import { granuleSupported, type Smmuv3Features } from './smmuv3-features.ts';

/** Points on which implementations differ in judging an STE. The architecture's way: every one false. */
export interface SteRules {
  /** S1CDMax ≠ 0 and S1STALLD = 1 are ILLEGAL in every translating entry; else they are judged by SSIDSIZE and STALL_MODEL. */
  readonly substreamsRefused: boolean;
  /** The stage-2 input may not be wider than the effective S2PS; else than OAS. */
  readonly inputWithinS2ps: boolean;
  /** STRW is not looked at: every stream is NS-EL1. */
  readonly streamWorldIgnored: boolean;
  /** S1ContextPtr beyond OAS is not judged. */
  readonly contextPointerUnjudged: boolean;
  /** S2T0SZ may leave no bits for the start level. */
  readonly emptyStartLevel: boolean;
}

/** What the architecture says. */
export const STE_ARCHITECTURE: SteRules = {
  substreamsRefused: false,
  inputWithinS2ps: false,
  streamWorldIgnored: false,
  contextPointerUnjudged: false,
  emptyStartLevel: false,
};

/**
 * The validity rules of an STE in the architecture's order (IHI 0070 §5.2): V, then Config (0b0xx is valid whatever the
 * rest holds), then the fields of each enabled stage.
 * @param w,at the entry's words and its word index.
 * @param atschk CR0.ATSCHK: without it EATS = 2 acts as 0. @param rules how an implementation judges.
 * @returns 0 or EVENT.C_BAD_STE.
 */
export function checkSte(
  w: Int32Array,
  at: number,
  f: Smmuv3Features,
  atschk: boolean,
  rules: SteRules = STE_ARCHITECTURE,
): number {
  if (!steValid(w, at)) return EVENT.C_BAD_STE;
  if (steConfig(w, at) < CONFIG.BYPASS) return 0;
  const s1 = steS1Enabled(w, at);
  const s2 = steS2Enabled(w, at);
  if ((s1 && !f.s1p) || (s2 && !f.s2p)) return EVENT.C_BAD_STE;
  if (rules.substreamsRefused && steConfig(w, at) !== CONFIG.BYPASS) {
    if (steS1CdMax(w, at) !== 0 || steS1Stalld(w, at) !== 0) return EVENT.C_BAD_STE;
  }
  if (s1 && !stage1Legal(w, at, f, s2, rules)) return EVENT.C_BAD_STE;
  if (s2 && !stage2Legal(w, at, f, rules)) return EVENT.C_BAD_STE;
  return !f.ats || eatsLegal(w, at, f, atschk, s2) ? 0 : EVENT.C_BAD_STE;
}

function stage1Legal(w: Int32Array, at: number, f: Smmuv3Features, s2: boolean, rules: SteRules): boolean {
  if (steS1ContextPtr(w, at) >= POW2[f.oas]! && !rules.contextPointerUnjudged) return false;
  // Stage 2 makes the StreamWorld NS-EL1 whatever STRW says.
  const strw = s2 || rules.streamWorldIgnored ? STRW.NSEL1 : steStrw(w, at);
  if (strw !== STRW.NSEL1 && !(f.hyp && strw === STRW.EL2)) return false;
  if (steS1Stalld(w, at) !== 0 && f.stallModel !== 0) return false;
  const cdMax = steS1CdMax(w, at);
  // Without substreams S1CDMax is ignored.
  if (f.ssidSize === 0) return true;
  if (cdMax > f.ssidSize) return false;
  const fmt = steS1Fmt(w, at);
  return cdMax === 0 || f.cd2l || (fmt !== S1FMT.L2_4K && fmt !== S1FMT.L2_64K);
}

function stage2Legal(w: Int32Array, at: number, f: Smmuv3Features, rules: SteRules): boolean {
  if (steS2Aa64(w, at) === 0) return false; // AArch32 stage 2: no such SMMU is modelled (IDR0.TTF = 2)
  const granule = GRANULE0[steS2Tg(w, at) as 0 | 1 | 2 | 3];
  if (!granuleSupported(f, granule)) return false;
  const physical = outputBits(steS2Ps(w, at), f.oas, granule);
  const widest = rules.inputWithinS2ps ? physical : f.oas;
  const fewest = rules.emptyStartLevel ? Number.NEGATIVE_INFINITY : 1;
  if (!stage2StartLegal(granule, steS2T0sz(w, at), steS2Sl0(w, at), widest, fewest)) return false;
  if (steS2Ttb(w, at) >= POW2[physical]!) return false;
  if (steS2Endi(w, at) !== 0) return false;
  if (steS2S(w, at) !== 0 ? f.stallModel === 1 : f.stallModel === 2) return false;
  return httuLegal(steS2Ha(w, at), steS2Hd(w, at), f.httu);
}

/** HA needs IDR0.HTTU ≥ 1, HD needs 2. */
export function httuLegal(ha: number, hd: number, httu: number): boolean {
  return (ha === 0 || httu >= 1) && (hd === 0 || httu >= 2);
}

/** S2T0SZ in range and consistent with S2SL0: at least one index bit at the start level, at most 16 tables joined. */
function stage2StartLegal(granule: number, t0sz: number, sl0: number, widest: number, fewest: number): boolean {
  const smallest = granule === 16 ? 64 - widest : Math.max(16, 64 - widest);
  if (t0sz > 39 || t0sz < smallest || sl0 === 3) return false;
  const bits = 64 - t0sz - levelShift(granule, stage2StartLevel(granule, sl0));
  return bits >= fewest && bits <= granule - 3 + 4;
}

function eatsLegal(w: Int32Array, at: number, f: Smmuv3Features, atschk: boolean, s2: boolean): boolean {
  const eats = steEats(w, at);
  const stalls = s2 && steS2S(w, at) !== 0;
  if (eats === EATS.SPLIT && atschk) return steConfig(w, at) === CONFIG.NESTED && !stalls && !f.ns1ats;
  return eats !== EATS.FULL || !stalls;
}
