import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { PROT, type Smmuv3PageTableConfig } from '../../../src/host/drivers/smmuv3/leaf.ts';
import { Smmuv3PageTable, startTable } from '../../../src/host/drivers/smmuv3/page-table.ts';
import { HostMemory } from '../../../src/lib/memory/host-memory.ts';
import { walk } from './bigint-walker.ts';

const RW = PROT.READ | PROT.WRITE | PROT.CACHE;
const K4 = 4096;
const M2 = 2 ** 21;
const G1 = 2 ** 30;

function make(config: Partial<Smmuv3PageTableConfig> = {}, pages?: number) {
  const memory = new HostMemory(pages);
  const full: Smmuv3PageTableConfig = { stage: 2, ias: 44, oas: 44, ...config };
  const tables = Smmuv3PageTable.create(memory, full)!;
  const look = (iova: number) =>
    walk(memory.space, full.stage, BigInt(tables.root), full.ias, tables.startLevel, BigInt(iova));
  return { memory, tables, look };
}

describe('the start table', () => {
  // Input bits, start level, entries, pages: VMSAv8-64 stage 2 concatenates up to 16 tables, stage 1 never does.
  test.each([
    [2, 32, 1, 4, 1],
    [2, 36, 1, 64, 1],
    [2, 39, 1, 512, 1],
    [2, 40, 1, 1024, 2],
    [2, 42, 1, 4096, 8],
    [2, 43, 1, 8192, 16],
    [2, 44, 0, 32, 1],
    [2, 48, 0, 512, 1],
    [1, 32, 1, 4, 1],
    [1, 40, 0, 2, 1],
    [1, 42, 0, 8, 1],
    [1, 48, 0, 512, 1],
  ] as const)(
    'of stage %i for %i input bits begins at level %i with %i entries',
    (stage, ias, level, entries, pages) => {
      expect(startTable(stage, ias)).toEqual({ level, entries, pages });
    },
  );

  test('of 40-bit stage 2 is aligned to its concatenated size', () => {
    const { tables } = make({ ias: 40, oas: 40 });
    expect(tables.root % (2 * K4)).toBe(0);
    expect(tables.pages).toBe(2);
  });
});

