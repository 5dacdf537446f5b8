import { expect, test } from 'vitest';
import type { ShadowFormat } from '../../../src/host/drivers/shadow/format.ts';
import { ShadowPool } from '../../../src/host/drivers/shadow/pool.ts';
import { ShadowTables } from '../../../src/host/drivers/shadow/tables.ts';
import { HostMemory } from '../../../src/lib/memory/host-memory.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { Random } from '../../../tools/oracle/random.ts';

const STEPS = Number(process.env.VIOMMU_SHADOW_STEPS ?? 500);

/** Entries as VT-d has them, and as VMSAv8-64 has them with two start tables side by side. */
const VTD: ShadowFormat = {
  levels: 4,
  rootEntries: 512,
  largest: 3,
  present: 3,
  typeMask: 0x80,
  table: 0,
  block: 0x80,
  page: 0,
  pointer: 3,
  permShift: 0,
  leaf: (prot) => prot & 3,
  leafHigh: () => 0,
  never: null,
};
const VMSA: ShadowFormat = {
  levels: 3,
  rootEntries: 1024,
  largest: 3,
  present: 1,
  typeMask: 3,
  table: 3,
  block: 1,
  page: 3,
  pointer: 3,
  permShift: 6,
  leaf: (prot) => 0x400 | ((prot & 3) << 6),
  leafHigh: () => 0,
  never: null,
};
const GIB = 2 ** 18;

/** A table with what its owner does for it: `caches` are the ranges that were to be forgotten. */
function made(format: ShadowFormat, pages: number) {
  const memory = new HostMemory(pages);
  const root = memory.allocate(format.rootEntries / 512);
  const pool = new ShadowPool(memory, 64);
  let refuse = false;
  const forgotten: { page: number; pages: number; leaf: boolean }[] = [];
  const table = (at: number): ShadowTables =>
    new ShadowTables({
      format,
      root: at,
      pool,
      space: memory.space,
      limit: 2 ** 46,
      refusesReadOnly: false,
      forget: (page, n, leaf) => {
        forgotten.push({ page, pages: n, leaf });
        return refuse ? -E.IO : 0;
      },
      announces: false,
    });
  return { memory, pool, forgotten, root, one: table(root), table, refuse: (on: boolean) => (refuse = on) };
}

/** Where a page leads by the table in memory: host-physical page and permissions, or nothing. */
function walk(memory: HostMemory, format: ShadowFormat, root: number, page: number): string {
  const { space } = memory;
  let table = root;
  for (let level = format.levels; ; level--) {
    const unit = 512 ** (level - 1);
    const index = Math.floor(page / unit);
    space.load64(table + 8 * (level === format.levels ? index : index % 512));
    if ((space.lo & format.present) === 0) return '';
    const out = space.hi * 2 ** 32 + ((space.lo & ~0xfff) >>> 0);
    const leaf = level === 1 || (space.lo & format.typeMask) !== format.table;
    if (leaf) return `${out / 4096 + (page % unit)} ${(space.lo >>> format.permShift) & 3}`;
    table = out;
  }
}

test.each([
  { name: 'VT-d', format: VTD },
  { name: 'VMSAv8-64', format: VMSA },
])(
  '$name: a page leads where it was last mapped to or nowhere, and nothing that changed is left in a cache',
  ({ format }) => {
    for (let seed = 1; seed <= 3; seed++) {
      const random = new Random(seed * 104_729);
      const m = made(format, 4096);
      const log = new Log();
      const bases = [0, 512, 2 * 512, GIB - 512, 5 * GIB, 300 * GIB];
      const emptied = (): boolean => m.forgotten.some((f) => f.pages === 2 ** 52);
      for (let step = 0; step < STEPS; step++) {
        const page = random.pick(bases) + random.below(random.pick([4, 512, 1024]));
        m.forgotten.length = 0;
        if (random.chance(50)) {
          if (m.one.perm(page) !== 0) continue;
          const size = random.pick([1, 1, 8, 512, GIB]);
          const first = page - (page % size);
          const hpa = (2 ** 24 + page + random.pick([0, 0, 1])) * 4096;
          const perm = 1 + random.below(3);
          const r = m.one.map(page, hpa, first, first + size, perm);
          expect([r > 0, m.one.mappedEnd]).toEqual([true, page + r]);
          expect([m.one.mappedFirst >= first, m.one.mappedEnd <= first + size]).toEqual([true, true]);
          // When no page was left, everything went before.
          if (emptied()) log.clear();
          log.map(m.one.mappedFirst, m.one.mappedEnd, hpa / 4096 - page, perm);
        } else if (random.chance(98)) {
          const n = random.pick([1, 1, 3, 512, 1000, GIB, 40 * GIB]);
          const held = sample(page, page + n, page, random).some((p) => log.at(p) !== '');
          expect(m.one.unmap(page, n)).toBe(0);
          if (held) {
            const f = m.forgotten.at(-1)!;
            expect([f.page <= page, f.page + f.pages >= page + n]).toEqual([true, true]);
          }
          log.unmap(page, page + n);
          // A large leaf went whole, since there was no page to split it.
          if (emptied()) expect(m.one.clear()).toBe(0);
          if (emptied()) log.clear();
        } else {
          expect(m.one.clear()).toBe(0);
          log.clear();
        }
        for (const p of sample(page - 600, page + 600, page, random)) {
          const now = walk(m.memory, format, m.root, p);
          expect([p, now]).toEqual([p, log.at(p)]);
          expect(m.one.perm(p)).toBe(now === '' ? 0 : Number(now.split(' ')[1]));
        }
      }
      expect(m.pool.pages).toBeLessThanOrEqual(64);
      expect(m.one.destroy()).toBe(true);
      expect([m.pool.pages, m.memory.pagesUsed]).toEqual([0, format.rootEntries / 512]);
    }
  },
);

