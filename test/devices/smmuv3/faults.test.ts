import { describe, expect, test } from 'vitest';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { CD, cfgiSte, Guest, type GuestOptions, NOWHERE, R, RAM, S1_STE, sync } from './guest.ts';

/** The golden bench: default CD, stage-1 tables, stage-2 start table. */
const CD0 = 0x0011_6204_c000_0019n;
const [L1, L2, L3, S2_L1] = [0x4041_0000, 0x4042_0000, 0x4043_0000, 0x4060_0000];
const S2_WORDS = [0n, 0x040c_0059_0000_0007n, BigInt(S2_L1)] as const;
const NESTED = 0x4040_000fn;

function bench(o: GuestOptions = {}) {
  const g = new Guest(o);
  const dev = g.plug(8);
  g.put(CD, CD0, BigInt(L1));
  g.put(L1, BigInt(L2) | 3n);
  g.put(L2, BigInt(L3) | 3n);
  g.put(S2_L1 + 8, 0x4000_04c1n);
  g.setUp();
  return { g, dev };
}

/** Configures stream 8 and lets the hardware report a fault of a write; answers the record the guest got, if any. */
function record(g: Guest, dev: number, ste: readonly bigint[], raw: readonly number[]): string[] {
  g.ste(8, ...ste);
  g.run(cfgiSte(8), sync);
  g.fault(dev, raw);
  if (g.r(R.EVENTQ_PROD) === 0) return [];
  return g.event(0).map((w) => w.toString(16));
}

const S2_IN = 0x280;
const hw = (type: number, w3: number, iova: number, ipa: number) => [
  type,
  0x400008, // the physical StreamID
  0,
  w3,
  iova | 0,
  (iova / 2 ** 32) | 0,
  ipa | 0,
  (ipa / 2 ** 32) | 0,
];

