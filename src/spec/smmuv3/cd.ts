/** Arm IHI 0070 issue G.b (System Memory Management Unit architecture, version 3): context descriptors, §5.4. */

import { field, fromWords, type WordArray } from '../../core/bits.ts';

/** Context descriptors as words (IHI 0070 §5.4): 64 bytes, 16 words. Accessors as in ste.ts. */
export const CD_BYTES = 64;
/** 32-bit words of a CD. */
export const CD_WORDS = 16;

/** T0SZ: the TTB0 region is 2^(64-T0SZ) bytes. */
export const cdT0sz = (w: WordArray, at: number) => w[at]! & 0x3f;
/** 0 4K, 1 64K, 2 16K. */
export const cdTg0 = (w: WordArray, at: number) => field(w[at]!, 6, 2);
/** EPD0: walks of TTB0 fault. */
export const cdEpd0 = (w: WordArray, at: number) => field(w[at]!, 14, 1);
/** Big-endian tables. */
export const cdEndi = (w: WordArray, at: number) => field(w[at]!, 15, 1);
/** T1SZ: the TTB1 region is 2^(64-T1SZ) bytes. */
export const cdT1sz = (w: WordArray, at: number) => field(w[at]!, 16, 6);
/** 1 16K, 2 4K, 3 64K: other encoding than TG0. */
export const cdTg1 = (w: WordArray, at: number) => field(w[at]!, 22, 2);
/** EPD1: walks of TTB1 fault. */
export const cdEpd1 = (w: WordArray, at: number) => field(w[at]!, 30, 1);
/** V. */
export const cdValid = (w: WordArray, at: number) => w[at]! < 0;
/** IPS: intermediate address size, an index of ADDRESS_BITS. */
export const cdIps = (w: WordArray, at: number) => w[at + 1]! & 7;
/** AFFD: a clear access flag is no fault. */
export const cdAffd = (w: WordArray, at: number) => field(w[at + 1]!, 3, 1);
/** WXN: writable means not executable. */
export const cdWxn = (w: WordArray, at: number) => field(w[at + 1]!, 4, 1);
/** UWXN: writable by unprivileged accesses means not executable by privileged ones. */
export const cdUwxn = (w: WordArray, at: number) => field(w[at + 1]!, 5, 1);
/** Bit 0: TTB0, bit 1: TTB1 ignores the top byte. */
export const cdTbi = (w: WordArray, at: number) => field(w[at + 1]!, 6, 2);
/** PAN: privileged accesses to unprivileged pages fault. */
export const cdPan = (w: WordArray, at: number) => field(w[at + 1]!, 8, 1);
/** AA64: VMSAv8-64 tables. */
export const cdAa64 = (w: WordArray, at: number) => field(w[at + 1]!, 9, 1);
/** HD: hardware updates the dirty state. */
export const cdHd = (w: WordArray, at: number) => field(w[at + 1]!, 10, 1);
/** HA: hardware updates the access flag. */
export const cdHa = (w: WordArray, at: number) => field(w[at + 1]!, 11, 1);
/** Stall, record and abort behaviour of this context's faults. */
export const cdS = (w: WordArray, at: number) => field(w[at + 1]!, 12, 1);
/** R: faults are recorded. */
export const cdR = (w: WordArray, at: number) => field(w[at + 1]!, 13, 1);
/** A: faults abort; else reads give zero and writes vanish. */
export const cdA = (w: WordArray, at: number) => field(w[at + 1]!, 14, 1);
/** ASET: the ASID takes no part in broadcast invalidation. */
export const cdAset = (w: WordArray, at: number) => field(w[at + 1]!, 15, 1);
/** ASID. */
export const cdAsid = (w: WordArray, at: number) => w[at + 1]! >>> 16;
/** Disable hierarchical attributes of the table. */
export const cdHad0 = (w: WordArray, at: number) => field(w[at + 2]!, 1, 1);
/** HAD1: no hierarchical attributes in TTB1's tables. */
export const cdHad1 = (w: WordArray, at: number) => field(w[at + 4]!, 1, 1);
/** Bytes, 16-byte aligned. */
export const cdTtb0 = (w: WordArray, at: number) => fromWords(w[at + 2]! & ~0xf, w[at + 3]! & 0xf_ffff);
/** TTB1 in bytes, 16-byte aligned; a PA, or an IPA when stage 2 is enabled. */
export const cdTtb1 = (w: WordArray, at: number) => fromWords(w[at + 4]! & ~0xf, w[at + 5]! & 0xf_ffff);

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
/** log2 CDs of a second-level table of 64 KiB (STE.S1Fmt 2). */
export const CD_SPLIT_64K = 10;
