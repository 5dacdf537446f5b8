import { describe, expect, test } from 'vitest';
import { ACCESS } from '../../../src/ports/dma.ts';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { CD, CMDQ, cfgiSte, nhVa, RAM, sync } from '../../devices/smmuv3/guest.ts';
import { Rig, type RigOptions, space } from './rig.ts';

const PAGE = 0x4040_5000;
const EVENTQ_PROD = 0x100a8;
const ARCH = { profile: 'arch' } as const;

function translating(o: RigOptions = {}, eats = 0n) {
  const rig = new Rig({ ...o, properties: { ...ARCH, ...o.properties } });
  const { g } = rig;
  const { tables, ste } = space(g, 0, 0x11);
  tables.map(0x5000, PAGE);
  rig.plug(8, 0, { ats: true, pri: true, pasidBits: 4 });
  g.ste(8, ste, eats << 28n);
  g.setUp(5);
  g.run(cfgiSte(8), sync);
  return { rig, g, tables, ste };
}

describe('the SMMU switched off (IHI 0070 §6.3.14)', () => {
  test('DMA goes to guest-physical addresses, or aborts without an event when GBPA says so', () => {
    const rig = new Rig({ properties: ARCH });
    rig.plug(8);
    expect(rig.dma(8, RAM + 0x1234)).toBe(RAM + 0x1234);
    rig.g.w(PAGE0.GBPA.at, 0x0010_0000);
    expect(rig.dma(8, RAM + 0x1234), 'no UPDATE').toBe(RAM + 0x1234);
    rig.g.w(PAGE0.GBPA.at, 0x8010_0000);
    expect(rig.dma(8, RAM + 0x1234)).toBe('ABORT');
    expect(rig.g.r(EVENTQ_PROD)).toBe(0);
  });

  test('streams come back to it when SMMUEN is cleared, and are configured anew when it is set', () => {
    const { rig, g, ste } = translating();
    expect(rig.dma(8, 0x5000)).toBe(PAGE);
    g.w(PAGE0.CR0.at, 0xc);
    expect(rig.dma(8, PAGE)).toBe(PAGE);
    g.ste(8, 9n);
    g.w(PAGE0.CR0.at, 0xd);
    expect(rig.dma(8, PAGE)).toBe(PAGE);
    expect(rig.dma(8, 0x5000)).toBe('ABORT');
    g.ste(8, ste);
    g.w(PAGE0.CR0.at, 0xc);
    g.w(PAGE0.CR0.at, 0xd);
    expect(rig.dma(8, 0x5000)).toBe(PAGE);
  });
});

test('a command queue of every size laps with its wrap flag, and reserved bits of PROD do not leak', () => {
  for (let log2 = 0; log2 <= 6; log2++) {
    const { g } = new Rig({ properties: ARCH });
    const size = 2 ** log2;
    for (let i = 0; i < size; i++) g.put(CMDQ + 16 * i, 0x46n, 0n);
    g.w64(PAGE0.CMDQ_BASE.at, BigInt(CMDQ + log2));
    g.w(PAGE0.CR0.at, 8);
    for (let n = 1; n <= 5 * size; n++) {
      const prod = n % (2 * size);
      g.w(PAGE0.CMDQ_PROD.at, (0xfff0_0000 | prod) >>> 0);
      expect([g.r(PAGE0.CMDQ_PROD.at), g.r(PAGE0.CMDQ_CONS.at)], `size ${size}`).toEqual([prod, prod]);
    }
  }
});

test('a queue base is aligned to the size of its queue', () => {
  const { g } = new Rig({ properties: ARCH });
  g.put(CMDQ, 0x46n, 0n);
  g.w64(PAGE0.CMDQ_BASE.at, BigInt(CMDQ + 0x20 + 3)); // 8 entries: 128 bytes
  g.w(PAGE0.CR0.at, 8);
  g.w(PAGE0.CMDQ_PROD.at, 1);
  expect(g.r(PAGE0.CMDQ_CONS.at)).toBe(1);
});

test('a function that refuses an invalidation (UR) has done it: CMD_SYNC completes without error', () => {
  const { rig, g } = translating({ properties: { ats: true } }, 1n);
  rig.units[0]!.endpoints.to = { invalidate: () => false, pageResponse: () => {}, resumed: () => {} };
  const before = g.r(PAGE0.CMDQ_CONS.at);
  expect(g.run([0x8_0000_0040n, 52], sync)).toBe(before + 2);
  expect(g.r(PAGE0.GERROR.at)).toBe(0);
});

