import { expect } from 'vitest';
import { EVENT } from '../../../src/spec/smmuv3/events.ts';
import { type Bed, Probe } from '../bed.ts';
import type { CapabilityRow } from '../row.ts';
import { cfgiCd, driving, nhVa, RW, S2_RW, type Smmuv3Shape } from './machine.ts';

export type Smmuv3Row = CapabilityRow<Smmuv3Shape, Bed>;

export const SID = 0x10;
export const VA = 0x1234_5000;
const BOTH = [{ profile: 'arch' }, { profile: 'qemu-11.1' }] as const;

/** A function, and VA mapped to a page in its own tables. */
export function translating(
  bed: Bed,
  o: { probe?: ConstructorParameters<typeof Probe>[0]; ste1?: bigint; cr0?: number } = {},
) {
  const g = driving(bed, o.cr0);
  const fn = new Probe(o.probe);
  bed.plug(fn, SID);
  const tables = g.tables();
  const pa = bed.page();
  const leaf = tables.map(VA, pa);
  const cd = g.stage1(SID, tables, { asid: 0x11 }, o.ste1);
  return { g, fn, tables, pa, leaf, cd };
}

/** A CD that is bad as it is here: the access is refused with C_BAD_CD, and with the bits turned back it arrives. */
export function badCd(bed: Bed, { g, fn, cd, pa }: ReturnType<typeof translating>, flip: bigint): void {
  const good = bed.get(cd);
  bed.put(cd, good ^ flip);
  g.run(cfgiCd(SID));
  bed.refused(fn, VA, pa);
  expect(g.faults()).toEqual([EVENT.C_BAD_CD]);
  bed.put(cd, good);
  g.run(cfgiCd(SID));
  bed.arrives(fn, VA, pa);
  expect(g.faults()).toEqual([]);
}

/** Level and granule of tables with 39-bit addresses, and the CD's TG0. */
function granule(name: string, log2: number, tg: number, bit: number): Smmuv3Row {
  return {
    register: 'IDR5',
    field: name,
    section: '6.3.6',
    promise: `Tables of either stage may have pages of ${2 ** (log2 - 10)} KiB`,
    shown: BOTH.map((p) => ({ value: 1, properties: { ...p, stage: 'nested' as const } })),
    cut: { hardware: { idr5: 4 | (0x70 & ~(1 << bit)) } },
    run: (bed) => {
      const g = driving(bed);
      expect(g.field('IDR5', name)).toBe(1);
      const fn = new Probe();
      bed.plug(fn, SID);
      const size = 2 ** log2;
      // 36 bits: two levels of the larger granules, three of 4 KiB.
      const start = log2 === 12 ? 1 : 2;
      const tables = g.tables(log2, 36, start);
      // Two neighbours, each with memory of its own behind it, the first byte and the last word of a page.
      const [one, two] = [bed.pages(size), bed.pages(size)];
      tables.map(size * 5, one);
      tables.map(size * 6, two);
      g.stage1(SID, tables, { tg, t0sz: 28 });
      bed.arrives(fn, size * 5, one);
      bed.arrives(fn, size * 6 - 4, one + size - 4);
      bed.arrives(fn, size * 6, two);
      bed.refused(fn, size * 7);
      expect(g.faults()).toEqual([EVENT.F_TRANSLATION]);
      const second = g.tables(log2, 36, start);
      second.map(size * 5, two, 3, S2_RW);
      g.stage2(SID, second, 3, (BigInt(tg) << 14n) | (25n ^ 28n));
      bed.arrives(fn, size * 6 - 4, two + size - 4);
      bed.refused(fn, size * 6);
      expect(g.faults()).toEqual([EVENT.F_TRANSLATION]);
    },
  };
}

