import { expect } from 'vitest';
import { FSTS, GCMD, PAGE } from '../../../src/spec/vtd/registers.ts';
import { Probe } from '../bed.ts';
import { VtdGuest } from './machine.ts';
import { FIRST, QEMU, RID, SCALABLE, translating, VA, type VtdRow } from './stages.ts';

const BASES = [{}, QEMU, SCALABLE] as const;
const all = (value: number, list: readonly object[] = BASES) => list.map((properties) => ({ value, properties }));
/** IOTLB descriptor (§6.5.2.3) for domain 1 with DW and DR. */
const DRAIN_WRITES = 0x1_0022n | (1n << 6n);
const DRAIN_READS = 0x1_0022n | (1n << 7n);
/** The queue, what invalidations reach, and fault records. */
export const QUEUE: readonly VtdRow[] = [
  {
    register: 'ECAP',
    field: 'QI',
    section: '11.4.3',
    promise: 'Invalidations are queued, and a wait behind them stores its status when they are done',
    shown: all(1),
    cut: { device: { properties: { queuedInvalidation: false, intremap: false, scalableMode: false } } },
    run: (bed) => {
      const { g, fn, tables, pa } = translating(bed);
      bed.arrives(fn, VA, pa);
      const moved = bed.page();
      tables.map(VA, moved);
      g.run([0x12n]);
      bed.arrives(fn, VA, moved);
      expect([bed.r(PAGE.IQH.at), bed.r(PAGE.FSTS.at)]).toEqual([bed.r(PAGE.IQT.at), 0]);
    },
  },
  {
    register: 'ECAP',
    field: 'IRO',
    section: '11.4.3',
    promise: 'IVA and IOTLB lie at 16 times this: invalidation through registers where the queue is off',
    shown: all(15, [{}, QEMU, { queuedInvalidation: false, intremap: false }]),
    cut: { register: (at, value) => (at === 0xf8 ? value & ~(1n << 63n) : value) },
    run: (bed) => {
      const g = new VtdGuest(bed);
      const iotlb = g.field('ECAP', 'IRO') * 16 + 8;
      g.root(g.roots);
      g.command(GCMD.TE);
      const fn = new Probe();
      bed.plug(fn, RID);
      const [tables, pa, moved] = [g.second(), bed.page(), bed.page()];
      tables.map(VA, pa);
      tables.map(VA + 0x1000, pa);
      g.legacy(RID, tables, 7);
      g.flushByRegisters(iotlb);
      bed.arrives(fn, VA, pa);
      bed.arrives(fn, VA + 0x1000, pa);
      tables.map(VA, moved);
      // Page-selective within domain 7.
      bed.w64(iotlb - 8, BigInt(VA));
      bed.w64(iotlb, 0xb000_0007_0000_0000n);
      expect([bed.r64(iotlb) >> 63n, (bed.r64(iotlb) >> 57n) & 3n], 'IVT, IAIG').toEqual([0n, 3n]);
      bed.arrives(fn, VA, moved);
    },
  },
  {
    register: 'CAP',
    field: 'ND',
    section: '11.4.2',
    promise: 'Domain ids have 16 bits: an invalidation of one leaves one that differs in the upper byte',
    shown: all(6),
    // The upper byte of a domain id never arrives in a descriptor.
    cut: { store: (value) => ((value & 0xffff_ffffn) === 0x8142_0022n ? (value & 0xffffn) | 0x42_0000n : value) },
    run: (bed) => {
      const g = new VtdGuest(bed).setUp();
      const ends = [0x0042, 0x8142].map((did, n) => {
        const [fn, pa] = [new Probe(), bed.page()];
        bed.plug(fn, RID + 8 * n);
        return { fn, pa, tables: g.translate(RID + 8 * n, VA, pa, did) };
      });
      for (const { fn, pa } of ends) bed.arrives(fn, VA, pa);
      const moved = ends.map(({ tables }) => {
        const pa = bed.page();
        tables.map(VA, pa);
        return pa;
      });
      g.run([0x8142_0022n]);
      bed.arrives(ends[0]!.fn, VA, ends[0]!.pa);
      bed.arrives(ends[1]!.fn, VA, moved[1]!);
      g.run([0x0042_0022n]);
      bed.arrives(ends[0]!.fn, VA, moved[0]!);
    },
  },
  {
    register: 'CAP',
    field: 'PSI',
    section: '11.4.2',
    promise: 'An IOTLB invalidation may name pages, and takes those',
    shown: all(1),
    cut: { store: (value) => ((value & 0xffff_ffffn) === 0x1_0032n ? 5n : value) },
    run: (bed) => {
      const { g, fn, tables, pa } = translating(bed);
      const [other, moved] = [bed.page(), bed.page()];
      tables.map(VA + 0x1000, other);
      g.flush();
      bed.arrives(fn, VA, pa);
      bed.arrives(fn, VA + 0x1000, other);
      tables.map(VA, moved);
      tables.map(VA + 0x1000, moved);
      g.run([0x1_0032n, BigInt(VA)]);
      bed.arrives(fn, VA, moved);
      bed.arrives(fn, VA + 0x1000, other);
    },
  },
  {
    register: 'CAP',
    field: 'MAMV',
    section: '11.4.2',
    promise: 'An address mask of up to 18: 2^18 pages in one descriptor; 19 is an error of the queue',
    shown: all(18),
    cut: { store: (value) => ((value & 0x3fn) === 18n ? value & ~0x3fn : value) },
    run: (bed) => {
      const { g, fn, tables } = translating(bed);
      // The first and the last page of a GiB, and the first behind it.
      const at = [0x8000_0000, 0xbfff_f000, 0xc000_0000];
      const [before, after] = [at.map(() => bed.page()), at.map(() => bed.page())];
      for (const [n, va] of at.entries()) tables.map(va, before[n]!);
      g.flush();
      for (const [n, va] of at.entries()) bed.arrives(fn, va, before[n]!);
      for (const [n, va] of at.entries()) tables.map(va, after[n]!);
      g.run([0x1_0032n, 0x8000_0000n | 18n]);
      bed.arrives(fn, at[0]!, after[0]!);
      bed.arrives(fn, at[1]!, after[1]!);
      bed.arrives(fn, at[2]!, before[2]!);
      g.submit([0x1_0032n, 0x8000_0000n | 19n]);
      expect(bed.r(PAGE.FSTS.at) & FSTS.IQE).toBe(FSTS.IQE);
    },
  },
  {
    register: 'CAP',
    field: 'DWD',
    section: '11.4.2',
    promise:
      'Writes made with what an invalidation takes are in memory when the wait behind it completes (DW=1). Here a write is done when the function has made it, so the wait finds none on its way; tested is that DW=1 is taken and invalidates',
    shown: all(1),
    cut: { store: (value) => ((value & 0xffff_ffffn) === DRAIN_WRITES ? 5n : value) },
    run: (bed) => {
      const { g, fn, tables, pa } = translating(bed);
      bed.arrives(fn, VA, pa);
      const moved = bed.page();
      tables.map(VA, moved);
      expect(fn.write(VA, 0x77)).toBe(0);
      g.run([DRAIN_WRITES]);
      expect(bed.get32(pa)).toBe(0x77);
      bed.arrives(fn, VA, moved);
      expect(bed.get32(pa)).toBe(0x77);
    },
  },
  {
    register: 'CAP',
    field: 'DRD',
    section: '11.4.2',
    promise:
      'Reads made with what an invalidation takes are done when the wait behind it completes (DR=1). Here a read is done when the function has made it, so the wait finds none on its way; tested is that DR=1 is taken and invalidates',
    shown: all(1),
    cut: { store: (value) => ((value & 0xffff_ffffn) === DRAIN_READS ? 5n : value) },
    run: (bed) => {
      const { g, fn, tables, pa } = translating(bed);
      bed.put(pa, 0x11n);
      expect(fn.read(VA)).toBe(0x11);
      const moved = bed.page();
      bed.put(moved, 0x22n);
      tables.map(VA, moved);
      g.run([DRAIN_READS]);
      expect(fn.read(VA)).toBe(0x22);
    },
  },
  {
    register: 'CAP',
    field: 'CM',
    section: '11.4.2',
    promise: 'What becomes present is announced by an invalidation like what changes, and is used from then on',
    shown: all(1, [{ cachingMode: true }, { ...QEMU, cachingMode: true }, { ...SCALABLE, cachingMode: true }]),
    cut: {
      store: (value) => ((value & 0xffff_ffffn) === 0x1_0032n ? 5n : value),
      device: { properties: { cachingMode: false } },
    },
    run: (bed) => {
      const { g, fn, tables, pa } = translating(bed);
      bed.arrives(fn, VA, pa);
      const [fresh, moved] = [bed.page(), bed.page()];
      bed.refused(fn, VA + 0x1000, fresh);
      expect(g.reasons().length).toBe(1);
      tables.map(VA + 0x1000, fresh);
      tables.map(VA, moved);
      g.run([0x1_0032n, BigInt(VA + 0x1000)], [0x1_0032n, BigInt(VA)]);
      bed.arrives(fn, VA + 0x1000, fresh);
      bed.arrives(fn, VA, moved);
    },
  },
  {
    register: 'CAP',
    field: 'FRO',
    section: '11.4.2',
    promise: 'Fault records lie at 16 times this',
    shown: all(0x22),
    // The register names the record behind the first one.
    cut: { reads: (at, value) => (at === PAGE.CAP.at ? value ^ (1 << 24) : value) },
    run: (bed) => {
      const { g, fn } = translating(bed);
      bed.refused(fn, VA + 0x3000);
      expect([bed.r(PAGE.FSTS.at) & FSTS.PPF, bed.r64(16 * g.field('CAP', 'FRO'))]).toEqual([
        FSTS.PPF,
        BigInt(VA + 0x3000),
      ]);
      expect(g.records()).toMatchObject([[BigInt(VA + 0x3000), RID, expect.any(Number)]]);
    },
  },
  {
    register: 'CAP',
    field: 'NFR',
    section: '11.4.2',
    promise: 'This many fault records and one more; a fault that finds none free sets PFO',
    shown: [
      { value: 7, properties: {} },
      { value: 7, properties: SCALABLE },
      { value: 0, properties: QEMU },
    ],
    cut: (value) => ({ device: { deviations: { oneFaultRecord: value !== 0 } } }),
    run: (bed, value) => {
      const g = new VtdGuest(bed).setUp();
      // One function each: QEMU drops a further fault of a function that has a record.
      const functions = Array.from({ length: value + 2 }, (_, n) => {
        const fn = new Probe();
        bed.plug(fn, RID + 8 * n);
        g.translate(RID + 8 * n, VA, bed.page(), n + 1);
        return fn;
      });
      for (const [n, fn] of functions.entries()) {
        expect(bed.r(PAGE.FSTS.at) & FSTS.PFO).toBe(0);
        bed.refused(fn, VA + 0x1000 * (n + 1));
      }
      expect(bed.r(PAGE.FSTS.at) & FSTS.PFO, 'PFO').toBe(FSTS.PFO);
      const seen = g.records().map(([at, rid]) => [at, rid]);
      expect(seen).toEqual(functions.slice(0, value + 1).map((_, n) => [BigInt(VA + 0x1000 * (n + 1)), RID + 8 * n]));
    },
  },
  {
    register: 'ECAP',
    field: 'C',
    section: '11.4.3',
    promise:
      'Root, context and second-stage tables are seen as the processor stored them: no cache is written back for the unit',
    shown: all(1, [{ pageWalkCoherency: true }, { ...QEMU, pageWalkCoherency: true }]),
    cut: { cached: true },
    run: (bed) => {
      const { fn, tables, pa, g } = translating(bed);
      bed.arrives(fn, VA, pa);
      const moved = bed.page();
      tables.map(VA, moved);
      g.run([0x12n]);
      bed.arrives(fn, VA, moved);
    },
  },
  {
    register: 'ECAP',
    field: 'SMPWCS',
    section: '11.4.3',
    promise: 'The same of PASID tables and first stages: PWSNP may be set in a PASID entry',
    shown: all(1, [
      { ...FIRST, pageWalkCoherency: true },
      { ...FIRST, ...QEMU, pageWalkCoherency: true },
    ]),
    cut: { cached: true },
    run: (bed) => {
      const g = new VtdGuest(bed).setUp();
      const fn = new Probe();
      bed.plug(fn, RID);
      const [tables, pa] = [g.first(), bed.page()];
      tables.map(VA, pa);
      g.pasid(RID, 0, 0x41n, 1n | (1n << 23n), BigInt(tables.root));
      g.flush();
      bed.arrives(fn, VA, pa);
      const moved = bed.page();
      tables.map(VA, moved);
      g.run([0x1_0036n, BigInt(VA)]);
      bed.arrives(fn, VA, moved);
      expect(g.reasons()).toEqual([]);
    },
  },
];
