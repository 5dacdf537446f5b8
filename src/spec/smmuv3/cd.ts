/** Arm IHI 0070 issue G.b (System Memory Management Unit architecture, version 3): context descriptors, §5.4. */

import { field, fromWords } from '../../core/bits.ts';

/** Context descriptors as words (IHI 0070 §5.4): 64 bytes, 16 words. Accessors as in ste.ts. */
export const CD_BYTES = 64;
export const CD_WORDS = 16;

type Words = Int32Array | readonly number[];

export const cdT0sz = (w: Words, at: number) => w[at]! & 0x3f;
/** 0 4K, 1 64K, 2 16K. */
export const cdTg0 = (w: Words, at: number) => field(w[at]!, 6, 2);
export const cdEpd0 = (w: Words, at: number) => field(w[at]!, 14, 1);
/** Big-endian tables. */
export const cdEndi = (w: Words, at: number) => field(w[at]!, 15, 1);
export const cdT1sz = (w: Words, at: number) => field(w[at]!, 16, 6);
/** 1 16K, 2 4K, 3 64K: other encoding than TG0. */
export const cdTg1 = (w: Words, at: number) => field(w[at]!, 22, 2);
export const cdEpd1 = (w: Words, at: number) => field(w[at]!, 30, 1);
export const cdValid = (w: Words, at: number) => w[at]! < 0;
export const cdIps = (w: Words, at: number) => w[at + 1]! & 7;
export const cdAffd = (w: Words, at: number) => field(w[at + 1]!, 3, 1);
export const cdWxn = (w: Words, at: number) => field(w[at + 1]!, 4, 1);
export const cdUwxn = (w: Words, at: number) => field(w[at + 1]!, 5, 1);
/** Bit 0: TTB0, bit 1: TTB1 ignores the top byte. */
export const cdTbi = (w: Words, at: number) => field(w[at + 1]!, 6, 2);
export const cdPan = (w: Words, at: number) => field(w[at + 1]!, 8, 1);
export const cdAa64 = (w: Words, at: number) => field(w[at + 1]!, 9, 1);
export const cdHd = (w: Words, at: number) => field(w[at + 1]!, 10, 1);
export const cdHa = (w: Words, at: number) => field(w[at + 1]!, 11, 1);
/** Stall, record and abort behaviour of this context's faults. */
export const cdS = (w: Words, at: number) => field(w[at + 1]!, 12, 1);
export const cdR = (w: Words, at: number) => field(w[at + 1]!, 13, 1);
export const cdA = (w: Words, at: number) => field(w[at + 1]!, 14, 1);
export const cdAset = (w: Words, at: number) => field(w[at + 1]!, 15, 1);
export const cdAsid = (w: Words, at: number) => w[at + 1]! >>> 16;
/** Disable hierarchical attributes of the table. */
export const cdHad0 = (w: Words, at: number) => field(w[at + 2]!, 1, 1);
export const cdHad1 = (w: Words, at: number) => field(w[at + 4]!, 1, 1);
/** Bytes, 16-byte aligned. */
export const cdTtb0 = (w: Words, at: number) => fromWords(w[at + 2]! & ~0xf, w[at + 3]! & 0xf_ffff);
export const cdTtb1 = (w: Words, at: number) => fromWords(w[at + 4]! & ~0xf, w[at + 5]! & 0xf_ffff);

/** log2 of the granule for CD.TG0 and STE.S2TG; 0 is reserved. */
export const GRANULE0 = [12, 16, 14, 0] as const;
/** log2 of the granule for CD.TG1; 0 is reserved. */
export const GRANULE1 = [0, 14, 12, 16] as const;

/** Level-1 CD descriptor (IHI 0070 §5.3), 8 bytes. */
export const l1CdValid = (lo: number) => (lo & 1) !== 0;
/** Bytes, 4 KiB aligned. */
export const l1CdL2Ptr = (lo: number, hi: number) => fromWords(lo & ~0xfff, hi & 0xf_ffff);
/** log2 of CDs in one level-2 table: S1Fmt 1 (4K) and 2 (64K). */
export const CD_SPLIT_4K = 6;
export const CD_SPLIT_64K = 10;