/** Whether stages and their tables do what they are said to. */
export const STAGES: readonly Smmuv3Row[] = [
  {
    register: 'IDR0',
    field: 'S2P',
    section: '6.3.1',
    promise: 'A stream may have a stage 2 of the guest, which TLBI_S2_IPA and TLBI_S12_VMALL invalidate',
    shown: BOTH.flatMap((p) => (['2', 'nested'] as const).map((stage) => ({ value: 1, properties: { ...p, stage } }))),
    cut: { device: { properties: { stage: '1' } } },
    run: (bed) => {
      const g = driving(bed);
      expect(g.field('IDR0', 'S2P')).toBe(1);
      const fn = new Probe();
      bed.plug(fn, SID);
      const tables = g.tables();
      const [one, two] = [bed.page(), bed.page()];
      tables.map(VA, one, 3, S2_RW);
      g.stage2(SID, tables, 5);
      bed.arrives(fn, VA, one);
      tables.map(VA, two, 3, S2_RW);
      g.run([0x5_0000_002an, BigInt(VA)]);
      bed.arrives(fn, VA, two);
      tables.map(VA, one, 3, S2_RW);
      g.run([0x5_0000_0028n, 0n]);
      bed.arrives(fn, VA, one);
      bed.refused(fn, VA + 0x1000);
      const [record] = g.records();
      expect([record![0]! & 0xffn, (record![1]! >> 39n) & 1n, record![3]]).toEqual([0x10n, 1n, BigInt(VA + 0x1000)]);
    },
  },
  {
    register: 'IDR0',
    field: 'S1P',
    section: '6.3.1',
    promise: 'A stream may have a stage 1: a CD of the guest, and tables that TLBI_NH_VA invalidates',
    shown: BOTH.flatMap((p) => (['1', 'nested'] as const).map((stage) => ({ value: 1, properties: { ...p, stage } }))),
    cut: { lost: (op) => op === 0x12 },
    run: (bed) => {
      const { g, fn, tables, pa } = translating(bed);
      expect(g.field('IDR0', 'S1P')).toBe(1);
      bed.arrives(fn, VA, pa);
      bed.arrives(fn, VA + 0xffc, pa + 0xffc);
      const other = bed.page();
      tables.map(VA, other);
      g.run(nhVa(0x11, VA));
      bed.arrives(fn, VA, other);
      bed.refused(fn, VA + 0x1000);
      const [record] = g.records();
      expect([record![0], record![2]]).toEqual([(BigInt(SID) << 32n) | 0x10n, BigInt(VA + 0x1000)]);
    },
  },
  {
    register: 'IDR0',
    field: 'TTF',
    section: '6.3.1',
    promise: 'Tables are VMSAv8-64: four levels of a 48-bit space in each half, and CD.AA64=0 is C_BAD_CD',
    shown: BOTH.map((properties) => ({ value: 2, properties })),
    // VMSAv8-64 descriptors arrive without the type of a page or table.
    cut: { store: (value) => ((value & 0xfffn) === (RW | 3n) ? value & ~2n : value) },
    run: (bed) => {
      const set = translating(bed);
      const { g, fn, cd } = set;
      expect(g.field('IDR0', 'TTF')).toBe(2);
      badCd(bed, set, 1n << 41n);
      // 48 bits for both halves, TTBR1's with its own encoding of 4 KiB.
      const [low, high] = [g.tables(12, 48, 0), g.tables(12, 48, 0)];
      const [one, two] = [bed.page(), bed.page()];
      low.map(0x7fff_ffff_f000n, one);
      high.map(0xffff_0000_0000_0000n, two);
      const both = (bed.get(cd) & ~0x3fn & ~(1n << 30n)) | 16n | (16n << 16n) | (2n << 22n);
      bed.put(cd, both, BigInt(low.root), BigInt(high.root));
      g.run(cfgiCd(SID), [0x30n, 0n]);
      bed.arrives(fn, 0x7fff_ffff_f000n, one);
      bed.arrives(fn, 0xffff_0000_0000_0000n, two);
      bed.refused(fn, 0x1_0000_0000_0000n);
      expect(g.faults()).toEqual([EVENT.F_TRANSLATION]);
    },
  },
  {
    register: 'IDR0',
    field: 'COHACC',
    section: '6.3.1',
    promise: 'Tables and queues are seen as the processor stored them: no cache is written back for the SMMU',
    shown: BOTH.map((properties) => ({ value: 1, properties })),
    cut: { cached: true },
    run: (bed) => {
      const g = driving(bed);
      expect(g.field('IDR0', 'COHACC')).toBe(1);
      const fn = new Probe();
      bed.plug(fn, SID);
      const tables = g.tables();
      const [one, two] = [bed.page(), bed.page()];
      tables.map(VA, one);
      g.stage1(SID, tables, { asid: 0x11 });
      bed.arrives(fn, VA, one);
      tables.map(VA, two);
      g.run(nhVa(0x11, VA));
      bed.arrives(fn, VA, two);
      // The SMMU's own writes are as visible.
      bed.refused(fn, VA + 0x1000);
      expect(g.faults()).toEqual([EVENT.F_TRANSLATION]);
    },
  },
  {
    register: 'IDR0',
    field: 'HTTU',
    section: '6.3.1',
    promise: '1: the SMMU sets access flags (CD.HA). 2: it marks pages dirty as well (CD.HD)',
    shown: BOTH.flatMap((p) => ([1, 2] as const).map((httu) => ({ value: httu, properties: { ...p, httu } }))),
    cut: (value) => ({ hardware: { idr0: 0x0d04_101f | ((value - 1) << 6) } }),
    run: (bed, value) => {
      const g = driving(bed);
      expect(g.field('IDR0', 'HTTU')).toBe(value);
      const fn = new Probe();
      bed.plug(fn, SID);
      const tables = g.tables();
      const pa = bed.page();
      // Not accessed, DBM, read-only until it is dirty.
      const leaf = tables.map(VA, pa, 3, 0x840n | (1n << 51n) | 0x80n);
      const cd = g.stage1(SID, tables, { flip0: 1n << 43n, asid: 0x11 });
      expect(fn.read(VA)).toBe(0);
      expect(bed.get(leaf) & 0x480n, 'accessed, clean').toBe(0x480n);
      bed.refused(fn, VA, pa);
      expect(g.faults()).toEqual([EVENT.F_PERMISSION]);
      bed.put(cd, bed.get(cd) | (1n << 42n));
      g.run(cfgiCd(SID), [0x30n, 0n]);
      if (value === 1) {
        bed.refused(fn, VA, pa);
        expect(g.faults()).toEqual([EVENT.C_BAD_CD]);
      } else {
        bed.arrives(fn, VA, pa);
        expect(bed.get(leaf) & 0x480n, 'accessed, dirty').toBe(0x400n);
      }
    },
  },
  {
    register: 'IDR0',
    field: 'TTENDIAN',
    section: '6.3.1',
    promise: 'Tables are little-endian, and CD.ENDI=1 is C_BAD_CD',
    shown: BOTH.map((properties) => ({ value: 2, properties })),
    cut: { store: (value) => ((value & 0xfffn) === (RW | 3n) ? swapped(value) : value) },
    run: (bed) => {
      const set = translating(bed);
      expect(set.g.field('IDR0', 'TTENDIAN')).toBe(2);
      badCd(bed, set, 1n << 15n);
    },
  },
  granule('GRAN4K', 12, 0, 4),
  granule('GRAN16K', 14, 2, 5),
  granule('GRAN64K', 16, 1, 6),
  {
    register: 'IDR5',
    field: 'OAS',
    section: '6.3.6',
    promise: 'Outputs up to this size (0 to 5: 32, 36, 40, 42, 44, 48 bits) reach memory; CD.IPS beyond it acts as it',
    shown: [
      ...([32, 36, 40, 42, 44, 48] as const).map((oas, value) => ({ value, properties: { oas, far: oas } })),
      { value: 4, properties: { profile: 'qemu-11.1', far: 44 } },
      // QEMU has another size with accel=on only.
      { value: 5, properties: { profile: 'qemu-11.1', accel: true, oas: 48, far: 48 } },
    ],
    cut: (value) => ({ hardware: { idr5: 0x70 | Math.max(0, value - 1) } }),
    run: (bed, value) => {
      const oas = [32, 36, 40, 42, 44, 48][value]!;
      const g = driving(bed);
      expect(g.field('IDR5', 'OAS')).toBe(value);
      const fn = new Probe();
      bed.plug(fn, SID);
      const tables = g.tables();
      const last = 2 ** oas - 0x1000;
      tables.map(VA, last);
      // Up to 42 bits there is memory beyond as well.
      tables.map(VA + 0x1000, 2 ** Math.min(oas, 47));
      // IPS of 48 bits: the SMMU's own size counts.
      g.stage1(SID, tables, { flip0: BigInt(value ^ 5) << 32n });
      bed.arrives(fn, VA, last);
      if (oas === 48) return;
      bed.refused(fn, VA + 0x1000);
      expect(g.faults()).toEqual([EVENT.F_ADDR_SIZE]);
    },
  },
  {
    register: 'IDR3',
    field: 'BBML',
    section: '6.3.4',
    promise:
      'A block may become a table, and a table a block, while they are in use: no conflict, and the new one after TLBI',
    shown: BOTH.map((properties) => ({ value: 2, properties })),
    cut: { lost: (op) => op === 0x12 },
    run: (bed) => {
      const { g, fn, tables } = translating(bed);
      expect(g.field('IDR3', 'BBML')).toBe(2);
      const MiB2 = 0x20_0000;
      const old = bed.pages(MiB2);
      const entry = tables.map(0x4000_0000, old, 2);
      bed.arrives(fn, 0x4000_0000 + 0x3000, old + 0x3000);
      const block = bed.get(entry);
      // The same translations in pages, but for one.
      const leaves = bed.pages();
      const other = bed.page();
      for (let n = 0; n < 512; n++) bed.put(leaves + 8 * n, BigInt(old + n * 4096) | RW | 3n);
      bed.put(leaves + 8 * 3, BigInt(other) | RW | 3n);
      bed.put(entry, BigInt(leaves) | 3n);
      bed.arrives(fn, 0x4000_0000 + 0x4000, old + 0x4000);
      g.run(nhVa(0x11, 0x4000_3000));
      bed.arrives(fn, 0x4000_0000 + 0x3000, other);
      bed.put(entry, block);
      bed.arrives(fn, 0x4000_0000 + 0x4000, old + 0x4000);
      g.run(nhVa(0x11, 0x4000_3000));
      bed.arrives(fn, 0x4000_0000 + 0x3000, old + 0x3000);
      expect(g.faults()).toEqual([]);
    },
  },
];

function swapped(value: bigint): bigint {
  let out = 0n;
  for (let i = 0n; i < 8n; i++) out |= ((value >> (8n * i)) & 0xffn) << (56n - 8n * i);
  return out;
}
