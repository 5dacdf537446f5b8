import { expect, test } from 'vitest';
import { checkCd } from '../../../src/lib/check/cd.ts';
import type { Smmuv3Features } from '../../../src/lib/check/smmuv3-features.ts';
import { checkSte } from '../../../src/lib/check/ste.ts';
import { EVENT } from '../../../src/spec/smmuv3/events.ts';
import { Random } from '../../../tools/oracle/random.ts';
import { cdIsValid, type Smmu, steIsValid } from '../../../tools/oracle/smmuv3-structures.ts';

/** A random SMMU, as its features and as the oracle's. */
function smmu(rnd: Random): { features: Smmuv3Features; plain: Smmu } {
  const flag = () => rnd.chance(50);
  const plain: Smmu = {
    s1p: rnd.chance(85),
    s2p: rnd.chance(85),
    hyp: flag(),
    ats: flag(),
    ns1ats: flag(),
    cd2l: flag(),
    httu: rnd.below(3),
    stallModel: rnd.below(3),
    termModel: flag(),
    ssidSize: rnd.pick([0, 0, 1, 8, 20]),
    oas: rnd.pick([32, 40, 44, 44, 48, 52]),
    granules: rnd.chance(60) ? [12, 14, 16] : [rnd.pick([12, 14, 16])],
    atschk: flag(),
  };
  const features: Smmuv3Features = {
    s1p: plain.s1p,
    s2p: plain.s2p,
    httu: plain.httu,
    hyp: plain.hyp,
    ats: plain.ats,
    ns1ats: plain.ns1ats,
    pri: false,
    atsRecErr: false,
    asid16: true,
    vmid16: true,
    cd2l: plain.cd2l,
    stallModel: plain.stallModel,
    abortOnly: plain.termModel,
    twoLevel: true,
    sidSize: 16,
    ssidSize: plain.ssidSize,
    xnx: true,
    ril: true,
    pps: false,
    oas: plain.oas,
    gran4k: plain.granules.includes(12),
    gran16k: plain.granules.includes(14),
    gran64k: plain.granules.includes(16),
    msi: false,
  };
  return { features, plain };
}

function words(list: readonly bigint[]): Int32Array {
  const out = new Int32Array(16);
  for (const [n, w] of list.entries()) {
    out[2 * n] = Number(w & 0xffff_ffffn) | 0;
    out[2 * n + 1] = Number(w >> 32n) | 0;
  }
  return out;
}

/** Few bits wrong at a time: a valid structure with up to two random bits turned over, or noise. */
function disturbed(rnd: Random, valid: readonly bigint[]): bigint[] {
  const out = valid.map((w) => (rnd.chance(3) ? rnd.bits(64) : w));
  const flips = rnd.below(3);
  for (let n = 0; n < flips; n++) {
    const at = rnd.below(out.length);
    out[at] = out[at]! ^ (1n << BigInt(rnd.below(64)));
  }
  return out;
}

const at = (value: number, bit: number) => BigInt(value) << BigInt(bit);

function ste(rnd: Random, s: Smmu): bigint[] {
  const [t0sz, sl0] = rnd.pick([
    [24, 1],
    [25, 1],
    [20, 2],
    [16, 2],
    [33, 1],
    [39, 0],
    [64 - s.oas, rnd.below(3)],
  ] as const);
  const stall = s.stallModel === 2 || (s.stallModel === 0 && rnd.chance(50)) ? 1 : 0;
  const w0 =
    1n |
    at(4 + rnd.below(4), 1) |
    (BigInt(rnd.below(1 << 20)) << 6n) |
    at(rnd.chance(80) ? 0 : rnd.below(32), 59) |
    at(rnd.below(4), 4);
  const w1 = at(rnd.below(4), 28) | at(rnd.pick([0, 0, 0, 2, 1]), 30);
  const w2 =
    at(t0sz, 32) |
    at(sl0, 38) |
    at(rnd.pick([0, 1, 2, 0, 0]), 46) |
    at(rnd.below(8), 48) |
    at(1, 51) |
    at(rnd.chance(20) ? 3 : 0, 55) |
    at(stall, 57) |
    at(1, 58);
  return disturbed(rnd, [
    w0,
    w1,
    w2,
    BigInt(rnd.below(1 << 24)) << 4n,
    rnd.bits(64),
    rnd.bits(64),
    rnd.bits(64),
    rnd.bits(64),
  ]);
}

function cd(rnd: Random, s: Smmu): bigint[] {
  const stall = s.stallModel === 2 || (s.stallModel === 0 && rnd.chance(50)) ? 1 : 0;
  const w0 =
    at(16 + rnd.below(24), 0) |
    at(rnd.below(3), 6) |
    at(rnd.below(2), 14) |
    at(16 + rnd.below(24), 16) |
    at(1 + rnd.below(3), 22) |
    at(rnd.below(2), 30) |
    at(1, 31) |
    at(rnd.below(8), 32) |
    at(1, 41) |
    at(rnd.chance(20) ? 3 : 0, 42) |
    at(stall, 44) |
    at(3, 45) |
    (rnd.bits(16) << 48n);
  return disturbed(rnd, [w0, BigInt(rnd.below(1 << 24)) << 4n, BigInt(rnd.below(1 << 24)) << 4n, 0n, 0n, 0n, 0n, 0n]);
}

test('an STE is refused exactly when the specification calls it illegal, on 100,000 random SMMUs and entries', () => {
  const rnd = new Random(0x57e);
  const seen = [0, 0];
  for (let n = 0; n < 100_000; n++) {
    const { features, plain } = smmu(rnd);
    const w = ste(rnd, plain);
    const want = steIsValid(w, plain) ? 0 : EVENT.C_BAD_STE;
    const got = checkSte(words(w), 0, features, plain.atschk);
    if (got !== want)
      expect.fail(`${w.map((x) => x.toString(16)).join(' ')} on ${JSON.stringify(plain)}: ${got}, want ${want}`);
    seen[want === 0 ? 0 : 1]!++;
  }
  expect(Math.min(...seen)).toBeGreaterThan(15_000);
});

test('a CD is refused exactly when the specification calls it illegal, on 100,000 random SMMUs and descriptors', () => {
  const rnd = new Random(0xcd);
  const seen = [0, 0];
  for (let n = 0; n < 100_000; n++) {
    const { features, plain } = smmu(rnd);
    const w = cd(rnd, plain);
    const stalld = rnd.chance(20);
    const want = cdIsValid(w, plain, stalld) ? 0 : EVENT.C_BAD_CD;
    const got = checkCd(words(w), 0, features, stalld);
    if (got !== want)
      expect.fail(`${w.map((x) => x.toString(16)).join(' ')} on ${JSON.stringify(plain)}: ${got}, want ${want}`);
    seen[want === 0 ? 0 : 1]!++;
  }
  expect(Math.min(...seen)).toBeGreaterThan(15_000);
});
