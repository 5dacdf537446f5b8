import { ACCESS } from '../../ports/dma.ts';
import {
  cdAffd,
  cdAsid,
  cdEpd0,
  cdEpd1,
  cdHa,
  cdHad0,
  cdHad1,
  cdHd,
  cdIps,
  cdPan,
  cdT0sz,
  cdT1sz,
  cdTbi,
  cdTg0,
  cdTg1,
  cdUwxn,
  cdWxn,
  GRANULE0,
  GRANULE1,
} from '../../spec/smmuv3/cd.ts';
import { levelShift } from '../../spec/smmuv3/descriptors.ts';
import { ADDRESS_BITS } from '../../spec/smmuv3/registers.ts';
import { steS2Affd, steS2Ha, steS2Hd, steS2Ps, steS2Ptw, steS2Sl0, steS2T0sz, steS2Tg } from '../../spec/smmuv3/ste.ts';
import { VMSA_ARCHITECTURE } from './vmsa-choices.ts';

/**
 * Permissions of a mapping for both privileges at once: R, W, X for unprivileged accesses in bits 2:0 and the same for
 * privileged ones in bits 5:3. ACCESS.READ, WRITE and EXEC are the bits of one half.
 */
export const PERM_ALL = 0x3f;
export const PERM_PRIV_SHIFT = 3;
export const PERM_READ = ACCESS.READ * 9;
export const PERM_WRITE = ACCESS.WRITE * 9;
export const PERM_EXEC = ACCESS.EXEC * 9;

/**
 * The permission bits an access needs. An instruction fetch needs X alone; a write is never an instruction fetch
 * (IHI 0070 §7.3: InD is 0 for writes).
 */
export function permNeeded(access: number): number {
  const plain = access & (ACCESS.READ | ACCESS.WRITE);
  const bits = (access & ACCESS.EXEC) !== 0 && (access & ACCESS.WRITE) === 0 ? ACCESS.EXEC : plain;
  return (access & ACCESS.PRIV) !== 0 ? bits << PERM_PRIV_SHIFT : bits;
}

/** ACCESS bits a permission grants to accesses of the privilege in `access`; PRIV is repeated. */
export function permGranted(perm: number, access: number): number {
  const priv = access & ACCESS.PRIV;
  return (priv !== 0 ? perm >>> PERM_PRIV_SHIFT : perm & 7) | priv;
}

/** One half of a stage-1 address space: TTB0 or TTB1. Fields are plain so that walks read numbers only. */
export interface HalfRegime {
  /** A PA, or an IPA under stage 2, in words. Aligned to the start table. */
  ttbLo: number;
  ttbHi: number;
  /** log2 of the granule: 12, 14 or 16. */
  granule: number;
  /** Bits of input address the tables resolve. */
  inBits: number;
  startLevel: number;
  /** Bits of output address, 32..52; beyond is F_ADDR_SIZE. */
  outBits: number;
  /** EPDx: no walks. */
  disabled: boolean;
  /** TBIx: bits 63:56 of the input do not take part. */
  tbi: boolean;
  /** HADx: hierarchical attributes do not take part. */
  had: boolean;
}

/** What a CD says to a walk (IHI 0070 §5.4). */
export interface Stage1Regime {
  readonly half0: HalfRegime;
  readonly half1: HalfRegime;
  asid: number;
  affd: boolean;
  ha: boolean;
  hd: boolean;
  wxn: boolean;
  uwxn: boolean;
  pan: boolean;
}

/** What an STE says to a stage-2 walk (IHI 0070 §5.2). */
export interface Stage2Regime {
  /** PA in words. Aligned to the (concatenated) start table. */
  ttbLo: number;
  ttbHi: number;
  granule: number;
  /** Bits of IPA the tables resolve. */
  inBits: number;
  startLevel: number;
  outBits: number;
  affd: boolean;
  /** S2PTW: stage-1 tables in device memory are a permission fault. */
  ptw: boolean;
  ha: boolean;
  hd: boolean;
  /** IDR3.XNX: XN has two bits. */
  xnx: boolean;
  /** Of concatenated start tables only the first is looked at. Never so by the architecture. */
  firstTableOnly: boolean;
}

function half(): HalfRegime {
  return {
    ttbLo: 0,
    ttbHi: 0,
    granule: 12,
    inBits: 48,
    startLevel: 0,
    outBits: 48,
    disabled: true,
    tbi: false,
    had: false,
  };
}

/** An empty regime (both halves disabled), to be filled by `readStage1`. */
export function stage1Regime(): Stage1Regime {
  return {
    half0: half(),
    half1: half(),
    asid: 0,
    affd: false,
    ha: false,
    hd: false,
    wxn: false,
    uwxn: false,
    pan: false,
  };
}

export function stage2Regime(): Stage2Regime {
  return {
    ttbLo: 0,
    ttbHi: 0,
    granule: 12,
    inBits: 48,
    startLevel: 0,
    outBits: 48,
    affd: false,
    ptw: false,
    ha: false,
    hd: false,
    xnx: true,
    firstTableOnly: false,
  };
}