/** Every change since everything was last taken away; slow to ask. */
class Log {
  #changes: { first: number; end: number; delta: number; perm: number }[] = [];

  /** What is mapped already stays. */
  map(first: number, end: number, delta: number, perm: number): void {
    this.#changes.push({ first, end, delta, perm });
  }
  unmap(first: number, end: number): void {
    this.#changes.push({ first, end, delta: 0, perm: 0 });
  }
  clear(): void {
    this.#changes = [];
  }

  at(page: number): string {
    let now = '';
    for (const { first, end, delta, perm } of this.#changes) {
      if (page < first || page >= end) continue;
      if (perm === 0) now = '';
      else if (now === '') now = `${page + delta} ${perm}`;
    }
    return now;
  }
}

/** Some pages of [first, end), and one of them for sure. */
function sample(first: number, end: number, one: number, random: Random): number[] {
  const out = [one, Math.max(0, first), end - 1];
  for (let n = 0; n < 6; n++) out.push(Math.max(0, first) + random.below(end - first));
  return out;
}

test('everything goes in constant work, and the same pages serve again', () => {
  const m = made(VTD, 4096);
  for (let n = 0; n < 50; n++) m.one.map(n * 512, n * 4096, n * 512, n * 512 + 1, 3);
  const { pages } = m.one;
  m.forgotten.length = 0;
  expect(m.one.clear()).toBe(0);
  expect(m.forgotten.length).toBe(1);
  expect(m.one.clear()).toBe(0);
  expect(m.forgotten.length).toBe(1);
  for (let n = 0; n < 50; n++) m.one.map(n * 512, n * 4096, n * 512, n * 512 + 1, 3);
  expect(m.one.pages).toBe(pages);
});

test('a table that needs a page takes those of the one that has not grown for the longest time', () => {
  const m = made(VTD, 4096);
  const tables = [m.one, m.table(m.memory.allocate()), m.table(m.memory.allocate())];
  const use = (t: number, n: number): number => tables[t]!.map(n * 512, n * 4096, n * 512, n * 512 + 1, 3);
  for (let n = 0; n < 20; n++) use(0, n);
  for (let n = 0; n < 20; n++) use(1, n);
  use(0, 20);
  for (let n = 0; n < 20; n++) use(2, n);
  expect(tables.map((t) => t.pages > 0)).toEqual([true, false, true]);
  expect(m.pool.pages).toBeLessThanOrEqual(64);
  for (let n = 0; n < 200; n++) expect(use(2, n)).toBe(1);
  expect(tables.map((t) => t.pages > 0)).toEqual([false, false, true]);
});

test('what a cache may still know is never used for another table, and the next change makes it forget everything', () => {
  const m = made(VTD, 4096);
  for (let n = 0; n < 4; n++) m.one.map(n * 512, n * 4096, n * 512, n * 512 + 1, 3);
  m.refuse(true);
  expect(m.one.unmap(0, 512)).toBe(-E.IO);
  expect(m.one.clear()).toBe(-E.IO);
  const { pages } = m.one;
  expect(m.one.map(9 * 512, 0x1000, 9 * 512, 9 * 512 + 1, 3)).toBe(1);
  expect(m.one.pages).toBeGreaterThan(pages);
  m.refuse(false);
  m.forgotten.length = 0;
  expect(m.one.unmap(77, 1)).toBe(0);
  expect(m.forgotten).toEqual([{ page: 0, pages: 2 ** 52, leaf: false }]);
});

test('a mapping of the kernel’s own outlives every invalidation until the kernel takes it away', () => {
  const m = made(VMSA, 4096);
  expect(m.one.fix(0x8000, 0x900_0000, 1, 3)).toBe(0);
  m.one.map(0x8001, 0x1000, 0x8001, 0x8002, 3);
  const at = (page: number): string => walk(m.memory, VMSA, m.root, page);
  for (const drop of [() => m.one.unmap(0x7f00, 0x200), () => m.one.clear(), () => m.one.surrender()]) {
    expect(drop()).toBe(0);
    expect([at(0x8000), at(0x8001)]).toEqual([`${0x9000} 3`, '']);
  }
  expect(m.one.unfix(0x8000, 1)).toBe(0);
  expect([at(0x8000), m.one.clear(), at(0x8000)]).toEqual(['', 0, '']);
});

test('without a page it says so, and what was mapped stays reachable by its own pages', () => {
  const m = made(VTD, 4);
  expect(m.one.map(0, 0x1000, 0, 1, 3)).toBe(1);
  // The three pages it has are emptied and used again.
  expect(m.one.map(GIB, 0x2000, GIB, GIB + 1, 3)).toBe(1);
  expect([m.one.perm(0), m.one.perm(GIB)]).toEqual([0, 3]);
  const empty = made(VTD, 1);
  expect(empty.one.map(0, 0x1000, 0, 1, 3)).toBe(-E.NOMEM);
  expect(m.one.map(0, 2 ** 46, 0, 1, 3)).toBe(-E.RANGE);
});
