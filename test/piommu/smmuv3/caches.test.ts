import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Smmuv3CacheSizes } from '../../../src/piommu/smmuv3/options.ts';
import { ACCESS, NO_PASID } from '../../../src/ports/dma.ts';
import { OP } from '../../../src/spec/smmuv3/commands.ts';
import { S1_RW, S2_RW, type TableWriter } from '../../support/vmsa-tables.ts';
import {
  CD0,
  cfgiAll,
  cfgiCd,
  cfgiCdAll,
  cfgiSte,
  FULL_IDRS,
  identityStage2,
  Rig,
  STE_S2,
  stage1Tables,
  tlbi,
} from './rig.ts';

/** Two streams with two SubstreamIDs each share stage 2 (VMID 7) and the stage-1 tables of equal ASIDs. */
const SIDS = [8, 9] as const;
const ASIDS = [0x11, 0x12, 0x13] as const;
const TTB = (n: number) => 0x4100_0000 + n * 0x20_0000;
const VAS = Array.from({ length: 12 }, (_, i) => BigInt(i < 8 ? i : i * 0x100) * 0x1000n);

class World {
  rig: Rig;
  readonly sizes: Smmuv3CacheSizes;
  outer: TableWriter;
  inner: TableWriter[];

  constructor(sizes: Smmuv3CacheSizes) {
    this.sizes = sizes;
    this.rig = new Rig({ ...FULL_IDRS, caches: sizes });
    this.outer = identityStage2(this.rig);
    this.inner = ASIDS.map((_, n) => stage1Tables(this.rig, TTB(n)));
    for (const sid of SIDS) {
      this.ste(sid, 7n);
      for (let ssid = 0; ssid < 2; ssid++) this.cd(sid, ssid, ssid);
    }
  }
  ste(sid: number, config: bigint): void {
    this.rig.ste(sid, (1n << 59n) | BigInt(0x4040_0000 + sid * 4096) | (config << 1n) | 1n, 2n, ...STE_S2);
  }
  cd(sid: number, ssid: number, n: number): void {
    const word0 = (CD0 & ~(0xffffn << 48n)) | (BigInt(ASIDS[n]!) << 48n);
    this.rig.store(0x4040_0000 + sid * 4096 + ssid * 64, word0, BigInt(TTB(n)));
  }
  reload(): void {
    const data = JSON.parse(JSON.stringify(this.rig.hw.save()));
    this.rig.hw.load(data);
  }
}

const sid = fc.constantFrom(...SIDS);
const ssid = fc.nat(1);
const table = fc.nat(2);
const page = fc.nat(VAS.length - 1);
const step = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      op: fc.constant('dma' as const),
      sid,
      ssid: fc.integer({ min: -1, max: 1 }),
      page,
      access: fc.integer({ min: 1, max: 2 }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      op: fc.constant('map' as const),
      table,
      page,
      level: fc.integer({ min: 2, max: 3 }),
      to: fc.nat(200),
      readOnly: fc.boolean(),
    }),
  },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('unmap' as const), table, page, by: fc.nat(4) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('unmapTable' as const), table, page }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('s2' as const), block: fc.nat(31), to: fc.nat(31) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('cd' as const), sid, ssid, table, all: fc.boolean() }) },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant('ste' as const),
      sid,
      config: fc.constantFrom(0n, 4n, 5n, 6n, 7n),
      all: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('reload' as const) }) },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** One step as a correct host does it: tables first, then the invalidation that names the change. */
