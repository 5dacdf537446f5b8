import { expect } from 'vitest';
import { ACCESS } from '../../../src/ports/dma.ts';
import { FAULT } from '../../../src/spec/vtd/faults.ts';
import { PAGE } from '../../../src/spec/vtd/registers.ts';
import { type Bed, Probe } from '../bed.ts';
import type { CapabilityRow } from '../row.ts';
import { lacking, VtdGuest, type VtdShape } from './machine.ts';

export type VtdRow = CapabilityRow<VtdShape, Bed>;

export const RID = 0x10;
export const VA = 0x1234_5000;
export const QEMU = { profile: 'qemu-11.1' } as const;
export const SCALABLE = { scalableMode: true } as const;
export const FIRST = { scalableMode: true, fsts: true } as const;
/** Everything on. */
export const FULL = { scalableMode: true, fsts: true, pasidBits: 8, deviceIotlb: true, svm: true } as const;

/** A function, and VA mapped for its requests without PASID. */
export function translating(bed: Bed, probe?: ConstructorParameters<typeof Probe>[0]) {
  const g = new VtdGuest(bed).setUp();
  const fn = new Probe(probe);
  bed.plug(fn, RID);
  const pa = bed.page();
  const tables = g.translate(RID, VA, pa);
  return { g, fn, tables, pa };
}

/** A function with first-stage tables. */
export function firstStage(bed: Bed, levels = 4, pasid = 0, probe?: ConstructorParameters<typeof Probe>[0]) {
  const g = new VtdGuest(bed).setUp();
  const fn = new Probe(probe);
  bed.plug(fn, RID);
  const tables = g.first(levels);
  const pa = bed.page();
  tables.map(VA, pa);
  g.firstStage(RID, pasid, tables);
  g.flush();
  return { g, fn, tables, pa };
}

/** The last page of the widest input, and the first one beyond it. */
function widest(bed: Bed, bits: number): void {
  const g = new VtdGuest(bed).setUp();
  const fn = new Probe();
  bed.plug(fn, RID);
  const [pa, last] = [bed.page(), 2n ** BigInt(bits) - 0x1000n];
  g.translate(RID, 0, bed.page()).map(last, pa);
  bed.arrives(fn, last, pa);
  bed.refused(fn, last + 0x1000n, pa);
  const beyond: readonly number[] = [FAULT.BEYOND_WIDTH, FAULT.SS_BEYOND, FAULT.NON_CANONICAL];
  expect(g.records().map(([at, rid, reason]) => [at, rid, beyond.includes(reason)])).toEqual([
    [last + 0x1000n, RID, true],
  ]);
}

const WIDTHS = [
  [39, 0x2, { awBits: 39 }, { dmaTranslation: false }],
  [48, 0x6, { awBits: 48 }, { awBits: 39 }],
  [57, 0xe, { awBits: 57, scalableMode: true }, { awBits: 48 }],
] as const;