describe('records under qemu-11.1 are the golden ones', () => {
  test('V=0: C_BAD_STE', () => {
    const { g, dev } = bench();
    expect(record(g, dev, [0n], hw(4, 0, 0, 0))).toEqual(['800000004', '0', '0', '0']);
  });

  test('StreamID beyond the table: C_BAD_STREAMID, recorded whatever RECINVSID says', () => {
    const { g, dev } = bench();
    g.w(PAGE0.STRTAB_BASE_CFG.at, 3);
    g.fault(dev, hw(4, 0, 0, 0));
    expect(g.event(0)[0]).toBe(0x8_0000_0002n);
  });

  test('STE fetch abort: the address is in the last word', () => {
    const { g, dev } = bench();
    g.w64(PAGE0.STRTAB_BASE.at, BigInt(NOWHERE));
    g.fault(dev, hw(4, 0, 0, 0));
    expect(g.event(0)).toEqual([0x8_0000_0003n, 0n, 0n, 0x800_0000_0200n]);
  });

  test('CD fetch abort: the address is in the input-address field', () => {
    const { g, dev } = bench();
    const raw = hw(0x10, 0x80, 0x1000, NOWHERE); // the hardware saw its own stage 2 end
    expect(record(g, dev, [0x800_0000_000bn], raw)).toEqual(['800000009', '0', '80000000000', '0']);
  });

  test('table fetch abort', () => {
    const { g, dev } = bench();
    g.put(CD, CD0, BigInt(NOWHERE));
    const raw = hw(0x10, 0x180, 0x1000, NOWHERE);
    expect(record(g, dev, [S1_STE], raw)).toEqual(['80000000b', '10000000000', '1000', '80000000000']);
  });

  test('stage-1 faults pass as the hardware saw them, with the guest StreamID', () => {
    const { g, dev } = bench();
    const raw = hw(0x10, 0x200, 0x12345678, 0);
    expect(record(g, dev, [S1_STE], raw)).toEqual(['800000010', '20000000000', '12345678', '0']);
  });

  test('a leaf outside RAM just fails', () => {
    const { g, dev } = bench();
    g.put(L3 + 40, 0x8_0000_0000_0443n);
    expect(record(g, dev, [S1_STE], hw(0x10, S2_IN, 0x5000, 0x80_0000_0000))).toEqual([]);
  });

  test('tables in a register window are read there: all ones make a permission fault, a CD there is bad', () => {
    const { g, dev } = bench();
    const window = { name: 'ones', read: () => 0xffff_ffff, write: () => {} };
    g.memory.addWindow(0x80_0000_0000, 0x1000, window);
    g.put(CD, CD0, 0x80_0000_0000n);
    const raw = hw(0x10, 0x180, 0x1000, 0x80_0000_0000);
    expect(record(g, dev, [S1_STE], raw)[0]).toBe('800000013');
    const { g: h, dev: dev2 } = bench();
    h.memory.addWindow(0x80_0000_0000, 0x1000, window);
    expect(record(h, dev2, [0x80_0000_000bn], hw(0x10, 0x80, 0x1000, 0x80_0000_0000))[0]).toBe('80000000a');
  });

  test.each([
    ['an empty table', 0x12345000, 0n, ['800000010', '28000000000', '12345000', '12345000']],
    ['a write to a read-only block', 0x40500000, 0x4000_0441n, ['800000013', '28000000000', '40500000', '40500000']],
    ['an IPA beyond S2T0SZ', 0x80_0000_0000, 0n, ['800000010', '28000000000', '8000000000', '8000000000']],
  ])('stage 2 only: %s', (_what, ipa, block, want) => {
    const { g, dev } = bench();
    if (block !== 0n) g.put(S2_L1 + 8, block);
    expect(record(g, dev, [0xdn, ...S2_WORDS], hw(0x10, S2_IN, ipa, ipa))).toEqual(want);
  });

  test('stage 2 only with S2R=0, or beyond the address size: no record', () => {
    const { g, dev } = bench();
    const quiet = [0xdn, 0n, 0x000c_0059_0000_0007n, BigInt(S2_L1)];
    expect(record(g, dev, quiet, hw(0x10, S2_IN, 0x12345000, 0x12345000))).toEqual([]);
    const { g: h, dev: dev2 } = bench();
    expect(record(h, dev2, [0xdn, ...S2_WORDS], hw(0x11, 0x200, 0x1000_0000_0000, 0))).toEqual([]);
  });

  test('nested: leaf, inner table, start table and CD outside the stage 2, each as QEMU tells it', () => {
    const leaf = bench();
    leaf.g.put(L3 + 40, 0x1_4050_0443n);
    expect(record(leaf.g, leaf.dev, [NESTED, ...S2_WORDS], hw(0x10, S2_IN, 0x5000, 0x1_4050_0000))).toEqual([
      '800000010',
      '28000000000',
      '5000',
      '140500000',
    ]);
    const inner = bench();
    inner.g.put(L1, 0x1_4000_0003n);
    expect(record(inner.g, inner.dev, [NESTED, ...S2_WORDS], hw(0x10, 0x180, 0x5000, 0x1_4000_0000))).toEqual([
      '800000010',
      '10000000000',
      '5000',
      '140000000',
    ]);
    const start = bench();
    start.g.put(CD + 8, 0x1_4000_0000n);
    expect(record(start.g, start.dev, [NESTED, ...S2_WORDS], hw(0x10, 0x180, 0x5000, 0x1_4000_0000))).toEqual([
      '800000010',
      '18800000000',
      '5000',
      '140000000',
    ]);
    const cd = bench();
    const far = [0x1_4000_000fn, ...S2_WORDS];
    expect(record(cd.g, cd.dev, far, hw(0x10, 0x80, 0x5000, 0x1_4000_0000))).toEqual([
      '800000010',
      '8800000000',
      '5000',
      '140000000',
    ]);
  });

  test('with the event queue off a record is lost and nothing is raised', () => {
    const { g, dev } = bench();
    g.w(PAGE0.CR0.at, 9);
    g.fault(dev, hw(4, 0, 0, 0));
    expect([g.r(R.EVENTQ_PROD), g.r(PAGE0.GERROR.at)]).toEqual([0, 0]);
  });
});

