import { field } from '../../src/core/bits.ts';
import { type Smmuv3Features, smmuv3Features } from '../../src/lib/check/smmuv3-features.ts';
import { PAGE0 } from '../../src/spec/smmuv3/registers.ts';
import type { Smmuv3Identity } from './identity.ts';

/** IDR0.TTF and TTENDIAN codes that do what the guest is shown: AArch64 tables, little-endian. */
const AARCH64 = [2, 3];
const LITTLE = [0, 2];

/**
 * Whether a host SMMU can stand behind the identity a guest is shown. Table granules and the stream table's shape must be
 * equal (the guest's own tables are walked by it); sizes and optional features at least as large.
 * @param idr IDR0 to IDR5 of the physical SMMU, from GET_HW_INFO.
 * @returns what is missing, in the registers' words, or null.
 */
export function missingOnHost(guest: Smmuv3Identity, idr: ArrayLike<number>): string | null {
  const g = smmuv3Features(guest.idr0, guest.idr1, guest.idr3, guest.idr5);
  const h = smmuv3Features(idr[0]!, idr[1]!, idr[3]!, idr[5]!);
  const { TTF, TTENDIAN } = PAGE0.IDR0.fields;
  if (!AARCH64.includes(field(idr[0]!, TTF[0], TTF[1]))) return 'TTF';
  if (!LITTLE.includes(field(idr[0]!, TTENDIAN[0], TTENDIAN[1]))) return 'TTENDIAN';
  if (!h.s1p || !h.s2p) return h.s1p ? 'S2P' : 'S1P';
  const equal = ['twoLevel', 'gran4k', 'gran16k', 'gran64k'] as const satisfies readonly (keyof Smmuv3Features)[];
  for (const name of equal) if (g[name] !== h[name]) return name === 'twoLevel' ? 'ST_LEVEL' : name.toUpperCase();
  if (h.sidSize < g.sidSize) return 'SIDSIZE';
  if (h.ssidSize < g.ssidSize) return 'SSIDSIZE';
  if (h.oas < g.oas) return 'OAS';
  if (h.httu < g.httu) return 'HTTU';
  const wanted = ['ril', 'ats', 'pri', 'pps', 'cd2l'] as const satisfies readonly (keyof Smmuv3Features)[];
  for (const name of wanted) if (g[name] && !h[name]) return name.toUpperCase();
  if (g.stallModel === 0 && h.stallModel === 1) return 'STALL_MODEL';
  return null;
}
