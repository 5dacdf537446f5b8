import { describe, expect, test } from 'vitest';
import { DATA, Rig as Plugged, RAM } from './plugged/rig.ts';
import { FIRST, Rig } from './vtd/rig.ts';

/** Verbs one access of the guest may make its host execute. */
const MOST_VERBS = 1500;
const IQH = 0x80;
const IQT = 0x88;

/** Lets `access` happen and the unit go on at later reads, until `done`. @returns verbs of each of these accesses. */
function occasions(rig: { hostOps(): Record<string, number> }, access: () => void, done: () => boolean): number[] {
  const verbs = (): number => Object.values(rig.hostOps()).reduce((a, b) => a + b, 0);
  verbs();
  access();
  const list = [verbs()];
  while (list.length < 5000 && !done()) list.push(verbs());
  return list;
}

describe('the work of one access', () => {
  /** Caching mode, four levels of tables that point at each other, `descriptors` domain-selective flushes in the queue. */
  function selfSimilar(descriptors: number, more: object = {}) {
    const rig = new Rig({ props: { cachingMode: true, awBits: 48 }, ...more });
    const { g } = rig;
    const queue = 0x180_0000;
    const tables = [0x100_0000, 0x100_1000, 0x100_2000, 0x100_3000];
    for (let i = 0; i < 512; i++) {
      for (let l = 0; l < 3; l++) g.store(tables[l]! + 8 * i, BigInt(tables[l + 1]!) | 3n);
      g.store(tables[3]! + 8 * i, BigInt(0x10_0000 + (i % 2) * 0x4000) | 3n);
    }
    rig.plug(8);
    rig.legacy(8, 5, tables[0]!);
    g.w64(0x90, BigInt(queue) | 7n);
    g.w32(0x18, 0x0400_0000);
    g.translateOn(rig.root());
    for (let i = 0; i < descriptors; i++) g.store(queue + 16 * i, 0x22n | (5n << 16n), 0n);
    return rig;
  }

  test('flushes of tables that point at each other are done in pieces, in order, while the head moves', () => {
    const rig = selfSimilar(64);
    const { g } = rig;
    const heads: number[] = [];
    const verbs = occasions(
      rig,
      () => g.w32(IQT, 64 << 4),
      () => {
        heads.push(g.r32(IQH) >> 4);
        return heads.at(-1) === 64;
      },
    );
    expect(heads.at(-1)).toBe(64);
    expect(heads.length).toBeGreaterThan(2);
    expect(heads).toEqual([...heads].sort((a, b) => a - b));
    expect(Math.max(...verbs)).toBeLessThan(MOST_VERBS);
    // What was not filled ahead comes on demand.
    expect(rig.dma(8, 0x7000_0000)).toBe(0x10_0000);
  });

  test('a unit that nobody reads goes on with the clock', () => {
    const rig = selfSimilar(64);
    rig.g.w32(IQT, 64 << 4);
    rig.vm.clock.settle();
    expect(rig.g.r32(IQH) >> 4).toBe(64);
  });

  test('a flush of everything that misses have mapped is complete before the head passes it, and leaves nothing', () => {
    const rig = selfSimilar(1);
    const { g } = rig;
    for (let i = 0; i < 3000; i++) rig.dma(8, 0x4000_0000 + i * 0x1000);
    // The tables change: nothing may translate as before once the head has moved.
    for (let i = 0; i < 512; i++) g.store(0x100_3000 + 8 * i, BigInt(0x20_0000 + (i % 2) * 0x4000) | 3n);
    const verbs = occasions(
      rig,
      () => g.w32(IQT, 1 << 4),
      () => g.r32(IQH) >> 4 === 1,
    );
    // It costs the same whatever is mapped: one access.
    expect(verbs.length).toBe(1);
    expect(Math.max(...verbs)).toBeLessThan(MOST_VERBS);
    for (let i = 0; i < 3000; i += 7) {
      expect(rig.dma(8, 0x4000_0000 + i * 0x1000)).toBe(0x20_0000 + (i % 2) * 0x4000);
    }
  });

  test('leaves that lie outside of RAM, each for itself, are looked at in pieces as well', () => {
    const rig = selfSimilar(8);
    const { g } = rig;
    for (let i = 0; i < 512; i++) g.store(0x100_3000 + 8 * i, BigInt(0x1_0000_0000 + (i % 2) * 0x4000) | 3n);
    const { memory } = rig.vm;
    let looks = 0;
    const ram = memory.ram.bind(memory);
    memory.ram = () => {
      looks++;
      return ram();
    };
    const list: number[] = [];
    const heads: number[] = [];
    g.w32(IQT, 8 << 4);
    do {
      list.push(looks);
      looks = 0;
      heads.push(g.r32(IQH) >> 4);
    } while (heads.at(-1)! < 8 && heads.length < 5000);
    expect(heads.at(-1)).toBe(8);
    expect(Math.max(...list)).toBeGreaterThan(100);
    expect(Math.max(...list)).toBeLessThan(1500);
  });

  test('a million PASIDs in one table are looked at on demand', () => {
    const rig = new Rig({ props: { scalableMode: true, fsts: true, pasidBits: 20 } });
    const { g } = rig;
    rig.plug(0x10, 0, { maxPasids: 1 << 20 });
    const table = rig.page();
    const [directory, entries] = [0x40_0000, 0x50_0000];
    for (let i = 0; i < 64; i++) g.store(entries + 64 * i, ...FIRST(7, table), 0n, 0n, 0n, 0n, 0n);
    for (let i = 0; i < 16384; i++) g.store(directory + 8 * i, BigInt(entries) | 1n);
    g.store(0x20_0000, 0x20_1001n, 0n);
    g.store(0x20_1000 + 32 * 0x10, BigInt(directory) | 9n | (7n << 9n), 0n, 0n, 0n);
    g.queueOn(true);
    g.translateOn(rig.root(1));
    for (let i = 0; i < 8; i++) g.store(g.queue + 32 * i, ((i & 1) === 0 ? 7n << 16n : 9n << 16n) | 0x07n, 0n, 0n, 0n);
    const verbs = occasions(
      rig,
      () => g.w32(IQT, 32 * 8),
      () => g.r32(IQH) === 32 * 8,
    );
    expect(g.r32(IQH)).toBe(32 * 8);
    expect(Math.max(...verbs)).toBeLessThan(MOST_VERBS);
    expect(verbs.length).toBeGreaterThan(1);
  });

  test('half a million commands of an SMMUv3 in one write are done a part at a time', () => {
    const rig = new Plugged('smmuv3');
    const { iommu } = rig;
    const w = (at: number, value: number) => iommu.write(at, 4, value, 0);
    const { guest } = rig.machine.vm.memory;
    const queue = RAM + 0x80_0000;
    expect(queue + (16 << 19)).toBeLessThanOrEqual(DATA);
    for (let i = 0; i < 1 << 19; i++) guest.store64(queue + 16 * i, 3, i);
    w(0x90, queue | 19);
    w(0x94, 0);
    w(0x20, 8);
    w(0x98, 0x7_ffff);
    const seen = [iommu.read(0x9c, 4)];
    expect(seen[0]).toBeLessThan(0x2000);
    while (seen.at(-1)! < 0x7_ffff && seen.length < 10_000) seen.push(iommu.read(0x9c, 4));
    expect(seen.at(-1)).toBe(0x7_ffff);
    expect(seen.length).toBeGreaterThan(100);
    expect(rig.errors).toEqual([]);
  });

  test('a table of a host that never asks is filled in parts, all of it before the head passes, and goes in parts', () => {
    const rig = selfSimilar(2, { linuxOnly: true, limits: { shadowPieces: 6000 } });
    const { g } = rig;
    const done = () => g.r32(IQH) >> 4 === 2;
    const verbs = occasions(rig, () => g.w32(IQT, 2 << 4), done);
    expect(done()).toBe(true);
    expect(verbs.length).toBeGreaterThan(10);
    expect(Math.max(...verbs)).toBeLessThan(MOST_VERBS);
    expect(rig.vm.usage().shadowPieces.used).toBeGreaterThan(5000);
    // The architecture has translation off only when GSTS says so.
    const off = occasions(
      rig,
      () => g.w32(0x18, 0x0400_0000),
      () => (g.r32(0x1c) & 0x8000_0000) === 0,
    );
    expect(Math.max(...off)).toBeLessThan(MOST_VERBS);
    for (let i = 0; i < 500 && rig.vm.usage().shadowPieces.used > 0; i++) rig.vm.clock.advance(10);
    expect(rig.vm.usage().shadowPieces.used).toBe(0);
    expect(rig.dma(8, 0x10_0000)).toBe(0x10_0000);
  });

  test.each([false, true])(
    '1000 PASIDs that are set up go in parts with a new root table (linux-only %s)',
    (linuxOnly) => {
      const rig = new Rig({ linuxOnly, props: { scalableMode: true, fsts: true, pasidBits: 12 } });
      const { g } = rig;
      const PASIDS = 1000;
      rig.plug(0x10, 0, { maxPasids: 4096 });
      const table = rig.page();
      g.map(table, 0x5000, 0x100_0000, 7n, rig.pools[0]!);
      const [directory, entries] = [0x60_0000, 0x80_0000];
      for (let i = 0; i < PASIDS; i++) g.store(entries + 64 * i, ...FIRST(7 + (i % 16), table), 0n, 0n, 0n, 0n, 0n);
      for (let i = 0; i < 64; i++) g.store(directory + 8 * i, BigInt(entries + 4096 * i) | 1n);
      g.store(0x20_0000, 0x20_1001n, 0n);
      g.store(0x20_1000 + 32 * 0x10, BigInt(directory) | 9n | (5n << 9n), 0n, 0n, 0n);
      g.queueOn(true);
      const on = occasions(
        rig,
        () => g.translateOn(rig.root(1)),
        () => (g.r32(0x1c) & 0x8000_0000) !== 0,
      );
      if (linuxOnly) expect(on.length).toBeGreaterThan(10);
      for (let p = 1; p < PASIDS; p++) expect(rig.dma(0x10, 0x5000, undefined, p)).toBe(0x100_0000);
      expect(rig.vm.usage().pasids.used).toBe(PASIDS - 1);
      rig.hostOps();
      // The root pointer is set again: RTPS falls at once and comes back when nothing of before is in use.
      const again = occasions(
        rig,
        () => g.w32(0x18, (g.r32(0x1c) & 0x96ff_ffff) | 0x4000_0000),
        () => (g.r32(0x1c) & 0x4000_0000) !== 0,
      );
      expect(rig.vm.usage().pasids.used).toBe(linuxOnly ? PASIDS - 1 : 0);
      expect(again.length).toBeGreaterThan(10);
      expect(Math.max(...on, ...again)).toBeLessThan(400);
      expect(rig.dma(0x10, 0x5000, undefined, 77)).toBe(0x100_0000);
    },
  );

  test('a descriptor behind a switch of tables waits for it', () => {
    const rig = new Rig({ props: { scalableMode: true, fsts: true, pasidBits: 12 } });
    const { g } = rig;
    rig.plug(0x10, 0, { maxPasids: 4096 });
    const table = rig.page();
    g.map(table, 0x5000, 0x100_0000, 7n, rig.pools[0]!);
    for (let i = 0; i < 64; i++) rig.scalable(0x10, i, FIRST(7, table));
    // Every entry of the directory is one table: PASIDs 0 to 4095.
    const directory = 0x60_0000;
    for (let i = 0; i < 64; i++) g.store(directory + 8 * i, g.load(0x20_3000 - 0x1000) | 1n);
    g.queueOn(true);
    g.translateOn(rig.root(1));
    for (let p = 1; p < 64; p++) rig.dma(0x10, 0x5000, undefined, p);
    g.store(g.queue, 0x1_0000_0025n, 0x30_0000n, 0n, 0n);
    g.w32(0x18, 0xc400_0000 | 0);
    g.w32(IQT, 32);
    for (let i = 0; i < 100 && g.r32(IQH) !== 32; i++);
    expect(g.r32(IQH)).toBe(32);
    expect(rig.vm.usage().pasids.used).toBe(0);
  });

  test('an invalidation for one PASID does not look at all of them', () => {
    /** Milliseconds of 512 PASID-IOTLB invalidations and 512 PASID-cache ones beside so many PASIDs that are set up. */
    const cost = (pasids: number): number => {
      const rig = new Rig({ props: { scalableMode: true, fsts: true, pasidBits: 12 } });
      const { g } = rig;
      rig.plug(0x10, 0, { maxPasids: 4096 });
      const table = rig.page();
      g.map(table, 0x5000, 0x100_0000, 7n, rig.pools[0]!);
      const [directory, entries, queue] = [0x60_0000, 0x80_0000, 0x180_0000];
      for (let i = 0; i < pasids; i++) g.store(entries + 64 * i, ...FIRST(7 + i, table), 0n, 0n, 0n, 0n, 0n);
      for (let i = 0; i < 64; i++) g.store(directory + 8 * i, BigInt(entries + 4096 * i) | 1n);
      g.store(0x20_0000, 0x20_1001n, 0n);
      g.store(0x20_1000 + 32 * 0x10, BigInt(directory) | 9n | (5n << 9n), 0n, 0n, 0n);
      g.w64(0x90, BigInt(queue) | 0x804n);
      g.w32(0x18, 0x0400_0000);
      g.translateOn(rig.root(1));
      for (let p = 1; p < pasids; p++) expect(rig.dma(0x10, 0x5000, undefined, p)).toBe(0x100_0000);
      for (let i = 0; i < 1024; i++) {
        const n = BigInt(1 + (i % (pasids - 1)));
        const type = i % 2 === 0 ? 0x26n : 0x17n;
        g.store(queue + 32 * i, type | ((7n + n) << 16n) | (n << 32n), 0n, 0n, 0n);
      }
      let best = Number.POSITIVE_INFINITY;
      for (let round = 0; round < 5; round++) {
        const start = performance.now();
        g.w32(IQT, round % 2 === 0 ? 32 * 1024 : 0);
        for (let i = 0; i < 1000 && g.r32(IQH) !== g.r32(IQT); i++);
        best = Math.min(best, performance.now() - start);
        expect(g.r32(IQH)).toBe(g.r32(IQT));
        // The other half of the ring holds the same.
        if (round === 0)
          for (let i = 0; i < 1024 * 4; i++)
            rig.vm.memory.guest.store64(queue + 32 * 1024 + 8 * i, ...word(rig, queue + 8 * i));
      }
      return best;
    };
    const few = cost(40);
    expect(cost(4000) / few).toBeLessThan(8);
  });
});

/** 8 bytes of guest memory. */
function word(rig: Rig, at: number): [number, number] {
  const { guest } = rig.vm.memory;
  guest.load64(at);
  return [guest.lo, guest.hi];
}
