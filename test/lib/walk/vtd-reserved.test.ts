import { expect, test } from 'vitest';
import { AddressSpace, ramBacking } from '../../../src/lib/memory/address-space.ts';
import { VtdWalker } from '../../../src/lib/walk/vtd.ts';
import { VtdRegime } from '../../../src/lib/walk/vtd-regime.ts';
import { ACCESS } from '../../../src/ports/dma.ts';
import type { PagingLimits } from '../../../src/spec/vtd/paging.ts';
import { PGTT } from '../../../src/spec/vtd/tables.ts';

const HAW = 46;
const LIMITS: PagingLimits = { haw: HAW, ss2m: true, ss1g: true, fs1g: true, snp: false, tm: false };
const BASE = 0x10_0000;
const range = (high: number, low: number): number[] => Array.from({ length: high - low + 1 }, (_, i) => low + i);
const words = (e: bigint): [number, number] => [Number(BigInt.asIntN(32, e)), Number(BigInt.asIntN(32, e >> 32n))];

/** One path of five tables at BASE, the entry under test at index 0 of `level`; the leaf at `leafLevel` maps `page`. */
function setUp(kind: 'first' | 'second', leafLevel: number, limits: PagingLimits, leafPage: bigint) {
  const space = new AddressSpace();
  space.addRam(BASE, 6 * 4096, ramBacking(6 * 4096));
  const table = (level: number): number => BASE + (5 - level) * 4096;
  const flags = kind === 'first' ? 7n : 3n;
  const entry = (level: number): bigint =>
    level === leafLevel ? leafPage | flags | (level > 1 ? 0x80n : 0n) : BigInt(table(level - 1)) | flags;
  for (let level = 5; level >= leafLevel; level--) space.store64(table(level), ...words(entry(level)));
  const r = new VtdRegime();
  r.pgtt = kind === 'first' ? PGTT.FIRST : PGTT.SECOND;
  r.firstRoot = r.secondRoot = table(5);
  r.firstBits = 57;
  r.secondLevels = 5;
  const walker = new VtdWalker(space, limits);
  /** Walks with `bit` of the entry at `level` inverted. @returns the fault reason or 0. */
  const flip = (level: number, bit: number, access: number = ACCESS.READ): number => {
    space.store64(table(level), ...words(entry(level) ^ (1n << BigInt(bit))));
    const ok = walker.walk(r, 0, 0, access);
    space.store64(table(level), ...words(entry(level)));
    return ok ? 0 : walker.reason;
  };
  return { flip, walker, r };
}

const faulting = (flip: (level: number, bit: number) => number, level: number, reason: number): number[] =>
  range(63, 0).filter((bit) => flip(level, bit) === reason);

test('every bit of a second-stage pointer: 62, 51:HAW and SNP are reserved, PS above level 3 too', () => {
  const { flip } = setUp('second', 1, LIMITS, 0x2000_0000n);
  for (const level of [5, 4])
    expect(faulting(flip, level, 0x7a).sort((a, b) => a - b)).toEqual([7, 11, ...range(51, HAW), 62]);
});

test('SNP and TM in a second-stage leaf are reserved exactly as the capabilities say', () => {
  for (const snp of [false, true]) {
    for (const tm of [false, true]) {
      const { flip } = setUp('second', 1, { ...LIMITS, snp, tm }, 0x2000_0000n);
      const want = [...(snp ? [] : [11]), ...range(51, HAW), ...(tm ? [] : [62])];
      expect(faulting(flip, 1, 0x7a).sort((a, b) => a - b)).toEqual(want);
    }
  }
});

test.each([
  [2, 20],
  [3, 29],
])('every address bit below a second-stage leaf of level %i is reserved', (level, top) => {
  const { flip } = setUp('second', level, LIMITS, 0x8000_0000n);
  expect(faulting(flip, level, 0x7a).sort((a, b) => a - b)).toEqual([11, ...range(top, 12), ...range(51, HAW), 62]);
  const without = setUp('second', level, { ...LIMITS, ss2m: level !== 2, ss1g: level !== 3 }, 0x8000_0000n);
  expect(without.walker.walk(without.r, 0, 0, ACCESS.READ)).toBe(false);
  expect(without.walker.reason).toBe(0x7a);
});

test('every bit of a first-stage pointer: 51:HAW is reserved, PS at levels 4 and 5; 63:52 are ignored', () => {
  const { flip } = setUp('first', 1, LIMITS, 0x2000_0000n);
  for (const level of [5, 4]) expect(faulting(flip, level, 0x72).sort((a, b) => a - b)).toEqual([7, ...range(51, HAW)]);
  for (const level of [5, 4, 3, 2, 1])
    for (const bit of range(63, 52)) expect([bit, flip(level, bit)]).toEqual([bit, 0]);
});

test.each([
  [2, 20],
  [3, 29],
])('address bits below a first-stage leaf of level %i are reserved, except PAT', (level, top) => {
  const { flip } = setUp('first', level, LIMITS, 0x8000_0000n);
  expect(faulting(flip, level, 0x72).sort((a, b) => a - b)).toEqual([...range(top, 13), ...range(51, HAW)]);
  expect(flip(level, 12)).toBe(0);
});