/** Whether stages and their tables do what they are said to. */
export const STAGES: readonly VtdRow[] = [
  {
    register: 'CAP',
    field: 'SAGAW',
    section: '11.4.2',
    promise: 'Second stages have 3, 4 and 5 levels, as bits 1 to 3 say (AW)',
    shown: [
      ...WIDTHS.map(([, value, properties]) => ({ value, properties })),
      { value: 0x2, properties: { ...QEMU, awBits: 39 } },
      { value: 0x6, properties: QEMU },
    ],
    cut: (value) => ({ device: { properties: WIDTHS.find((w) => w[1] === value)![3] } }),
    run: (bed, value) => {
      const g = new VtdGuest(bed).setUp();
      const fn = new Probe();
      bed.plug(fn, RID);
      for (const levels of [3, 4, 5]) {
        const [tables, pa] = [g.second(levels), bed.page()];
        const top = 2n ** BigInt(12 + 9 * levels) - 0x1000n;
        tables.map(top, pa);
        if (g.scalable) g.secondStage(RID, 0, tables);
        else g.legacy(RID, tables);
        g.flush();
        if ((value & (1 << (levels - 2))) !== 0) bed.arrives(fn, top, pa);
        else {
          bed.refused(fn, top, pa);
          expect(g.reasons().length).toBe(1);
        }
      }
    },
  },
  {
    register: 'CAP',
    field: 'MGAW',
    section: '11.4.2',
    promise: 'Inputs have this many bits and one more; a further one is a fault',
    shown: [
      ...WIDTHS.map(([bits, , properties]) => ({ value: bits - 1, properties })),
      { value: 38, properties: { ...QEMU, awBits: 39 } },
      { value: 47, properties: QEMU },
    ],
    cut: (value) => ({ device: { properties: WIDTHS.find((w) => w[0] === value + 1)![3] } }),
    run: (bed, value) => widest(bed, value + 1),
  },
  {
    register: 'CAP',
    field: 'SSLPS',
    section: '11.4.2',
    promise: 'Second stages have pages of 2 MiB and 1 GiB',
    shown: [{}, QEMU, SCALABLE, { ...SCALABLE, ...QEMU }].map((properties) => ({ value: 3, properties })),
    // PS does not arrive.
    cut: { store: (value) => ((value & 0xfffn) === 0x83n ? value & ~0x80n : value) },
    run: (bed) => {
      const { g, fn, tables } = translating(bed);
      tables.map(0x4020_0000, 0x4020_0000, 3n, 2);
      tables.map(0xc000_0000, 0x4000_0000, 3n, 3);
      const pa = bed.page();
      g.flush();
      bed.arrives(fn, 0x4020_0000 + 0x1_0000, 0x4020_0000 + 0x1_0000);
      bed.arrives(fn, 0xc000_0000 + (pa - 0x4000_0000), pa);
      expect(g.reasons()).toEqual([]);
    },
  },
  {
    register: 'CAP',
    field: 'FS1GP',
    section: '11.4.2',
    promise: 'First stages have pages of 1 GiB',
    shown: [FIRST, { ...FIRST, ...QEMU }].map((properties) => ({ value: 1, properties })),
    cut: lacking('cap', 1n << 56n),
    run: (bed) => {
      const { g, fn, tables } = firstStage(bed);
      tables.map(0, 0x4000_0000, 0x67n, 3);
      g.flush();
      const pa = bed.page();
      bed.arrives(fn, pa - 0x4000_0000, pa);
      expect(g.reasons()).toEqual([]);
    },
  },
  {
    register: 'CAP',
    field: 'FS5LP',
    section: '11.4.2',
    promise: 'First stages have 5 levels (FSPM=1): canonical addresses of 57 bits, of both halves',
    shown: [{ value: 1, properties: { ...FIRST, awBits: 57 } }],
    cut: lacking('cap', 1n << 60n),
    run: (bed) => {
      const { g, fn, tables, pa } = firstStage(bed, 5);
      bed.arrives(fn, VA, pa);
      const [high, low] = [bed.page(), bed.page()];
      tables.map(0x00ff_ffff_ffff_f000n, low);
      tables.map(0xff00_0000_0000_0000n, high);
      bed.arrives(fn, 0x00ff_ffff_ffff_f000n, low);
      bed.arrives(fn, 0xff00_0000_0000_0000n, high);
      bed.refused(fn, 0x0100_0000_0000_0000n);
      expect(g.reasons()).toEqual([FAULT.NON_CANONICAL]);
    },
  },
  {
    register: 'CAP',
    field: 'ESRTPS',
    section: '11.4.2',
    promise: 'SRTP empties the caches of contexts, PASIDs and translations by itself',
    shown: [{}, QEMU, SCALABLE, FIRST].map((properties) => ({ value: 1, properties })),
    cut: { register: (at, value) => (at === PAGE.GCMD.at ? value & ~0x4000_0000n : value) },
    run: (bed) => {
      const { g, fn, pa } = translating(bed);
      bed.arrives(fn, VA, pa);
      // Other tables for everything, and not one invalidation.
      const other = new VtdGuest(bed);
      const moved = bed.page();
      const second = !g.scalable || g.field('ECAP', 'SSTS') === 1;
      const tables = second ? other.second(other.levels()) : other.first();
      tables.map(VA, moved);
      if (!g.scalable) other.legacy(RID, tables);
      else if (second) other.secondStage(RID, 0, tables);
      else other.firstStage(RID, 0, tables);
      g.root(other.roots);
      bed.arrives(fn, VA, moved);
    },
  },
  {
    register: 'ECAP',
    field: 'PT',
    section: '11.4.3',
    promise: 'Requests pass untranslated where the context (TT=2) or the PASID entry (PGTT=4) says so',
    shown: [{}, QEMU, SCALABLE, { ...SCALABLE, ...QEMU }].map((properties) => ({ value: 1, properties })),
    // TT of a legacy context and PGTT of a PASID entry arrive as another.
    cut: { store: (value) => (value === 0x9n || value === 0x109n ? value & ~0x108n : value) },
    run: (bed) => {
      const { g, fn, pa } = translating(bed);
      bed.arrives(fn, VA, pa);
      if (g.scalable) g.pasid(RID, 0, 0x109n, 1n);
      else g.legacy(RID, null);
      g.flush();
      bed.arrives(fn, pa + 0x40, pa + 0x40);
      expect(g.reasons()).toEqual([]);
    },
  },
  {
    register: 'ECAP',
    field: 'SC',
    section: '11.4.3',
    promise:
      'Accesses may be told to snoop. Memory here has one copy, so nothing tells snooped from other accesses; tested is that SNP in a second-stage leaf and (arch) PGSNP in a PASID entry are not reserved',
    shown: [{ snoopControl: true }, { ...QEMU, snoopControl: true }, { ...FIRST, snoopControl: true }].map(
      (properties) => ({ value: 1, properties }),
    ),
    cut: { device: { properties: { snoopControl: false } } },
    run: (bed) => {
      const { g, fn, tables } = translating(bed);
      const pa = bed.page();
      const second = !g.scalable || g.field('ECAP', 'SSTS') === 1;
      if (second) tables.map(VA + 0x1000, pa, 0x803n);
      else tables.map(VA + 0x1000, pa);
      if (g.scalable) g.secondStage(RID, 0, tables, 1, 1n << 24n);
      g.flush();
      bed.arrives(fn, VA + 0x1000, pa);
      expect(g.reasons()).toEqual([]);
    },
  },
  {
    register: 'ECAP',
    field: 'SMTS',
    section: '11.4.3',
    promise: 'Scalable mode: TTM=1, context entries with a PASID directory, 256-bit descriptors',
    shown: [SCALABLE, { ...SCALABLE, ...QEMU }].map((properties) => ({ value: 1, properties })),
    cut: { device: { properties: { scalableMode: false } } },
    run: (bed) => {
      const { g, fn, tables, pa } = translating(bed);
      expect(g.scalable).toBe(true);
      bed.arrives(fn, VA, pa);
      const moved = bed.page();
      tables.map(VA, moved);
      g.run([0x1_0032n, BigInt(VA)]);
      bed.arrives(fn, VA, moved);
      expect(g.reasons()).toEqual([]);
    },
  },
  {
    register: 'ECAP',
    field: 'SSTS',
    section: '11.4.3',
    promise: 'Scalable mode has second stages (PGTT=2), which IOTLB descriptors of their domain invalidate',
    shown: [SCALABLE, { ...SCALABLE, ...QEMU }, FIRST].map((properties) => ({ value: 1, properties })),
    cut: { store: (value) => ((value & 0xfcfn) === 0x89n ? value ^ 0x180n : value) },
    run: (bed) => {
      const { g, fn, tables, pa } = translating(bed);
      bed.arrives(fn, VA, pa);
      const moved = bed.page();
      tables.map(VA, moved);
      g.run([0x1_0022n]);
      bed.arrives(fn, VA, moved);
      bed.refused(fn, VA + 0x1000);
      expect(g.records()).toMatchObject([[BigInt(VA + 0x1000), RID, expect.any(Number)]]);
    },
  },
  {
    register: 'ECAP',
    field: 'FSTS',
    section: '11.4.3',
    promise: 'Scalable mode has first stages (PGTT=1), which PASID-based IOTLB descriptors invalidate',
    shown: [FIRST, { ...FIRST, ...QEMU }].map((properties) => ({ value: 1, properties })),
    cut: { lost: (op) => op === 6 },
    run: (bed) => {
      const { g, fn, tables, pa } = firstStage(bed);
      bed.arrives(fn, VA, pa);
      const moved = bed.page();
      tables.map(VA, moved);
      g.run([0x1_0036n, BigInt(VA)]);
      bed.arrives(fn, VA, moved);
      bed.refused(fn, VA + 0x1000);
      expect(g.reasons().length).toBe(1);
    },
  },
  {
    register: 'ECAP',
    field: 'NEST',
    section: '11.4.3',
    promise: 'A first stage may lie on a second stage (PGTT=3)',
    shown: [{ value: 1, properties: FIRST }],
    cut: lacking('ecap', 1n << 26n),
    run: (bed) => {
      const g = new VtdGuest(bed).setUp();
      const fn = new Probe();
      bed.plug(fn, RID);
      // The inner guest's memory begins at 4 GiB.
      const L1 = 0x1_0000_0000;
      const second = g.second();
      for (let at = 0x4000_0000; at < 0x4100_0000; at += 0x20_0000) second.map(L1 + at, at, 3n, 2);
      const tables = [bed.pages(), bed.pages(), bed.pages(), bed.pages()];
      const pa = bed.page();
      tables.forEach((table, i) => {
        const index = Math.floor(VA / 2 ** (39 - 9 * i)) % 512;
        bed.put(table + 8 * index, BigInt(L1 + (tables[i + 1] ?? pa)) | (i === 3 ? 0x67n : 0x27n));
      });
      g.pasid(RID, 0, BigInt(second.root) | 0xc9n, 5n, BigInt(L1 + tables[0]!));
      g.flush();
      bed.arrives(fn, VA, pa);
      const moved = bed.page();
      second.map(L1 + 0x8000_0000, moved);
      bed.put(tables[3]! + 8 * (Math.floor(VA / 4096) % 512), BigInt(L1 + 0x8000_0000) | 0x67n);
      g.run([0x5_0036n, BigInt(VA)]);
      bed.arrives(fn, VA, moved);
      expect(g.reasons()).toEqual([]);
    },
  },
  {
    register: 'ECAP',
    field: 'ADMS',
    section: '11.4.3',
    promise: 'Table mode 3 aborts every request of every function',
    shown: [SCALABLE, FIRST].map((properties) => ({ value: 1, properties })),
    cut: { register: (at, value) => (at === PAGE.RTADDR.at ? value & ~0x800n : value) },
    run: (bed) => {
      const { g, fn, pa } = translating(bed);
      bed.arrives(fn, VA, pa);
      g.root(g.roots, 3);
      bed.refused(fn, VA, pa);
      expect(g.reasons()).toEqual([FAULT.ABORT_MODE]);
      g.root(g.roots);
      bed.arrives(fn, VA, pa);
    },
  },
  {
    register: 'ECAP',
    field: 'SRS',
    section: '11.4.3',
    promise:
      'Requests with a PASID may be privileged; a first stage (beside a second one in arch only) takes them with SRE=1 only',
    shown: [
      { value: 1, properties: { ...FIRST, pasidBits: 8 } },
      { value: 1, properties: { ...SCALABLE, ...QEMU, pasidBits: 8 } },
    ],
    cut: { bus: { access: (access) => access & ~ACCESS.PRIV, pasid: (pasid) => (pasid === 4 ? 5 : pasid) } },
    run: (bed) => {
      const g = new VtdGuest(bed).setUp();
      const fn = new Probe({ pasid: { width: 8, priv: true } });
      bed.plug(fn, RID);
      const pa = bed.page();
      if (g.field('ECAP', 'FSTS') === 0) {
        const tables = g.second();
        tables.map(VA, pa);
        g.secondStage(RID, 4, tables);
        g.flush();
        bed.arrives(fn, VA, pa, 4, ACCESS.PRIV);
        return;
      }
      const tables = g.first();
      // Supervisor pages: U/S=0.
      tables.map(VA, pa, 0x63n);
      g.firstStage(RID, 3, tables, 2);
      g.firstStage(RID, 4, tables, 3, 1n);
      g.flush();
      bed.refused(fn, VA, pa, 3, ACCESS.PRIV);
      expect(g.reasons()).toEqual([FAULT.PASID_SRE]);
      bed.arrives(fn, VA, pa, 4, ACCESS.PRIV);
      bed.refused(fn, VA, pa, 4);
      expect(g.reasons()).toEqual([FAULT.US]);
    },
  },
];
