/** Arm IHI 0070 issue G.b (System Memory Management Unit architecture, version 3): stream table entries, §5.1 and §5.2. */

import { field, fromWords } from '../../core/bits.ts';

/**
 * Stream table entries as words (IHI 0070 §5.2): 64 bytes, 16 words; word 2n and 2n+1 are the halves of 64-bit word n.
 * Accessors take the entry's words and its word index, and allocate nothing.
 */
export const STE_BYTES = 64;
export const STE_WORDS = 16;

/** STE.Config (bits [3:1]); 0–3 abort. Bit 0 enables stage 1 and bit 1 stage 2 when bit 2 is set. */
export const CONFIG = { ABORT: 0, BYPASS: 4, S1: 5, S2: 6, NESTED: 7 } as const;
/** STE.S1Fmt: shape of the CD table; 3 behaves as linear. */
export const S1FMT = { LINEAR: 0, L2_4K: 1, L2_64K: 2 } as const;
/** STE.S1DSS: a transaction without SubstreamID while S1CDMax > 0. */
export const S1DSS = { TERMINATE: 0, BYPASS: 1, SSID0: 2 } as const;
/** STE.EATS. */
export const EATS = { ABORT: 0, FULL: 1, SPLIT: 2, DPT: 3 } as const;
export const STRW = { NSEL1: 0, EL2: 2 } as const;

/** The bits of STE words 0 and 1 (as word pairs) that a host takes for a stage-1 context: its identity. */
export const S1_IDENTITY_MASK = [0xffff_ffff | 0, 0xf80f_ffff | 0, 0x3800_00ff, 0] as const;

type Words = Int32Array | readonly number[];

export const steValid = (w: Words, at: number) => (w[at]! & 1) !== 0;
export const steConfig = (w: Words, at: number) => field(w[at]!, 1, 3);
export const steS1Enabled = (w: Words, at: number) => (w[at]! & 0xa) === 0xa;
export const steS2Enabled = (w: Words, at: number) => (w[at]! & 0xc) === 0xc;
export const steS1Fmt = (w: Words, at: number) => field(w[at]!, 4, 2);
/** Bytes, 64-byte aligned; a PA, or an IPA when stage 2 is enabled. */
export const steS1ContextPtr = (w: Words, at: number) => fromWords(w[at]! & ~0x3f, w[at + 1]! & 0xf_ffff);
/** log2 of the number of CDs. */
export const steS1CdMax = (w: Words, at: number) => w[at + 1]! >>> 27;
export const steS1Dss = (w: Words, at: number) => w[at + 2]! & 3;
export const steMev = (w: Words, at: number) => field(w[at + 2]!, 19, 1);
export const steS2Fwb = (w: Words, at: number) => field(w[at + 2]!, 25, 1);
export const steS1Stalld = (w: Words, at: number) => field(w[at + 2]!, 27, 1);
export const steEats = (w: Words, at: number) => field(w[at + 2]!, 28, 2);
export const steStrw = (w: Words, at: number) => field(w[at + 2]!, 30, 2);
export const steS2Vmid = (w: Words, at: number) => w[at + 4]! & 0xffff;
export const steS2T0sz = (w: Words, at: number) => w[at + 5]! & 0x3f;
export const steS2Sl0 = (w: Words, at: number) => field(w[at + 5]!, 6, 2);
/** 0 4K, 1 64K, 2 16K. */
export const steS2Tg = (w: Words, at: number) => field(w[at + 5]!, 14, 2);
export const steS2Ps = (w: Words, at: number) => field(w[at + 5]!, 16, 3);
export const steS2Aa64 = (w: Words, at: number) => field(w[at + 5]!, 19, 1);
export const steS2Endi = (w: Words, at: number) => field(w[at + 5]!, 20, 1);
export const steS2Affd = (w: Words, at: number) => field(w[at + 5]!, 21, 1);
export const steS2Ptw = (w: Words, at: number) => field(w[at + 5]!, 22, 1);
export const steS2Hd = (w: Words, at: number) => field(w[at + 5]!, 23, 1);
export const steS2Ha = (w: Words, at: number) => field(w[at + 5]!, 24, 1);
export const steS2S = (w: Words, at: number) => field(w[at + 5]!, 25, 1);
export const steS2R = (w: Words, at: number) => field(w[at + 5]!, 26, 1);
/** Bytes, 16-byte aligned. */
export const steS2Ttb = (w: Words, at: number) => fromWords(w[at + 6]! & ~0xf, w[at + 7]! & 0xf_ffff);

/** Level-1 stream table descriptor (IHI 0070 §5.1), 8 bytes. */
export const l1StdSpan = (lo: number) => lo & 0x1f;
/** Bytes, 64-byte aligned. */
export const l1StdL2Ptr = (lo: number, hi: number) => fromWords(lo & ~0x3f, hi & 0xf_ffff);
