/**
 * PCI Express Base Specification revision 6.0: messages of the address translation services, chapter 10. Addresses are
 * hi/lo words, sizes are told by the S bit; nothing here allocates.
 */

/** S bit: the range is larger than 4 KiB and its size is in the address. */
export const S_BIT = 0x800;

/** log2 bytes meaning "the whole 64-bit space". */
export const WHOLE_SPACE = 64;

/**
 * Size of the range an address word pair stands for: the lowest zero bit from bit 12 up (PCIe ATS §10.2.3.2).
 * @returns log2 bytes: 12 without S, 13 … 63 with it, WHOLE_SPACE when every bit 62:12 is one.
 */
export function rangeShift(lo: number, hi: number): number {
  if ((lo & S_BIT) === 0) return 12;
  const zerosLo = ~lo & 0xffff_f000;
  if (zerosLo !== 0) return 32 - Math.clz32(zerosLo & -zerosLo);
  const zerosHi = ~hi & 0x7fff_ffff;
  return zerosHi === 0 ? WHOLE_SPACE : 64 - Math.clz32(zerosHi & -zerosHi);
}

/** Low word of the address that encodes the aligned range of 2^shift bytes (shift 12 … 64) around lo/hi. */
export function rangeLow(lo: number, shift: number): number {
  if (shift <= 12) return lo & 0xffff_f000;
  if (shift > 32) return 0xffff_f000 | S_BIT;
  const ones = shift === 13 ? 0 : ((2 ** (shift - 1) - 1) & 0xffff_f000) | 0;
  const keep = shift === 32 ? 0 : -(2 ** shift) | 0;
  return (lo & keep) | ones | S_BIT;
}

/** High word that goes with `rangeLow`. */
export function rangeHigh(hi: number, shift: number): number {
  if (shift <= 32) return hi | 0;
  if (shift >= WHOLE_SPACE) return 0x7fff_ffff;
  const ones = shift === 33 ? 0 : (2 ** (shift - 33) - 1) | 0;
  const keep = -(2 ** (shift - 32)) | 0;
  return (hi & keep) | ones;
}

/** Answers to a page request group (PRG response code). 2 … 14 count as failure. */
export const PRG = { SUCCESS: 0, INVALID: 1, FAILURE: 15 } as const;

/** Message codes of the ATS messages (PCIe ATS, table of message codes). */
export const MESSAGE = { INVALIDATE: 1, INVALIDATE_COMPLETION: 2, PAGE_REQUEST: 4, PRG_RESPONSE: 5 } as const;

/** ITags a function may have outstanding: its Invalidate Queue Depth field, 0 means 32. */
export function queueDepth(field: number): number {
  return field === 0 ? 32 : field;
}
