import { expect } from 'vitest';
import { ACCESS, NO_PASID } from '../../../src/ports/dma.ts';
import { EVENT } from '../../../src/spec/smmuv3/events.ts';
import { type Bed, Probe } from '../bed.ts';
import { cfgiCd, driving, R, RW, S2_RW } from './machine.ts';
import { SID, type Smmuv3Row, translating, VA } from './stages.ts';

const BOTH = [{ profile: 'arch' }, { profile: 'qemu-11.1' }] as const;
const XNX_SHOWN = [
  { value: 1, properties: { stage: 'nested', ssidsize: 4 } },
  // QEMU has no SubstreamIDs with a stage 2.
  { value: 1, properties: { profile: 'qemu-11.1', stage: 'nested' } },
] as const;
const XNX_CUT = { bus: { access: (access: number) => access & ~ACCESS.PRIV } };

function xnx(bed: Bed): void {
  if (bed.r(R.IDR1) % 2 ** 11 < 2 ** 6) withoutSubstreams(bed);
  else withSubstreams(bed);
}

/** XN 00: both, 01: EL0 only, 10: none, 11: EL1 only (DDI 0487, §D8.4). */
const UNPRIVILEGED = [true, true, false, false];
const PRIVILEGED = [true, false, false, true];

function withSubstreams(bed: Bed): void {
  const g = driving(bed);
  expect(g.field('IDR3', 'XNX')).toBe(1);
  const fn = new Probe({ pasid: { width: 4, exec: true, priv: true } });
  bed.plug(fn, SID);
  const second = g.tables();
  // What stage 1 needs of guest memory, one to one: its CD table, its tables and the pages.
  for (let at = 0x4000_0000; at < 0x4100_0000; at += 0x20_0000) second.map(at, at, 2, S2_RW);
  const one = g.tables();
  const pages = [0n, 1n, 2n, 3n].map((xn) => {
    const va = VA + Number(xn) * 0x1000;
    // Privileged read-only and executable by both at stage 1.
    one.map(va, 0x8000_0000 + Number(xn) * 0x1000, 3, 0x4c0n);
    second.map(0x8000_0000 + Number(xn) * 0x1000, bed.page(), 3, 0x47cn | (xn << 53n));
    return va;
  });
  const cds = bed.pages();
  bed.put(cds + 64, ...g.cd(one.root));
  g.ste(SID, BigInt(cds) | 0xfn | (4n << 59n), 2n | (1n << 44n), ...g.vtcr(second, 7));
  const fetches = (priv: number) => pages.map((va) => fn.read(va, 1, ACCESS.EXEC | priv) !== null);
  expect(fetches(0), 'unprivileged').toEqual(UNPRIVILEGED);
  expect(fetches(ACCESS.PRIV), 'privileged').toEqual(PRIVILEGED);
  expect(pages.map((va) => fn.read(va, 1) !== null)).toEqual([true, true, true, true]);
  expect(new Set(g.faults())).toEqual(new Set([EVENT.F_PERMISSION]));
}

/** A stage 2 alone, and requests that say what they are without a PASID. */
function withoutSubstreams(bed: Bed): void {
  const g = driving(bed);
  expect(g.field('IDR3', 'XNX')).toBe(1);
  const fn = new Probe();
  bed.plug(fn, SID);
  const tables = g.tables();
  const pages = [0n, 1n, 2n, 3n].map((xn) => {
    const va = VA + Number(xn) * 0x1000;
    tables.map(va, bed.page(), 3, S2_RW | (xn << 53n));
    return va;
  });
  g.stage2(SID, tables, 7);
  const reads = (access: number) => pages.map((va) => fn.read(va, NO_PASID, access) !== null);
  expect(reads(ACCESS.EXEC), 'unprivileged').toEqual(UNPRIVILEGED);
  expect(reads(ACCESS.EXEC | ACCESS.PRIV), 'privileged').toEqual(PRIVILEGED);
  expect(reads(0)).toEqual([true, true, true, true]);
  expect(new Set(g.faults())).toEqual(new Set([EVENT.F_PERMISSION]));
}

function had(bed: Bed): void {
  const { g, fn, cd, leaf } = translating(bed);
  expect(g.field('IDR3', 'HAD')).toBe(1);
  const pa = bed.page();
  // Tables of their own that say read-only (APTable[1]).
  const strict = g.tables();
  strict.map(VA, pa, 3, RW, 1n << 62n);
  bed.put(cd + 8, BigInt(strict.root));
  g.run(cfgiCd(SID), [0x30n, 0n]);
  bed.refused(fn, VA, pa);
  expect(g.faults()).toEqual([EVENT.F_PERMISSION]);
  bed.put(cd + 8, BigInt(strict.root) | 2n);
  g.run(cfgiCd(SID), [0x30n, 0n]);
  bed.arrives(fn, VA, pa);
  expect(bed.get(leaf)).not.toBe(0n);
}

/** Permissions that tables give beside those of the leaf, and the revision that has them. */
export const PERMISSIONS: readonly Smmuv3Row[] = [
  {
    register: 'IDR3',
    field: 'HAD',
    section: '6.3.4',
    promise: 'CD.HAD0=1 takes no permissions from table descriptors',
    shown: BOTH.map((properties) => ({ value: 1, properties })),
    // TTB0's word of a CD arrives without HAD0.
    cut: { store: (value) => ((value & 0xfffn) === 2n ? value & ~2n : value) },
    run: (bed) => had(bed),
  },
  {
    register: 'IDR3',
    field: 'XNX',
    section: '6.3.4',
    promise: 'Stage 2 tells execution by privileged from that by unprivileged accesses (XN[1:0])',
    shown: XNX_SHOWN,
    cut: XNX_CUT,
    run: (bed) => xnx(bed),
  },
  {
    register: 'AIDR',
    field: 'ArchMinorRev',
    section: '6.3.8',
    promise:
      'SMMUv3.1: every stage 1 has HAD and every stage 2 has XNX, which SMMUv3.0 leaves open. The tests are those of IDR3.HAD and IDR3.XNX',
    shown: [...BOTH.map((properties) => ({ value: 1, properties })), ...XNX_SHOWN],
    cut: { store: (value) => ((value & 0xfffn) === 2n ? value & ~2n : value), ...XNX_CUT },
    run: (bed, _, { stage }) => {
      expect(bed.r(0x1c)).toBe(1);
      if (stage === 'nested') xnx(bed);
      else had(bed);
    },
  },
];