describe('records say what the transaction was (IHI 0070 §7.3)', () => {
  test('RnW, InD and PnU are those of the access', () => {
    const cases: [number, bigint][] = [
      [ACCESS.WRITE, 0n],
      [ACCESS.READ, 8n],
      [ACCESS.READ | ACCESS.EXEC, 12n],
      [ACCESS.READ | ACCESS.PRIV, 10n],
      [ACCESS.WRITE | ACCESS.PRIV, 2n],
    ];
    for (const [access, bits] of cases) {
      const { rig, g } = translating();
      expect(rig.dma(8, 0x9000, access)).toBe('ABORT');
      expect(g.event(0)[1], `access ${access}`).toBe((0x200n | bits) << 32n);
    }
  });

  test('privilege and execution count, unlike under QEMU', () => {
    for (const profile of ['arch', 'qemu-11.1'] as const) {
      const { rig, tables } = translating({ properties: { profile } });
      tables.map(0x6000, PAGE, 0x403n); // AP: privileged only
      expect(rig.dma(8, 0x6000, ACCESS.WRITE)).toBe(profile === 'arch' ? 'ABORT' : PAGE);
      expect(rig.dma(8, 0x6000, ACCESS.WRITE | ACCESS.PRIV)).toBe(PAGE);
    }
  });

  test('CD.R=0 hides translation faults, and nothing else', () => {
    const { rig, g, tables } = translating();
    g.put(CD, 0x0011_4204_c000_0019n, BigInt(tables.root));
    g.run([(8n << 32n) | 5n, 1], sync);
    expect(rig.dma(8, 0x9000)).toBe('ABORT');
    expect(g.r(EVENTQ_PROD)).toBe(0);
    g.put(CD + 8, 0x800_0000_0000n);
    g.run([(8n << 32n) | 5n, 1], [0x30, 0], sync);
    expect(rig.dma(8, 0x9000)).toBe('ABORT');
    expect(g.event(0)[0]! & 0xffn).toBe(0x0bn);
  });
});

describe('substreams of a guest (IHI 0070 §5.2, §7.3)', () => {
  /** S1CDMax=2, two-level or linear CD table; CD 1 is valid. */
  function substreams(dss: bigint) {
    const rig = new Rig({ properties: { ...ARCH, ssidsize: 4 } });
    const { g } = rig;
    const zero = space(g, 0, 0x11);
    const one = space(g, 1, 0x12);
    zero.tables.map(0x5000, PAGE);
    one.tables.map(0x5000, PAGE + 0x1000);
    rig.plug(8, 0, { pasidBits: 4 });
    g.ste(8, zero.ste | (2n << 59n), dss);
    g.setUp(5);
    g.run(cfgiSte(8), sync);
    return { rig, g };
  }
  const type = (g: Rig['g']) => Number(g.event(0)[0]! & 0xffn);

  test('each SubstreamID has its own tables; without one S1DSS decides', () => {
    for (const [dss, bare] of [
      [0n, 'ABORT'],
      [1n, 'bypass'],
      [2n, PAGE],
    ] as const) {
      const { rig, g } = substreams(dss);
      expect(rig.dma(8, 0x5000, 2, 0, 1)).toBe(PAGE + 0x1000);
      if (bare === 'bypass') expect(rig.dma(8, PAGE + 0x40)).toBe(PAGE + 0x40);
      else expect(rig.dma(8, 0x5000)).toBe(bare);
      if (bare === 'ABORT') expect(type(g)).toBe(0x06);
    }
  });

  test('SubstreamID 0 with S1DSS=2 is F_STREAM_DISABLED, one beyond S1CDMax is C_BAD_SUBSTREAMID', () => {
    const a = substreams(2n);
    expect(a.rig.dma(8, 0x5000, 2, 0, 0)).toBe('ABORT');
    expect(type(a.g)).toBe(0x06);
    const b = substreams(2n);
    expect(b.rig.dma(8, 0x5000, 2, 0, 4)).toBe('ABORT');
    expect(b.g.event(0)[0]).toBe(0x8_0000_4008n);
  });

  test('an invalidation of one CD leaves the others', () => {
    const { rig, g } = substreams(2n);
    expect([rig.dma(8, 0x5000, 2, 0, 1), rig.dma(8, 0x5000)]).toEqual([PAGE + 0x1000, PAGE]);
    g.put(CD, 0n);
    g.put(CD + 64, 0n);
    g.run([(8n << 32n) | (1n << 12n) | 5n, 1], [0x30, 0], sync);
    expect(rig.dma(8, 0x5000)).toBe(PAGE);
    expect(rig.dma(8, 0x5000, 2, 0, 1)).toBe('ABORT');
    expect(type(g)).toBe(0x0a);
  });
});

test('a stalled transaction waits until the guest resumes it, and a retry finds what was mapped meanwhile', () => {
  const { rig, g, tables } = translating({ properties: { stall: true }, canStall: () => true });
  g.put(CD, 0x0011_7204_c000_0019n, BigInt(tables.root));
  g.run([(8n << 32n) | 5n, 1], sync);
  const outcomes: number[] = [];
  rig.units[0]!.endpoints.to = {
    invalidate: () => false,
    pageResponse: () => {},
    resumed: (_rid, _token, outcome) => outcomes.push(outcome),
  };
  expect(rig.dma(8, 0x6000)).toBe('STALLED');
  const stag = g.event(0)[1]! & 0xffffn;
  tables.map(0x6000, PAGE);
  g.run(nhVa(0, 0x11, 0x6000), [0x8_0000_1044n, stag], sync);
  expect(outcomes).toEqual([0]);
  expect(rig.dma(8, 0x7000)).toBe('STALLED');
  g.run([0x8_0000_2044n, g.event(1)[1]! & 0xffffn], sync);
  expect(outcomes).toEqual([0, 1]);
});
