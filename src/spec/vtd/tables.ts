/**
 * Intel D51397 revision 5.10 (Virtualization Technology for Directed I/O, architecture specification): root, context
 * and PASID tables, §9.1 to §9.6. Entries are read field by field from 32-bit words (word 2i is the low half of qword i).
 * Nothing here allocates; nothing here judges.
 */

/** Bits [51:12] of a qword as a physical address (bytes). Bits above 51 are for the reserved-bit check. */
export function pointer(lo: number, hi: number): number {
  return (hi & 0xf_ffff) * 0x1_0000_0000 + ((lo & ~0xfff) >>> 0);
}

/** Bytes of an entry. */
export const ROOT_BYTES = 16;
/** Bytes of a legacy context entry. */
export const CONTEXT_BYTES = 16;
/** Bytes of a scalable-mode context entry. */
export const SM_CONTEXT_BYTES = 32;
/** Bytes of a PASID directory entry. */
export const PASID_DIR_BYTES = 8;
/** Bytes of a PASID table entry. */
export const PASID_BYTES = 64;

/** Root entry. In scalable mode qword 0 is the lower half (devfn < 0x80), qword 1 the upper. */
export const root = {
  p: (lo: number): boolean => (lo & 1) !== 0,
  pointer,
} as const;

/** Translation type of a legacy context entry. */
export const TT = { UNTRANSLATED: 0, ALL: 1, PASS_THROUGH: 2, RESERVED: 3 } as const;

/** Legacy context entry: words w0, w1 (low qword), w2 (high qword, low half). */
export const context = {
  p: (w0: number): boolean => (w0 & 1) !== 0,
  fpd: (w0: number): boolean => (w0 & 2) !== 0,
  tt: (w0: number): number => (w0 >>> 2) & 3,
  ssptptr: pointer,
  aw: (w2: number): number => w2 & 7,
  did: (w2: number): number => (w2 >>> 8) & 0xffff,
} as const;

/** Scalable-mode context entry. */
export const smContext = {
  p: (w0: number): boolean => (w0 & 1) !== 0,
  fpd: (w0: number): boolean => (w0 & 2) !== 0,
  dte: (w0: number): boolean => (w0 & 4) !== 0,
  paside: (w0: number): boolean => (w0 & 8) !== 0,
  pre: (w0: number): boolean => (w0 & 0x10) !== 0,
  hpte: (w0: number): boolean => (w0 & 0x20) !== 0,
  /** Directory entries: 2^(PDTS+7). */
  pdts: (w0: number): number => (w0 >>> 9) & 7,
  pasiddirptr: pointer,
  ridPasid: (w2: number): number => w2 & 0xf_ffff,
  ridPriv: (w2: number): boolean => (w2 & 0x10_0000) !== 0,
} as const;

/** PASID directory entry; the index is PASID[19:6]. */
export const pasidDir = {
  p: (lo: number): boolean => (lo & 1) !== 0,
  fpd: (lo: number): boolean => (lo & 2) !== 0,
  smptblptr: pointer,
} as const;

/** PASID granular translation type. */
export const PGTT = { FIRST: 1, SECOND: 2, NESTED: 3, PASS_THROUGH: 4 } as const;

/**
 * First-stage paging mode of a PASID entry. 2 and 3 are reserved (§9.6): a unit with narrow first stages takes them as four
 * levels whose input has 39 or 30 bits.
 */
export const FSPM = { FOUR_LEVELS: 0, FIVE_LEVELS: 1, INPUT_39: 2, INPUT_30: 3 } as const;
/** Input bits of each FSPM value. */
export const FSPM_BITS: readonly number[] = [48, 57, 39, 30];

/** PASID table entry, word 2: walks snoop; every access snoops. Reserved without ECAP.SMPWCS and ECAP.SC. */
export const PWSNP = 0x80_0000;
/** PASID table entry, word 2: PGSNP. */
export const PGSNP = 0x100_0000;

/** PASID table entry; the index is PASID[5:0]. `w0`, `w1`: qword 0; `w2`: qword 1; `w4`, `w5`: qword 2. */
export const pasidEntry = {
  p: (w0: number): boolean => (w0 & 1) !== 0,
  fpd: (w0: number): boolean => (w0 & 2) !== 0,
  aw: (w0: number): number => (w0 >>> 2) & 7,
  /** Second-stage execute-request enable of old revisions; reserved today. */
  slee: (w0: number): boolean => (w0 & 0x20) !== 0,
  pgtt: (w0: number): number => (w0 >>> 6) & 7,
  ssade: (w0: number): boolean => (w0 & 0x200) !== 0,
  ssptptr: pointer,
  did: (w2: number): number => w2 & 0xffff,
  pgsnp: (w2: number): boolean => (w2 & PGSNP) !== 0,
  sre: (w4: number): boolean => (w4 & 1) !== 0,
  ere: (w4: number): boolean => (w4 & 2) !== 0,
  /** First-stage paging mode, see FSPM. */
  fspm: (w4: number): number => (w4 >>> 2) & 3,
  wpe: (w4: number): boolean => (w4 & 0x10) !== 0,
  nxe: (w4: number): boolean => (w4 & 0x20) !== 0,
  eafe: (w4: number): boolean => (w4 & 0x80) !== 0,
  fsptptr: pointer,
} as const;

/** Levels and input width a second-stage AW field (context AW, PASID entry AW) stands for: 1 → 39, 2 → 48, 3 → 57. */
export function awLevels(aw: number): number {
  return aw >= 1 && aw <= 3 ? aw + 2 : 0;
}
/** Address width in bits of an AW or AGAW value. */
export function awBits(aw: number): number {
  return aw >= 1 && aw <= 3 ? 30 + 9 * aw : 0;
}

/**
 * Reserved bits of qwords, as words, with every optional feature absent (VT-d §9; a unit with the feature takes its bits
 * out). Pointer bits above the host address width come on top of these: `aboveWidth`.
 */
// biome-ignore format: table
export const TABLE_RESERVED = {
  ROOT:        [0x0ffe, 0, -1, -1],
  SM_ROOT:     [0x0ffe, 0, 0x0ffe, 0],
  CONTEXT:     [0x0ff0, 0, 0xff00_0080 | 0, -1],
  /** q0 [8:2] without DT, PRS and PASID support. */
  SM_CONTEXT:  [0x01fc, 0, 0xfff0_0000 | 0, -1, -1, -1, -1, -1],
  PASID_DIR:   [0x0ffc, 0],
  /** q0 5, 10, 11 and SSADE 9; q1 [22:16], [63:25] and PWSNP 23, PGSNP 24; q2 without first stage: all but 5 and 6. */
  PASID:       [0x0e20, 0, 0xffff_0000 | 0, -1, -97, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1],
} as const;

/** The bits of a high word that lie at or above physical address bit `haw` (32 to 64): reserved in every pointer. */
export function aboveWidth(haw: number): number {
  return haw >= 64 ? 0 : haw <= 32 ? -1 : -1 << (haw - 32);
}
