import { E } from '../../../spec/iommufd/errno.ts';
import { CONFIG, EATS } from '../../../spec/smmuv3/ste.ts';
import { VSTE_ALLOWED } from './entries.ts';

/** Bytes of `struct iommu_hwpt_arm_smmuv3`. */
export const VSTE_BYTES = 16;
const EATS_MASK = 3 << 28;

/** A guest's stream table entry as the host accepted it. */
export interface Vste {
  /** Words 0 and 1 as halves, EATS removed. */
  readonly words: readonly number[];
  /** CONFIG.ABORT, BYPASS or S1. */
  readonly config: number;
  /** The guest wants ATS; counts for S1 only. */
  readonly ats: boolean;
}

/**
 * Judges a vSTE. Values inside the allowed fields are not looked at: the hardware reports them.
 * @returns -EIO for a bit outside them, a Config that is not abort, bypass or stage 1, or an EATS above 1.
 */
export function acceptVste(bytes: Uint8Array): Vste | number {
  const words = [0, 0, 0, 0];
  for (let i = 0; i < VSTE_BYTES; i++) words[i >> 2]! |= bytes[i]! << (8 * (i & 3));
  if ((words[0]! & 1) === 0) return { words: words.fill(0), config: CONFIG.ABORT, ats: false };
  for (let i = 0; i < words.length; i++) if ((words[i]! & ~VSTE_ALLOWED[i]!) !== 0) return -E.IO;
  const config = (words[0]! >>> 1) & 7;
  if (config !== CONFIG.ABORT && config !== CONFIG.BYPASS && config !== CONFIG.S1) return -E.IO;
  const eats = (words[2]! & EATS_MASK) >>> 28;
  if (eats !== EATS.ABORT && eats !== EATS.FULL) return -E.IO;
  words[2]! &= ~EATS_MASK;
  return { words, config, ats: config === CONFIG.S1 && eats === EATS.FULL };
}