function run(w: World, s: Step): unknown {
  const { rig } = w;
  switch (s.op) {
    case 'dma': {
      const answer = rig.dma(s.sid, VAS[s.page]! + 0x123n, s.access, s.ssid);
      return [answer, answer === 0 ? [rig.hw.out, rig.hw.outPerm, rig.hw.tag] : 0, rig.takeFaults()];
    }
    case 'map': {
      const writer = w.inner[s.table]!;
      const va = VAS[s.page]!;
      // Break before make, whatever was there at either level.
      if (s.level === 2) {
        writer.write(writer.slot(va, 2), 0n);
        rig.submit(tlbi(OP.TLBI_NH_ASID, 7, ASIDS[s.table]!));
      } else {
        const above = writer.read(writer.slot(va, 2));
        if ((above & 3n) === 1n) {
          writer.write(writer.slot(va, 2), 0n);
          rig.submit(tlbi(OP.TLBI_NH_ASID, 7, ASIDS[s.table]!));
        }
        writer.write(writer.slot(va, 3), 0n);
        rig.submit(tlbi(OP.TLBI_NH_VA, 7, ASIDS[s.table]!, va | 1n));
      }
      const bytes = s.level === 2 ? 1 << 21 : 4096;
      const bits = s.readOnly ? S1_RW | 0x80n : S1_RW | 0x800n;
      writer.map(va, 0x4200_0000 + (s.to % (s.level === 2 ? 8 : 200)) * bytes, s.level, bits);
      return null;
    }
    case 'unmap': {
      const writer = w.inner[s.table]!;
      const va = VAS[s.page]!;
      const asid = ASIDS[s.table]!;
      const above = writer.read(writer.slot(va, 2));
      if ((above & 3n) !== 3n) return null;
      writer.write(writer.slot(va, 3), 0n);
      const by = [
        tlbi(OP.TLBI_NH_VA, 7, asid, va | 1n),
        tlbi(OP.TLBI_NH_VAA, 7, 0, va),
        tlbi(OP.TLBI_NH_ASID, 7, asid),
        tlbi(OP.TLBI_NH_VA, 7, asid, (va & ~0x7fffn) | 0x401n, 7n << 12n),
        tlbi(OP.TLBI_NH_ALL, 7, 0),
      ][s.by]!;
      expect(rig.submit(by, [0x46n, 0n])).toBe(0);
      return null;
    }
    case 'unmapTable': {
      const writer = w.inner[s.table]!;
      writer.write(writer.slot(VAS[s.page]!, 2), 0n);
      // A table went: leaf is 0, and the range is what the table covered.
      const va = VAS[s.page]! & ~0x1f_ffffn;
      expect(rig.submit(tlbi(OP.TLBI_NH_VA, 7, ASIDS[s.table]!, va | 0x400n, (31n << 12n) | (4n << 20n)))).toBe(0);
      return null;
    }
    case 's2': {
      const ipa = 0x4000_0000 + s.block * 2 ** 21;
      if (ipa < 0x4200_0000) return null;
      w.outer.write(w.outer.slot(BigInt(ipa), 2), 0n);
      rig.submit(tlbi(OP.TLBI_S2_IPA, 7, 0, BigInt(ipa)), tlbi(OP.TLBI_NH_ALL, 7, 0));
      if (s.to !== 0) w.outer.map(BigInt(ipa), 0x4200_0000 + s.to * 2 ** 21, 2, s.to === 1 ? S2_RW & ~0x80n : S2_RW);
      return null;
    }
    case 'cd':
      w.cd(s.sid, s.ssid, s.table);
      rig.submit(s.all ? cfgiCdAll(s.sid) : cfgiCd(s.sid, s.ssid));
      return null;
    case 'ste':
      w.ste(s.sid, s.config);
      rig.submit(s.all ? cfgiAll() : cfgiSte(s.sid));
      // Stage 1 alone and nested tag alike; a host that changes that invalidates the VMID.
      rig.submit(tlbi(OP.TLBI_S12_VMALL, 7, 0));
      return null;
    case 'reload':
      w.reload();
      return null;
  }
}

describe('what a device sees does not depend on what the hardware caches', () => {
  const NONE: Smmuv3CacheSizes = { iotlb: 0, walks: 0, streams: 0, contexts: 0 };
  test.each([
    ['everything', {}],
    ['everything but walks', { walks: 0 }],
    ['two translations', { iotlb: 2, walks: 2, streams: 1, contexts: 1 }],
    ['configuration only', { iotlb: 0, walks: 0 }],
    ['translations only', { streams: 0, contexts: 0 }],
  ] as const)('%s against nothing', (_name, sizes) => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const cached = new World(sizes);
        const plain = new World(NONE);
        for (const s of steps) expect(run(cached, s)).toEqual(run(plain, s));
      }),
      { numRuns: 40 },
    );
  });
});

test('with invalidations ignored, a device goes on with what was unmapped', () => {
  for (const ignoreInvalidations of [false, true]) {
    const rig = new Rig({ ignoreInvalidations });
    rig.store(0x4040_0000, CD0, 0x4041_0000n);
    rig.ste(8, 0x4040_000bn);
    const tables = stage1Tables(rig);
    tables.map(0x5000n, 0x4050_0000);
    expect(rig.dma(8, 0x5000n)).toBe(0);
    tables.write(tables.slot(0x5000n, 3), 0n);
    rig.submit(tlbi(OP.TLBI_NSNH_ALL, 0, 0), cfgiAll());
    expect(rig.dma(8, 0x5000n)).toBe(ignoreInvalidations ? 0 : 1);
  }
});

test('what was cached is cached after saving and loading: a stale translation stays stale until it is invalidated', () => {
  const rig = new Rig();
  rig.store(0x4040_0000, CD0, 0x4041_0000n);
  rig.ste(8, 0x4040_000bn);
  const tables = stage1Tables(rig);
  tables.map(0x5000n, 0x4050_0000);
  expect(rig.dma(8, 0x5000n, ACCESS.READ, NO_PASID)).toBe(0);
  const data = JSON.parse(JSON.stringify(rig.hw.save()));
  const other = new Rig();
  other.hw.load(data); // its memory holds neither STE nor tables
  expect(other.dma(8, 0x5abcn, ACCESS.READ, NO_PASID)).toBe(0);
  expect([other.hw.out, other.hw.tag]).toEqual([0x4050_0abc, 0x11]);
  other.submit(tlbi(OP.TLBI_NH_VA, 0, 0x11, 0x5000n));
  expect(other.dma(8, 0x5000n, ACCESS.READ, NO_PASID)).toBe(1);
});