describe('records under arch', () => {
  const arch = (properties = {}) => bench({ profile: 'arch', properties });

  test('C_BAD_STREAMID is recorded only with CR2.RECINVSID', () => {
    for (const on of [false, true]) {
      const { g, dev } = arch();
      g.w(PAGE0.CR0.at, 0);
      g.w(PAGE0.STRTAB_BASE_CFG.at, 3);
      g.w(PAGE0.CR2.at, on ? 2 : 0);
      g.w(PAGE0.CR0.at, 0xd);
      g.fault(dev, hw(4, 0, 0, 0));
      expect(g.r(R.EVENTQ_PROD)).toBe(Number(on));
    }
  });

  test('F_CD_FETCH and F_WALK_EABT give guest addresses in the last word, table reads say so', () => {
    const { g, dev } = arch();
    const raw = hw(0x09, 0, 0, 0x100_0000_0000);
    expect(record(g, dev, [0x800_0000_000bn], raw)).toEqual(['800000009', '0', '0', '80000000000']);
    const walk = arch();
    walk.g.put(CD, CD0, BigInt(NOWHERE));
    expect(record(walk.g, walk.dev, [S1_STE], hw(0x0b, 0x108, 0x4000_1000, 0))).toEqual([
      '80000000b',
      '110800000000',
      '40001000',
      '80000000008',
    ]);
  });

  test('nested faults have S2, the class and the page of the descriptor', () => {
    const { g, dev } = arch();
    g.put(L1, 0x1_4000_0003n);
    expect(record(g, dev, [NESTED, ...S2_WORDS], hw(0x10, 0x188, 0x5000, 0x1_4000_0000))).toEqual([
      '800000010',
      '118800000000',
      '5000',
      '140000000',
    ]);
  });

  test('a SubstreamID, privilege and instruction fetch stay in the record', () => {
    const { g, dev } = arch({ ssidsize: 4 });
    const raw = hw(0x10 | (1 << 11) | (3 << 12), 0x20e, 0x9000, 0);
    const seen = record(g, dev, [S1_STE | (2n << 59n)], raw);
    expect(seen).toEqual(['800003810', '20e00000000', '9000', '0']);
  });

  test('with STE.MEV a repetition the guest has not read yet is merged; without, each is recorded', () => {
    for (const mev of [false, true]) {
      const { g, dev } = arch();
      const raw = hw(0x10, 0x200, 0x9000, 0);
      record(g, dev, [S1_STE, mev ? 1n << 19n : 0n], raw);
      g.fault(dev, hw(0x10, 0x200, 0x9010, 0));
      g.fault(dev, hw(0x10, 0x200, 0xa000, 0));
      expect(g.r(R.EVENTQ_PROD)).toBe(mev ? 2 : 3);
      g.w(R.EVENTQ_CONS, mev ? 2 : 3);
      g.fault(dev, hw(0x10, 0x200, 0xa000, 0));
      expect(g.r(R.EVENTQ_PROD)).toBe(mev ? 3 : 4);
    }
  });

  test('a stalled transaction waits for RESUME; its record waits for room and is no overflow', () => {
    const { g, dev } = arch({ stall: true });
    g.ste(8, S1_STE);
    g.run(cfgiSte(8), sync);
    for (let i = 0; i < 10; i++) g.fault(dev, [0x10, 0x400008, 0x8000_0000 | i | 0, 0x200, 0x1000 * i, 0, 0, 0]);
    expect(g.r(R.EVENTQ_PROD)).toBe(8);
    g.w(R.EVENTQ_CONS, 8);
    expect(g.r(R.EVENTQ_PROD)).toBe(10);
    expect(g.event(1)[1]).toBe(0x200_8000_0009n);
    g.run([0x8_0000_1044n, 3], [0x8_0000_2044n, 4], [0x8_0000_0044n, 5], [0x8_0000_0044n, 77], sync);
    g.run([0x8_0000_0045n, 0], sync);
    const by = (stag: number) => g.host.responses.find((r) => r.includes(`group=${stag} `));
    expect([by(3), by(4), by(5)]).toEqual([
      `${dev} pasid=-1 group=3 code=0 stall`,
      `${dev} pasid=-1 group=4 code=15 stall`,
      `${dev} pasid=-1 group=5 code=1 stall`,
    ]);
    // STALL_TERM ends the other seven, and whatever the hardware has not reported yet.
    expect([g.host.responses.length, g.host.terminated]).toEqual([3, [`${dev} stream=0`]]);
  });

  test('turning the SMMU off terminates what is stalled', () => {
    const { g, dev } = arch({ stall: true });
    g.ste(8, S1_STE);
    g.run(cfgiSte(8), sync);
    g.fault(dev, [0x10, 0x400008, 0x8000_0001 | 0, 0x200, 0x1000, 0, 0, 0]);
    g.w(PAGE0.CR0.at, 0xc);
    expect(g.host.terminated).toEqual([`${dev} stream=0`]);
  });

  test('an address beyond RAM but inside the guest physical space is never taken for a table', () => {
    const { g, dev } = arch();
    g.put(CD, CD0, BigInt(RAM + 0x3000_0000));
    expect(record(g, dev, [S1_STE], hw(0x10, 0x180, 0x1000, RAM + 0x3000_0000))[0]).toBe('80000000b');
  });
});