/** Bits 51:32 of CD.TTBx and STE.S2TTB (words 2 and 4 of a CD, word 6 of an STE hold the low halves). */
const TTB_HI = 0xf_ffff;

/** Effective output size: min(IPS or S2PS, OAS), and 48 bits at most unless the granule is 64K. */
export function outputBits(ps: number, oas: number, granule: number): number {
  const bits = Math.min(ADDRESS_BITS[ps & 7]!, oas);
  return granule === 16 ? bits : Math.min(bits, 48);
}

/** First level of a stage-1 walk that resolves `inBits` bits with granule 2^`granule`. */
export function stage1StartLevel(granule: number, inBits: number): number {
  return 4 - Math.ceil((inBits - granule) / (granule - 3));
}

/** S2SL0 counts levels upwards: 4K 0→2, 1→1, 2→0; 16K and 64K 0→3, 1→2, 2→1. */
export function stage2StartLevel(granule: number, sl0: number): number {
  return Math.max(0, (granule === 12 ? 2 : 3) - sl0);
}

/** The low word of a table base with the bits below the table's own size taken as zero; a table is at most 1 MiB. */
function alignedLo(ttbLo: number, granule: number, inBits: number, startLevel: number): number {
  return ttbLo & -(1 << Math.max(4, Math.min(20, inBits - levelShift(granule, startLevel) + 3)));
}

function setHalf(
  h: HalfRegime,
  ttbLo: number,
  ttbHi: number,
  granule: number,
  tsz: number,
  ips: number,
  oas: number,
): void {
  // Clamped so that a walk is bounded whatever was not checked: only disabled halves get here unchecked.
  const g = granule === 0 ? 12 : granule;
  h.granule = g;
  h.inBits = 64 - Math.min(39, Math.max(16, tsz));
  h.startLevel = stage1StartLevel(g, h.inBits);
  h.outBits = outputBits(ips, oas, g);
  h.ttbLo = alignedLo(ttbLo, g, h.inBits, h.startLevel);
  h.ttbHi = ttbHi & TTB_HI;
}

/**
 * Fills `into` from the CD at word index `at`, which `checkCd` has found valid.
 * @param oas output address size of the SMMU in bits.
 */
export function readStage1(
  into: Stage1Regime,
  w: Int32Array,
  at: number,
  oas: number,
  choices = VMSA_ARCHITECTURE,
): void {
  const tbi = choices.topByteByHalf ? cdTbi(w, at) : (cdTbi(w, at) & 1) * 3;
  const ips = cdIps(w, at);
  const most = Math.min(oas, choices.outputLimit);
  setHalf(into.half0, w[at + 2]!, w[at + 3]!, GRANULE0[cdTg0(w, at) as 0 | 1 | 2 | 3], cdT0sz(w, at), ips, most);
  setHalf(into.half1, w[at + 4]!, w[at + 5]!, GRANULE1[cdTg1(w, at) as 0 | 1 | 2 | 3], cdT1sz(w, at), ips, most);
  into.half0.disabled = cdEpd0(w, at) !== 0;
  into.half1.disabled = cdEpd1(w, at) !== 0;
  into.half0.tbi = (tbi & 1) !== 0;
  into.half1.tbi = (tbi & 2) !== 0;
  into.half0.had = cdHad0(w, at) !== 0;
  into.half1.had = cdHad1(w, at) !== 0;
  into.asid = cdAsid(w, at);
  into.affd = cdAffd(w, at) !== 0;
  into.ha = cdHa(w, at) !== 0;
  into.hd = cdHa(w, at) !== 0 && cdHd(w, at) !== 0;
  into.wxn = cdWxn(w, at) !== 0;
  into.uwxn = cdUwxn(w, at) !== 0;
  into.pan = cdPan(w, at) !== 0;
}

/** Fills `into` from the STE at word index `at`, which `checkSte` has found valid. @param xnx IDR3.XNX. */
export function readStage2(into: Stage2Regime, w: Int32Array, at: number, oas: number, xnx: boolean): void {
  const tg = GRANULE0[steS2Tg(w, at) as 0 | 1 | 2 | 3];
  const g = tg === 0 ? 12 : tg;
  into.granule = g;
  into.inBits = 64 - Math.min(39, Math.max(12, steS2T0sz(w, at)));
  into.startLevel = stage2StartLevel(g, steS2Sl0(w, at));
  into.outBits = outputBits(steS2Ps(w, at), oas, g);
  into.ttbLo = alignedLo(w[at + 6]!, g, into.inBits, into.startLevel);
  into.ttbHi = w[at + 7]! & TTB_HI;
  into.affd = steS2Affd(w, at) !== 0;
  into.ptw = steS2Ptw(w, at) !== 0;
  into.ha = steS2Ha(w, at) !== 0;
  into.hd = into.ha && steS2Hd(w, at) !== 0;
  into.xnx = xnx;
}
