/** Arm IHI 0070 issue G.b (System Memory Management Unit architecture, version 3): stream table entries, §5.1 and §5.2. */

import { field, fromWords, type WordArray } from '../../core/bits.ts';

/**
 * Stream table entries as words (IHI 0070 §5.2): 64 bytes, 16 words; word 2n and 2n+1 are the halves of 64-bit word n.
 * Accessors take the entry's words and its word index, and allocate nothing.
 */
export const STE_BYTES = 64;
/** 32-bit words of an STE. */
export const STE_WORDS = 16;

/** STE.Config (bits [3:1]); 0–3 abort. Bit 0 enables stage 1 and bit 1 stage 2 when bit 2 is set. */
export const CONFIG = { ABORT: 0, BYPASS: 4, S1: 5, S2: 6, NESTED: 7 } as const;
/** STE.S1Fmt: shape of the CD table; 3 behaves as linear. */
export const S1FMT = { LINEAR: 0, L2_4K: 1, L2_64K: 2 } as const;
/** STE.S1DSS: a transaction without SubstreamID while S1CDMax > 0. */
export const S1DSS = { TERMINATE: 0, BYPASS: 1, SSID0: 2 } as const;
/** STE.EATS. */
export const EATS = { ABORT: 0, FULL: 1, SPLIT: 2, DPT: 3 } as const;
/** STE.STRW: the translation regime of stage 1. */
export const STRW = { NSEL1: 0, EL2: 2 } as const;

/** The bits of STE words 0 and 1 (as word pairs) that a host takes for a stage-1 context: its identity. */
export const S1_IDENTITY_MASK = [0xffff_ffff | 0, 0xf80f_ffff | 0, 0x3800_00ff, 0] as const;

/** V. */
export const steValid = (w: WordArray, at: number) => (w[at]! & 1) !== 0;
/** Config, a CONFIG value. */
export const steConfig = (w: WordArray, at: number) => field(w[at]!, 1, 3);
/** Stage 1 translates (the entry is valid and Config has bits 2 and 0). */
export const steS1Enabled = (w: WordArray, at: number) => (w[at]! & 0xa) === 0xa;
/** Stage 2 translates (the entry is valid and Config has bits 2 and 1). */
export const steS2Enabled = (w: WordArray, at: number) => (w[at]! & 0xc) === 0xc;
/** S1Fmt, an S1FMT value. */
export const steS1Fmt = (w: WordArray, at: number) => field(w[at]!, 4, 2);
/** Bytes, 64-byte aligned; a PA, or an IPA when stage 2 is enabled. */
export const steS1ContextPtr = (w: WordArray, at: number) => fromWords(w[at]! & ~0x3f, w[at + 1]! & 0xf_ffff);
/** log2 of the number of CDs. */
export const steS1CdMax = (w: WordArray, at: number) => w[at + 1]! >>> 27;
/** S1DSS, an S1DSS value. */
export const steS1Dss = (w: WordArray, at: number) => w[at + 2]! & 3;
/** MEV: similar events may be merged. */
export const steMev = (w: WordArray, at: number) => field(w[at + 2]!, 19, 1);
/** S2FWB: stage 2 decides memory attributes. */
export const steS2Fwb = (w: WordArray, at: number) => field(w[at + 2]!, 25, 1);
/** S1STALLD: stage-1 faults never stall. */
export const steS1Stalld = (w: WordArray, at: number) => field(w[at + 2]!, 27, 1);
/** EATS, an EATS value. */
export const steEats = (w: WordArray, at: number) => field(w[at + 2]!, 28, 2);
/** STRW, an STRW value. */
export const steStrw = (w: WordArray, at: number) => field(w[at + 2]!, 30, 2);
/** S2VMID. */
export const steS2Vmid = (w: WordArray, at: number) => w[at + 4]! & 0xffff;
/** S2T0SZ: the IPA space is 2^(64-S2T0SZ) bytes. */
export const steS2T0sz = (w: WordArray, at: number) => w[at + 5]! & 0x3f;
/** S2SL0: start level of stage 2. */
export const steS2Sl0 = (w: WordArray, at: number) => field(w[at + 5]!, 6, 2);
/** 0 4K, 1 64K, 2 16K. */
export const steS2Tg = (w: WordArray, at: number) => field(w[at + 5]!, 14, 2);
/** S2PS: output address size, an index of ADDRESS_BITS. */
export const steS2Ps = (w: WordArray, at: number) => field(w[at + 5]!, 16, 3);
/** S2AA64: VMSAv8-64 tables. */
export const steS2Aa64 = (w: WordArray, at: number) => field(w[at + 5]!, 19, 1);
/** S2ENDI: big-endian tables. */
export const steS2Endi = (w: WordArray, at: number) => field(w[at + 5]!, 20, 1);
/** S2AFFD: a clear access flag is no fault. */
export const steS2Affd = (w: WordArray, at: number) => field(w[at + 5]!, 21, 1);
/** S2PTW: stage-1 walks to Device memory fault. */
export const steS2Ptw = (w: WordArray, at: number) => field(w[at + 5]!, 22, 1);
/** S2HD: hardware updates the dirty state. */
export const steS2Hd = (w: WordArray, at: number) => field(w[at + 5]!, 23, 1);
/** S2HA: hardware updates the access flag. */
export const steS2Ha = (w: WordArray, at: number) => field(w[at + 5]!, 24, 1);
/** PPAR: automatic page responses repeat the PASID of the request. */
export const stePpar = (w: WordArray, at: number) => field(w[at + 2]!, 18, 1);
/** S2S: stage-2 faults stall. */
export const steS2S = (w: WordArray, at: number) => field(w[at + 5]!, 25, 1);
/** S2R: stage-2 faults are recorded. */
export const steS2R = (w: WordArray, at: number) => field(w[at + 5]!, 26, 1);
/** Bytes, 16-byte aligned. */
export const steS2Ttb = (w: WordArray, at: number) => fromWords(w[at + 6]! & ~0xf, w[at + 7]! & 0xf_ffff);

/** Level-1 stream table descriptor (IHI 0070 §5.1), 8 bytes. */
export const l1StdSpan = (lo: number) => lo & 0x1f;
/** Bytes, 64-byte aligned. */
export const l1StdL2Ptr = (lo: number, hi: number) => fromWords(lo & ~0x3f, hi & 0xf_ffff);