test('a first-stage 1 GiB page needs FS1GP', () => {
  const { walker, r } = setUp('first', 3, { ...LIMITS, fs1g: false }, 0x8000_0000n);
  expect(walker.walk(r, 0, 0, ACCESS.READ)).toBe(false);
  expect(walker.reason).toBe(0x72);
});

test('U/S, R/W and P of every first-stage level count; a privileged request ignores U/S and, without WPE, R/W', () => {
  const { flip, r } = setUp('first', 1, LIMITS, 0x2000_0000n);
  const priv = ACCESS.WRITE | ACCESS.PRIV;
  for (const level of [5, 4, 3, 2, 1]) {
    expect(flip(level, 0)).toBe(0x71);
    expect(flip(level, 2)).toBe(0x81);
    expect(flip(level, 1, ACCESS.WRITE)).toBe(0x85);
    r.wpe = false;
    expect([flip(level, 2, priv), flip(level, 1, priv)]).toEqual([0, 0]);
    r.wpe = true;
    expect([flip(level, 2, priv), flip(level, 1, priv)]).toEqual([0, 0x85]);
  }
});

test('a large page that contains the interrupt window is refused inside it and split outside', () => {
  const { walker, r } = setUp('second', 3, LIMITS, 0xc000_0000n);
  expect(walker.walk(r, 0x3ee0_1000, 0, ACCESS.WRITE)).toBe(false);
  expect(walker.reason).toBe(0x87);
  expect(walker.walk(r, 0x3ef0_0000, 0, ACCESS.WRITE)).toBe(true);
  expect([walker.out, walker.shift]).toEqual([0xfef0_0000, 12]);
  r.scalable = false;
  expect(walker.walk(r, 0x3eef_fffc, 0, ACCESS.READ)).toBe(false);
  expect(walker.reason).toBe(0xe);
});

test('nested: first-stage addresses beyond the second-stage width are 5b for the root, 74 below and for the page', () => {
  const { walker, r, memory } = nestedSetUp();
  const cases: [level: number, reason: number][] = [
    [4, 0x74],
    [3, 0x74],
    [2, 0x74],
    [1, 0x74],
  ];
  expect(walker.walk(r, 0, 0, ACCESS.READ)).toBe(true);
  for (const [level, reason] of cases) {
    memory.store64(BASE + (4 - level) * 4096, 0x27, 1 << 7);
    expect(walker.walk(r, 0, 0, ACCESS.READ)).toBe(false);
    expect([level, walker.reason, walker.secondMissing]).toEqual([level, reason, false]);
    memory.store64(BASE + (4 - level) * 4096, (level === 1 ? BASE : BASE + (5 - level) * 4096) | 0x27, 0);
  }
  r.firstRoot = 2 ** 39;
  expect(walker.walk(r, 0, 0, ACCESS.READ)).toBe(false);
  expect(walker.reason).toBe(0x5b);
});

test('nested: a table the second stage lets read but not write gives 77 when a flag must be set, and 76 or 75 unreadable', () => {
  const { walker, r, memory, second } = nestedSetUp();
  const leafOf = (address: number): number => second + 2 * 4096 + 8 * (address / 4096);
  const page = (level: number): number => BASE + (4 - level) * 4096;
  for (const level of [4, 3, 2, 1]) {
    memory.store64(leafOf(page(level)), page(level) | 1, 0);
    expect(walker.walk(r, 0, 0, ACCESS.READ)).toBe(true);
    memory.load64(page(level));
    const entry = memory.lo;
    memory.store64(page(level), entry & ~0x20, 0);
    expect(walker.walk(r, 0, 0, ACCESS.READ)).toBe(false);
    expect([level, walker.reason, walker.ipa, walker.ipaAccess]).toEqual([level, 0x77, page(level), 3]);
    memory.store64(page(level), entry, 0);
    memory.store64(leafOf(page(level)), page(level) | 2, 0);
    expect(walker.walk(r, 0, 0, ACCESS.READ)).toBe(false);
    expect([level, walker.reason, walker.ipa]).toEqual([level, level === 4 ? 0x75 : 0x76, page(level)]);
    memory.store64(leafOf(page(level)), 0, 0);
    expect(walker.walk(r, 0, 0, ACCESS.READ)).toBe(false);
    expect([level, walker.reason, walker.ipa]).toEqual([level, 0x79, page(level)]);
    memory.store64(leafOf(page(level)), page(level) | 3, 0);
  }
});

/** Four first-stage tables from BASE on that map address 0 to BASE, over an identity second stage of 39 bits. */
function nestedSetUp() {
  const memory = new AddressSpace();
  memory.addRam(BASE, 8 * 4096, ramBacking(8 * 4096));
  for (let level = 4; level >= 1; level--) {
    memory.store64(BASE + (4 - level) * 4096, (level === 1 ? BASE : BASE + (5 - level) * 4096) | 0x27, 0);
  }
  const second = BASE + 4 * 4096;
  memory.store64(second, (second + 4096) | 3, 0);
  memory.store64(second + 4096, (second + 2 * 4096) | 3, 0);
  for (let a = BASE; a < BASE + 8 * 4096; a += 4096) memory.store64(second + 2 * 4096 + 8 * (a / 4096), a | 3, 0);
  const r = new VtdRegime();
  r.pgtt = PGTT.NESTED;
  r.firstRoot = BASE;
  r.secondRoot = second;
  r.secondLevels = 3;
  return { walker: new VtdWalker(memory, LIMITS), r, memory, second };
}