describe('mapping', () => {
  test('uses 1 GiB, 2 MiB and 4 KiB leaves as alignment and length allow', () => {
    const { tables, look } = make();
    const bytes = G1 + 2 * M2 + 3 * K4;

    expect(tables.map(4 * G1, 8 * G1, bytes, RW)).toBe(bytes);

    expect(look(4 * G1)).toMatchObject({ out: BigInt(8 * G1), shift: 30, read: true, write: true });
    expect(look(5 * G1 + M2 + 5)).toMatchObject({ out: BigInt(9 * G1 + M2 + 5), shift: 21 });
    expect(look(5 * G1 + 2 * M2)).toMatchObject({ shift: 12 });
    expect(look(4 * G1 + bytes)).toBeNull();
  });

  test('never makes a block larger than the common alignment of both addresses', () => {
    const { tables, look } = make();
    tables.map(G1, 3 * G1 + M2, G1, RW);
    expect(look(G1 + 7)).toMatchObject({ out: BigInt(3 * G1 + M2 + 7), shift: 21 });
  });

  test('stops at something already mapped and says how far it came', () => {
    const { tables } = make();
    tables.map(3 * K4, 0x8000_0000, K4, RW);
    expect(tables.map(0, 0x9000_0000, 8 * K4, RW)).toBe(3 * K4);
  });

  test('never puts a block over a table in which something is mapped', () => {
    const { tables, look } = make();
    tables.map(M2 + 5 * K4, 0x8000_0000, K4, RW);
    expect(tables.map(M2, 0x4000_0000, M2, RW)).toBe(0);
    expect(tables.map(0, 0x4000_0000, G1, RW)).toBe(0);
    expect(look(M2 + 5 * K4)).toMatchObject({ out: 0x8000_0000n });
  });

  test('puts a block where only an empty table is, and that table is freed by reclaim', () => {
    const { tables, look } = make();
    tables.map(M2, 0x8000_0000, K4, RW);
    tables.unmap(M2, K4);
    tables.reclaim();
    const before = tables.pages;

    expect(tables.map(M2, 0x4000_0000, M2, RW)).toBe(M2);
    tables.reclaim();

    expect(look(M2)).toMatchObject({ shift: 21 });
    expect(tables.pages).toBe(before - 1);
  });

  // Stage-2 attributes, bit exact: S2AP, MemAttr, SH, AF, XN (DDI 0487 D8.3).
  test.each([
    [PROT.READ | PROT.CACHE, false, 0x77fn],
    [PROT.WRITE | PROT.CACHE, false, 0x7bfn],
    [RW, false, 0x7ffn],
    [RW, true, 0x7dbn],
    [PROT.READ | PROT.WRITE, false, 0x6d7n],
    [PROT.READ | PROT.WRITE | PROT.MMIO, false, 0x6c7n],
    [PROT.READ | PROT.WRITE | PROT.MMIO, true, 0x6c7n],
    [RW | PROT.NOEXEC, false, 0x40_0000_0000_07ffn],
  ])('stage 2 with protection %i (forced write-back %s) writes %i', (prot, fwb, attributes) => {
    const { tables, look } = make({ fwb });
    tables.map(0, 0x1_2345_6000, K4, prot);
    expect(look(0)!.descriptor).toBe(0x1_2345_6000n | attributes);
  });

  test.each([
    [PROT.READ | PROT.CACHE, false, 0xfc7n],
    [RW, false, 0xf47n],
    [RW, true, 0x0008_0000_0000_0f47n],
    [PROT.READ | PROT.CACHE, true, 0xfc7n],
    [RW | PROT.PRIV, false, 0xf07n],
    [PROT.READ | PROT.WRITE | PROT.MMIO, false, 0xe4bn],
  ])('stage 1 with protection %i (dirty bits %s) writes %i', (prot, dirty, attributes) => {
    const { tables, look } = make({ stage: 1, ias: 48, dirty });
    tables.map(0, 0x1_2345_6000, K4, prot);
    expect(look(0)!.descriptor).toBe(0x1_2345_6000n | attributes);
  });
});

describe('unmapping', () => {
  test('splits a block of which only a part goes away, and the rest still translates', () => {
    const { tables, look } = make();
    tables.map(G1, 2 * G1, G1, PROT.READ | PROT.CACHE);

    expect(tables.unmap(G1 + 5 * M2 + 3 * K4, 2 * K4)).toBe(2 * K4);

    expect(look(G1 + 5 * M2 + 2 * K4)).toMatchObject({ out: BigInt(2 * G1 + 5 * M2 + 2 * K4), write: false });
    expect(look(G1 + 5 * M2 + 3 * K4)).toBeNull();
    expect(look(G1 + 5 * M2 + 4 * K4)).toBeNull();
    expect(look(G1 + 5 * M2 + 5 * K4)).toMatchObject({ shift: 12 });
    expect(look(G1 + 6 * M2)).toMatchObject({ shift: 21 });
  });

  test('keeps the tables it takes out of the tree until reclaim, so hardware that still walks them reads no foreign page', () => {
    const { memory, tables } = make();
    tables.map(0, 0x8000_0000 + K4, M2, RW);
    const used = memory.pagesUsed;

    expect(tables.unmap(0, M2)).toBe(M2);
    expect(memory.pagesUsed).toBe(used);

    tables.reclaim();
    expect(memory.pagesUsed).toBe(used - 1);
  });

  test('skips holes and counts only what was mapped', () => {
    const { tables } = make();
    tables.map(0, 0x8000_0000, K4, RW);
    tables.map(8 * G1, 0x9000_0000, M2, RW);
    expect(tables.unmap(0, 2 ** 44)).toBe(K4 + M2);
    expect(tables.unmap(0, 2 ** 44)).toBe(0);
  });
});

test('destroying the tables gives back every page, also after a map that ran out of memory', () => {
  const { memory, tables } = make({}, 5);
  const done = tables.map(0, 0x8000_0000 + K4, G1, RW);
  expect(done).toBe(2 * M2);
  expect(memory.pagesUsed).toBe(5);

  tables.destroy();

  expect(memory.pagesUsed).toBe(0);
});

