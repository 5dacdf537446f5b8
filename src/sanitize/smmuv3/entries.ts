import { cdEpd0, cdEpd1, cdValid } from '../../spec/smmuv3/cd.ts';
import { S1DSS, steConfig, steS1CdMax, steS1Dss, steS1Enabled, steS2Enabled, steValid } from '../../spec/smmuv3/ste.ts';

/**
 * Which bits of an entry the SMMU looks at, given what the entry says: the others can change without being seen
 * (IHI 0070 §5.2, §5.4; what Linux's driver calls the used bits).
 */
const MASK = new Int32Array(16);

/** @returns the mask of a stream table entry, 16 words, valid until the next call. */
export function steUsed(w: Int32Array): Int32Array {
  const m = MASK.fill(0);
  m[0] = 1;
  if (!steValid(w, 0)) return m;
  m[0] = 0xf;
  const config = steConfig(w, 0);
  if ((config & 4) === 0) return m;
  const s1 = steS1Enabled(w, 0);
  const s2 = steS2Enabled(w, 0);
  if (s1) {
    m[0] = -1;
    m[1] = -1;
    // S1DSS, cacheability, S1PIE to MEV, S1STALLD, EATS, STRW.
    m[2] = 0xf80f_f0ff | 0;
    // The VMID tags stage 1 as well.
    m[4] = 0xffff;
    if (steS1CdMax(w, 0) > 0 && steS1Dss(w, 0) === S1DSS.BYPASS) m[3] = 0x3000;
  }
  if (s2) {
    m[2] = m[2]! | 0x3208_0000;
    m[3] = 0x3000;
    m[4] = -1;
    m[5] = -1;
    m[6] = -1;
    m[7] = -1;
  }
  if (!s1 && !s2) m[3] = 0x3000;
  return m;
}

/** @returns the mask of a context descriptor, 16 words, valid until the next call. */
export function cdUsed(w: Int32Array): Int32Array {
  const m = MASK.fill(0);
  m[0] = 0x8000_0000 | 0;
  if (!cdValid(w, 0)) return m;
  m.fill(-1, 0, 8);
  // T0SZ, TG0, IR0, OR0, SH0 and TTB0 without walks of the lower half; the same for the upper one.
  if (cdEpd0(w, 0) !== 0) {
    m[0] = m[0]! & ~0x3fff;
    m.fill(0, 2, 4);
  }
  if (cdEpd1(w, 0) !== 0) {
    m[0] = m[0]! & ~0x3fff_0000;
    m.fill(0, 4, 6);
  }
  return m;
}

/** Whether two entries say the same to hardware. */
export function sameEntry(a: Int32Array, b: Int32Array, used: (w: Int32Array) => Int32Array): boolean {
  const m = used(a);
  for (let i = 0; i < 16; i++) if (((a[i]! ^ b[i]!) & m[i]!) !== 0) return false;
  const n = used(b);
  for (let i = 0; i < 16; i++) if (((a[i]! ^ b[i]!) & n[i]!) !== 0) return false;
  return true;
}
