/**
 * When an STE or a CD is valid, read off IHI 0070 §5.2 and §5.4 one sentence at a time, on 64-bit words. Shares nothing
 * with the checks under test.
 */

/** What the identity registers say. */
export interface Smmu {
  readonly s1p: boolean;
  readonly s2p: boolean;
  readonly hyp: boolean;
  readonly ats: boolean;
  readonly ns1ats: boolean;
  readonly cd2l: boolean;
  readonly httu: number;
  readonly stallModel: number;
  readonly termModel: boolean;
  readonly ssidSize: number;
  readonly oas: number;
  /** log2 of the granules there are. */
  readonly granules: readonly number[];
  readonly atschk: boolean;
}

const bits = (w: bigint, from: number, count: number): number =>
  Number((w >> BigInt(from)) & ((1n << BigInt(count)) - 1n));
const address = (w: bigint, lowest: number): bigint => ((w & ((1n << 52n) - 1n)) >> BigInt(lowest)) << BigInt(lowest);

const SIZES = [32, 36, 40, 42, 44, 48, 52, 52];
const TG0 = [12, 16, 14, null];
const TG1 = [null, 14, 12, 16];

function reach(field: number, s: Smmu, granule: number): bigint {
  const size = Math.min(SIZES[field]!, s.oas);
  return 1n << BigInt(granule === 16 ? size : Math.min(size, 48));
}

/** @param w the entry's eight 64-bit words. */
export function steIsValid(w: readonly bigint[], s: Smmu): boolean {
  const [w0, w1, w2, w3] = w as [bigint, bigint, bigint, bigint];
  if (bits(w0, 0, 1) === 0) return false;
  const config = bits(w0, 1, 3);
  if (config <= 3) return true;
  const stage1 = config === 5 || config === 7;
  const stage2 = config === 6 || config === 7;
  if (stage1 && !s.s1p) return false;
  if (stage2 && !s.s2p) return false;
  const s2s = bits(w2, 57, 1) === 1;
  if (stage1) {
    if (address(w0, 6) >= 1n << BigInt(s.oas)) return false;
    const world = bits(w1, 30, 2);
    if (!stage2 && world !== 0 && !(world === 2 && s.hyp)) return false;
    if (bits(w1, 27, 1) === 1 && s.stallModel !== 0) return false;
    if (s.ssidSize !== 0) {
      const cdMax = bits(w0, 59, 5);
      const fmt = bits(w0, 4, 2);
      if (cdMax > s.ssidSize) return false;
      if (cdMax > 0 && (fmt === 1 || fmt === 2) && !s.cd2l) return false;
    }
  }
  if (stage2) {
    if (bits(w2, 51, 1) === 0) return false;
    const granule = TG0[bits(w2, 46, 2)]!;
    if (granule === null || !s.granules.includes(granule)) return false;
    if (bits(w2, 52, 1) === 1) return false;
    if (s2s && s.stallModel === 1) return false;
    if (!s2s && s.stallModel === 2) return false;
    if (bits(w2, 56, 1) === 1 && s.httu < 1) return false;
    if (bits(w2, 55, 1) === 1 && s.httu < 2) return false;
    if (address(w3, 4) >= reach(bits(w2, 48, 3), s, granule)) return false;
    if (!startFits(granule, bits(w2, 32, 6), bits(w2, 38, 2), s.oas)) return false;
  }
  if (s.ats) {
    const eats = bits(w1, 28, 2);
    if (eats === 1 && stage2 && s2s) return false;
    if (eats === 2 && s.atschk && (config !== 7 || s2s || s.ns1ats)) return false;
  }
  return true;
}

/** S2T0SZ in range, and S2SL0 such that the start level has between one entry and sixteen tables. */
function startFits(granule: number, t0sz: number, sl0: number, oas: number): boolean {
  if (t0sz > 39 || sl0 === 3 || t0sz < 64 - oas || (granule !== 16 && t0sz < 16)) return false;
  const level = granule === 12 ? 2 - sl0 : 3 - sl0;
  const perTable = granule - 3;
  const below = granule + perTable * (3 - level);
  const startBits = 64 - t0sz - below;
  return startBits >= 1 && startBits <= perTable + 4;
}

export function cdIsValid(w: readonly bigint[], s: Smmu, s1stalld: boolean): boolean {
  const [w0, w1, w2] = w as [bigint, bigint, bigint];
  if (bits(w0, 31, 1) === 0 || bits(w0, 41, 1) === 0) return false;
  const stall = bits(w0, 44, 1) === 1;
  if (stall && (s1stalld || s.stallModel === 1)) return false;
  if (!stall && s.stallModel === 2) return false;
  if (bits(w0, 46, 1) === 0 && s.termModel) return false;
  if (bits(w0, 43, 1) === 1 && s.httu < 1) return false;
  if (bits(w0, 42, 1) === 1 && s.httu < 2) return false;
  const tables = [
    { epd: bits(w0, 14, 1), tsz: bits(w0, 0, 6), granule: TG0[bits(w0, 6, 2)]!, ttb: address(w1, 4) },
    { epd: bits(w0, 30, 1), tsz: bits(w0, 16, 6), granule: TG1[bits(w0, 22, 2)]!, ttb: address(w2, 4) },
  ];
  for (const t of tables) {
    if (t.epd === 1) continue;
    if (bits(w0, 15, 1) === 1) return false;
    if (t.granule === null || !s.granules.includes(t.granule)) return false;
    if (t.tsz < 16 || t.tsz > 39) return false;
    if (t.ttb >= reach(bits(w0, 32, 3), s, t.granule)) return false;
  }
  return true;
}