test('no memory for the start table is null, not an exception', () => {
  expect(Smmuv3PageTable.create(new HostMemory(1), { stage: 2, ias: 42, oas: 42 })).toBeNull();
});

describe('dirty bits', () => {
  const SMALL = { stage: 1, ias: 48, oas: 48, dirty: true } as const;

  /** The hardware's part: a write through a writable-clean entry makes it writable-dirty (IHI 0070 §3.13). */
  function hardwareWrites(memory: HostMemory, tables: Smmuv3PageTable, iova: number): void {
    let table = tables.root;
    for (let level = 0; ; level++) {
      const at = table + 8 * (Math.floor(iova / 2 ** (12 + 9 * (3 - level))) % 512);
      memory.space.load64(at);
      const { lo, hi } = memory.space;
      if (level === 3 || (lo & 3) === 1) {
        if ((hi & (1 << 19)) !== 0) memory.space.store64(at, lo & ~0x80, hi);
        return;
      }
      table = (hi & 0xffff) * 2 ** 32 + ((lo & ~0xfff) >>> 0);
    }
  }

  test('are reported once per write after they were cleared, with the size of the leaf', () => {
    const { memory, tables } = make(SMALL);
    tables.map(0, 0x8000_0000, M2 + 2 * K4, RW);
    const read = (keep: boolean) => {
      const seen: [number, number][] = [];
      tables.readDirty(0, 4 * M2, keep, (iova, bytes) => seen.push([iova, bytes]));
      return seen;
    };
    // Fresh entries count as dirty; enabling tracking clears them first.
    expect(read(false)).toHaveLength(3);
    expect(read(false)).toEqual([]);

    hardwareWrites(memory, tables, 0x1234);
    hardwareWrites(memory, tables, M2 + K4);

    expect(read(true)).toEqual([
      [0, M2],
      [M2 + K4, K4],
    ]);
    expect(read(false)).toHaveLength(2);
    expect(read(false)).toEqual([]);
  });

  test('of a read-only page do not exist', () => {
    const { memory, tables } = make(SMALL);
    tables.map(0, 0x8000_0000, K4, PROT.READ | PROT.CACHE);
    hardwareWrites(memory, tables, 0);
    expect(tables.readDirty(0, K4, false, () => expect.unreachable())).toBe(0);
  });
});

test('whatever is mapped and unmapped, a bigint walker finds exactly that, and nothing leaks', () => {
  const PAGES = 6 * 512 + 64;
  const piece = fc.record({
    page: fc.integer({ min: 0, max: PAGES - 1 }),
    count: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constantFrom(512, 513, 1024, 2048)),
    out: fc.constantFrom(0x1_0000_0000, 0x1_0020_0000, 0x1_0000_1000, 0x1_4000_0000),
    on: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 25 }), fc.constantFrom(36, 40, 42, 44, 48), (ops, ias) => {
      const { memory, tables, look } = make({ ias, oas: ias });
      const base = 2 ** (ias - 1) - 2 * M2;
      const model = new Map<number, number>();
      for (const op of ops) {
        const count = Math.min(op.count, PAGES - op.page);
        const iova = base + op.page * K4;
        if (op.on) {
          let free = 0;
          while (free < count && !model.has(op.page + free)) free++;
          if (free === 0) continue;
          const out = op.out + op.page * K4;
          expect(tables.map(iova, out, free * K4, RW)).toBe(free * K4);
          for (let i = 0; i < free; i++) model.set(op.page + i, out + i * K4);
        } else {
          let had = 0;
          for (let i = 0; i < count; i++) if (model.delete(op.page + i)) had++;
          expect(tables.unmap(iova, count * K4)).toBe(had * K4);
        }
        tables.reclaim();
      }
      for (let p = 0; p < PAGES; p += 1) {
        const want = model.get(p);
        const got = look(base + p * K4);
        if ((got === null ? undefined : Number(got.out)) !== want) expect(got?.out).toBe(want);
        if (p % 97 === 0) expect(tables.iovaToPhys(base + p * K4 + 5)).toBe(want === undefined ? -1 : want + 5);
      }
      tables.destroy();
      expect(memory.pagesUsed).toBe(0);
    }),
    { numRuns: 60 },
  );
});
