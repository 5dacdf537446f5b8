/**
 * Arm DDI 0487 issue M.a.a (Architecture Reference Manual), §D8.3, with IHI 0070 issue G.b, §3.13: VMSAv8-64
 * translation table descriptors as an SMMU reads them (§3.13: the access flag and dirty state). A descriptor is
 * two words, lo and hi; `…_HI` masks are for bits 63:32.
 */

/** Bytes of one descriptor. */
export const DESCRIPTOR_BYTES = 8;

/** Descriptor type, bits 1:0. `TABLE` at the last level is a page; `BLOCK` there is reserved (a translation fault). */
export const DESC_TYPE = { BLOCK: 1, TABLE: 3 } as const;

/** Lower attributes of a stage-1 block or page. */
export const S1_LO = { AP1_UNPRIV: 1 << 6, AP2_READ_ONLY: 1 << 7, AF: 1 << 10, NG: 1 << 11 } as const;
/** Upper attributes of a stage-1 block or page. */
export const S1_HI = { DBM: 1 << 19, CONT: 1 << 20, PXN: 1 << 21, UXN: 1 << 22 } as const;
/** Hierarchical attributes of a stage-1 table descriptor. */
export const TABLE_HI = { PXN: 1 << 27, UXN: 1 << 28, AP0_NO_UNPRIV: 1 << 29, AP1_READ_ONLY: 1 << 30 } as const;

/** Lower attributes of a stage-2 block or page. */
export const S2_LO = { S2AP_READ: 1 << 6, S2AP_WRITE: 1 << 7, AF: 1 << 10 } as const;
/** Upper attributes of a stage-2 block or page. XN is bits 54:53 with IDR3.XNX, else bit 54. */
export const S2_HI = { DBM: 1 << 19, CONT: 1 << 20, XN0: 1 << 21, XN1: 1 << 22 } as const;
/** Stage-2 MemAttr[3:2], bits 5:4: zero is device memory. */
export const S2_MEMATTR_OUTER = 3 << 4;

/** Output address bits 47:32 in the high word; with a 64K granule and 52-bit addresses bits 15:12 are [51:48]. */
export const OA_HI = 0xffff;

/** log2 of the bytes one descriptor at `level` maps with granule 2^`granule`. */
export const levelShift = (granule: number, level: number): number => granule + (granule - 3) * (3 - level);

/**
 * Whether a block may stand at `level` (Arm ARM D8.3.1, without FEAT_LPA2): 1 GiB and 2 MiB for 4K, 32 MiB for 16K,
 * 512 MiB for 64K, and 4 TiB for 64K when addresses have 52 bits.
 */
export function blockAllowed(granule: number, level: number, outputBits: number): boolean {
  if (level === 2) return true;
  return level === 1 && (granule === 12 || (granule === 16 && outputBits === 52));
}

/** log2 of adjacent descriptors one contiguous hint joins (Arm ARM D8.7.1). */
export function contiguousLog2(granule: number, level: number): number {
  if (granule === 12) return 4;
  if (granule === 16) return 5;
  return level === 3 ? 7 : 5;
}
