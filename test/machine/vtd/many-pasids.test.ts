import { describe, expect, test } from 'vitest';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { frcd } from '../../../src/spec/vtd/faults.ts';
import { PAGE } from '../../../src/spec/vtd/registers.ts';
import { FIRST, Rig, type RigOptions } from './rig.ts';

const RID = 0x10;
const A = 0x90_0000;
const TABLES = 0x100_0000;
const DIRECTORY = 0x20_2000;
const CONTEXTS = 0x20_1000;
const STATUS = 0x1f_0000;
/** Verbs that one access of the guest may cost. */
const MOST_VERBS = 400;
const LOOKS = 5000;
/** All PASID entries, and a wait. */
const EVERYTHING = 7n | (3n << 4n);

/** A linux-only guest whose functions share one table with PASIDs below `count`, all of them on the same page table. */
function machine(count: number, functions = 1, limits: RigOptions['limits'] = {}) {
  const props = { profile: 'arch', scalableMode: true, fsts: true, pasidBits: 16 } as const;
  const rig = new Rig({ props, linuxOnly: true, limits });
  const { g } = rig;
  const root = rig.page();
  g.map(root, 0x5000, A, 7n, rig.pools[0]!);
  const plugged = Array.from({ length: functions }, (_, i) => {
    const fn = rig.plug(RID + i, 0, { maxPasids: 2 ** 16 });
    rig.scalable(RID + i, 0, FIRST(1, root));
    const at = CONTEXTS + 32 * (RID + i);
    // PDTS: a directory of 2^12 entries.
    g.store(at, g.load(at) | (5n << 9n));
    return fn;
  });
  const directories = Math.ceil(count / 64);
  for (let d = 0; d < directories; d++) {
    g.store(DIRECTORY + 8 * d, BigInt(TABLES + d * 4096) | 1n);
    for (let i = 0; i < 64 && d * 64 + i < count; i++) {
      g.store(TABLES + d * 4096 + 64 * i, ...FIRST(1, root), 0n, 0n, 0n, 0n, 0n);
    }
  }
  const clear = () => {
    for (let d = 0; d < directories; d++) g.store(DIRECTORY + 8 * d, 0n);
  };
  const on = () => {
    g.queueOn(true);
    g.translateOn(rig.root(1));
    let n = 0;
    while (n < LOOKS && g.r32(PAGE.GSTS.at) >>> 31 === 0) n++;
    expect(n).toBeLessThan(LOOKS);
  };
  /** Does `access`, then looks until the queue is empty. @returns most verbs of one of these accesses. */
  const most = (access: () => void) => {
    rig.hostOps();
    const verbs = () => Object.values(rig.hostOps()).reduce((sum, n) => sum + n, 0);
    access();
    let max = verbs();
    for (let i = 0; i < LOOKS && g.r32(PAGE.IQH.at) !== g.r32(PAGE.IQT.at); i++) max = Math.max(max, verbs());
    return max;
  };
  return { rig, g, plugged, clear, on, most };
}

describe('a guest with thousands of PASIDs, without upcalls', () => {
  test('has every one of them set up when TES says that translation is on', () => {
    const m = machine(1500);
    m.on();
    for (const pasid of [1, 1023, 1024, 1025, 1400, 1499]) expect(m.rig.dma(RID, 0x5000, 2, pasid)).toBe(A);
    expect(m.rig.dma(RID, 0x5000, 2, 1500)).toBe('ABORT');
  });

  test('has them set up by one PASID-cache invalidation as well', () => {
    const m = machine(1500);
    m.g.store(DIRECTORY + 8, ...Array<bigint>(23).fill(0n));
    m.on();
    expect(m.rig.dma(RID, 0x5000, 2, 1499)).toBe('ABORT');
    for (let d = 1; d < 24; d++) m.g.store(DIRECTORY + 8 * d, BigInt(TABLES + d * 4096) | 1n);
    expect(m.most(() => m.g.submit(EVERYTHING))).toBeLessThan(MOST_VERBS);
    for (const pasid of [1, 1025, 1499]) expect(m.rig.dma(RID, 0x5000, 2, pasid)).toBe(A);
  });

  test('waits in parts for what the host does not prove by itself to be gone', () => {
    const m = machine(300, 6);
    m.on();
    expect(m.rig.dma(RID + 5, 0x5000, 2, 299)).toBe(A);
    m.clear();
    expect(m.most(() => m.g.submit(EVERYTHING))).toBeLessThan(MOST_VERBS);
    expect(m.most(() => m.g.submit(0x25n | (0x55n << 32n), BigInt(STATUS)))).toBeLessThan(MOST_VERBS);
    expect(m.g.load(STATUS)).toBe(0x55n);
    expect(m.rig.dma(RID + 5, 0x5000, 2, 299)).toBe('ABORT');
  });

  test('hears of a PASID that finds no room at an invalidation, which is no error', () => {
    const m = machine(12, 1, { pasids: 8 });
    m.clear();
    m.on();
    m.g.store(DIRECTORY, BigInt(TABLES) | 1n);
    m.g.submit(EVERYTHING, 0n, 0n, 0n);
    const at = PAGE.FRCD_LO.at;
    const named = frcd.pasid(m.g.r32(at + 8) | 0, m.g.r32(at + 12) | 0);
    expect([m.g.r32(PAGE.FSTS.at) & 0x10, frcd.isFault(m.g.r32(at + 12) | 0)]).toEqual([0, true]);
    expect([m.rig.dma(RID, 0x5000, 2, 1), m.rig.dma(RID, 0x5000, 2, named)]).toEqual([A, 'ABORT']);
  });

  test('hears of the PASIDs that the host refuses, also beyond those that are tried again', () => {
    const m = machine(600);
    const vfio = m.plugged[0]!.vfio as unknown as { attach(args: unknown, ...a: unknown[]): number };
    const real = vfio.attach.bind(vfio);
    const told = new Set<number>();
    const drain = () => {
      const records = Number((m.g.r64(PAGE.CAP.at) >> 40n) & 0xffn) + 1;
      for (let i = 0; i < records; i++) {
        const at = PAGE.FRCD_LO.at + 16 * i;
        if (!frcd.isFault(m.g.r32(at + 12) | 0)) continue;
        told.add(frcd.pasid(m.g.r32(at + 8) | 0, m.g.r32(at + 12) | 0));
        m.g.w32(at + 12, 0x8000_0000);
      }
    };
    let attached = 0;
    // Everything behind the first 100 is what the host cannot have.
    vfio.attach = (...a) => (++attached > 100 ? -E.OPNOTSUPP : real(...a));
    m.on();
    for (let i = 0; i < 20; i++) drain();
    expect([...told].filter((pasid) => pasid >= 0)).not.toEqual([]);
    expect(m.g.r32(PAGE.FSTS.at) & 1).toBe(1);
    vfio.attach = real;
    expect(m.rig.dma(RID, 0x5000, 2, 599)).toBe('ABORT');
    m.most(() => m.g.submit(EVERYTHING));
    expect(m.rig.dma(RID, 0x5000, 2, 599)).toBe(A);
    expect(m.rig.dma(RID, 0x5000, 2, NO_PASID)).toBe(A);
  });
});
