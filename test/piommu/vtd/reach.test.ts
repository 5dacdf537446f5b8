import { describe, expect, test } from 'vitest';
import { HW_ERROR } from '../../../src/ports/hw.ts';
import { ECAP_ALL, INVALIDATE as I, Rig } from './rig.ts';

/** Page n of a domain, and where it goes before and after the tables were changed. */
const PAGES = [0x1000n, 0x2000n, 0x8000n, 0x4000_0000n];
const OLD = 0x1000_0000n;
const NEW = 0x2000_0000n;

/**
 * One requester with a first-stage PASID 1, a second-stage PASID 2, a nested PASID 3 (all DID 7), a first-stage PASID 4
 * (DID 8), everything cached; then every leaf is changed. What a descriptor reached gives the new address.
 */
function staleRig(): Rig {
  const rig = new Rig();
  rig.scalable();
  const leaves: [at: number, flags: bigint, page: bigint][] = [];
  const identity = rig.page();
  for (let a = 0n; a < 0x8_0000n; a += 0x1000n) rig.map(identity, 0x11_0000n + a, 0x11_0000n + a, 3n);
  for (const kind of ['first', 'second', 'nested', 'other'] as const) {
    const table = rig.page();
    for (const page of PAGES) {
      const flags = kind === 'second' ? 3n : 0x67n;
      leaves.push([rig.map(table, page, OLD + page, flags), flags, page]);
      if (kind === 'nested') for (const to of [OLD, NEW]) rig.map(identity, to + page, to + page, 3n);
    }
    if (kind === 'first') rig.first(1, 7, table);
    if (kind === 'second') rig.second(2, 7, table);
    if (kind === 'nested') rig.nested(3, 7, table, identity);
    if (kind === 'other') rig.first(4, 8, table);
  }
  rig.enable(1);
  for (const pasid of [1, 2, 3, 4]) {
    for (const page of PAGES) expect([pasid, rig.dma(page, 1, 0x10, pasid)]).toEqual([pasid, Number(OLD + page)]);
  }
  for (const [at, flags, page] of leaves) rig.set(at, (NEW + page) | flags);
  return rig;
}

/** For PASID 1 to 4 the pages that translate anew. */
function fresh(rig: Rig): Record<number, bigint[]> {
  const out: Record<number, bigint[]> = {};
  for (const pasid of [1, 2, 3, 4]) {
    const pages = PAGES.filter((p) => rig.dma(p, 1, 0x10, pasid) === Number(NEW + p));
    if (pages.length > 0) out[pasid] = pages;
  }
  return out;
}

describe('reach of the IOTLB descriptors', () => {
  const all = PAGES;
  test.each([
    ['nothing', [], {}],
    ['global', [I.iotlbGlobal], { 1: all, 2: all, 3: all, 4: all }],
    ['domain', [I.iotlbDomain(7)], { 1: all, 2: all, 3: all }],
    ['another domain', [I.iotlbDomain(9)], {}],
    [
      'page: first-stage and nested translations go wholly',
      [I.iotlbPage(7, 0x2000n)],
      { 1: all, 2: [0x2000n], 3: all },
    ],
    ['page of 2^2 pages', [I.iotlbPage(7, 0x0n, 2)], { 1: all, 2: [0x1000n, 0x2000n], 3: all }],
    [
      'an address inside the range is rounded down',
      [I.iotlbPage(7, 0x3000n, 2)],
      { 1: all, 2: [0x1000n, 0x2000n], 3: all },
    ],
    ['page of 2^9 pages', [I.iotlbPage(7, 0x4000_0000n, 9)], { 1: all, 2: [0x4000_0000n], 3: all }],
    ['PASID', [I.pasidIotlb(7, 1)], { 1: all }],
    ['PASID of a second stage', [I.pasidIotlb(7, 2)], { 2: all }],
    ['PASID of another domain', [I.pasidIotlb(8, 1)], {}],
    ['PASID page', [I.pasidIotlbPage(7, 1, 0x8000n)], { 1: [0x8000n] }],
    ['PASID page of a nested one', [I.pasidIotlbPage(7, 3, 0x1000n)], { 3: [0x1000n] }],
    ['PASID page of a second stage: nothing', [I.pasidIotlbPage(7, 2, 0x1000n)], {}],
    ['PASID page with AM 60: everything', [I.pasidIotlbPage(7, 1, 0n, 60)], { 1: all }],
    ['context cache and PASID cache leave the IOTLB alone', [I.contextGlobal, I.pasidCacheGlobal], {}],
  ] as const)('%s', (_, descriptors, want) => {
    const rig = staleRig();
    expect(rig.inv(...(descriptors as unknown as [bigint, bigint][]))).toEqual({
      done: descriptors.length,
      error: HW_ERROR.NONE,
      pending: 0,
    });
    expect(fresh(rig)).toEqual(want);
  });

  test('2^18 pages reach all of themselves (more may go)', () => {
    const rig = staleRig();
    rig.inv(I.iotlbPage(7, 0n, 18));
    expect(fresh(rig)[2]).toEqual(expect.arrayContaining([0x1000n, 0x2000n, 0x8000n]));
  });

  test('a 2 MiB page goes when one 4 KiB page of it is named', () => {
    const rig = new Rig();
    const table = rig.page();
    const at = rig.map(table, 0x20_0000n, 0x1000_0000n, 0x83n, 7n, 2);
    rig.scalable().second(0, 7, table).enable(1);
    expect(rig.dma(0x23_4000n)).toBe(0x1003_4000);
    expect(rig.hw.outShift).toBe(21);
    rig.set(at, 0x2000_0000n | 0x83n);
    rig.inv(I.iotlbPage(7, 0x60_0000n));
    expect(rig.dma(0x23_4000n)).toBe(0x1003_4000);
    rig.inv(I.iotlbPage(7, 0x3f_f000n));
    expect(rig.dma(0x23_4000n)).toBe(0x2003_4000);
  });
});

describe('reach of context-cache and PASID-cache descriptors', () => {
  /** Changes the PASID entries' tables; a PASID that is looked up anew gives the second address. */
  function rig(): Rig {
    const r = new Rig({ caches: { iotlb: 0, walks: 0 } });
    r.scalable();
    const tables = [r.page(), r.page()];
    r.map(tables[0]!, 0x1000n, OLD, 3n);
    r.map(tables[1]!, 0x1000n, NEW, 3n);
    const write = (t: number) => {
      for (const [pasid, did] of [
        [1, 7],
        [2, 7],
        [3, 8],
      ] as const) {
        r.second(pasid, did, t);
      }
    };
    write(tables[0]!);
    r.enable(1);
    for (const p of [1, 2, 3]) expect(r.dma(0x1000n, 1, 0x10, p)).toBe(Number(OLD));
    write(tables[1]!);
    return r;
  }
  const renewed = (r: Rig): number[] => [1, 2, 3].filter((p) => r.dma(0x1000n, 1, 0x10, p) === Number(NEW));

  test.each([
    ['nothing', [], []],
    ['IOTLB global', [I.iotlbGlobal], []],
    ['context cache global: PASID entries stay cached', [I.contextGlobal], []],
    ['PASID cache global', [I.pasidCacheGlobal], [1, 2, 3]],
    ['PASID cache of a domain', [I.pasidCacheDomain(7)], [1, 2]],
    ['PASID cache of a PASID', [I.pasidCachePasid(7, 2)], [2]],
    ['PASID cache of a PASID in another domain', [I.pasidCachePasid(8, 2)], []],
  ] as const)('%s', (_, descriptors, want) => {
    const r = rig();
    r.inv(...(descriptors as unknown as [bigint, bigint][]));
    expect(renewed(r)).toEqual(want);
  });

  test('context entries go by device and function mask', () => {
    for (const [fm, reached] of [
      [0, [0x13]],
      [1, [0x13, 0x17]],
      [2, [0x11, 0x13, 0x15, 0x17]],
      [3, [0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17]],
    ] as const) {
      const r = new Rig();
      const table = r.page();
      r.map(table, 0x1000n, OLD, 3n);
      r.second(0, 7, table);
      const rids = [0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18];
      for (const rid of rids) r.scalable(rid);
      r.enable(1);
      for (const rid of rids) expect(r.dma(0x1000n, 1, rid)).toBe(Number(OLD));
      for (const rid of rids) r.set(r.smContextEntry(rid), 0n);
      r.inv(I.contextDevice(0x13, fm));
      expect(rids.filter((rid) => r.dma(0x1000n, 1, rid) < 0)).toEqual(reached);
    }
  });

  test('a legacy context entry goes with its domain', () => {
    const r = new Rig();
    const table = r.page();
    r.map(table, 0x1000n, OLD, 3n);
    r.legacy(0x10, BigInt(table) | 1n, 2n | (7n << 8n));
    r.legacy(0x18, BigInt(table) | 1n, 2n | (8n << 8n));
    r.enable(0);
    for (const rid of [0x10, 0x18]) expect(r.dma(0x1000n, 1, rid)).toBe(Number(OLD));
    r.legacy(0x10, 0n, 0n).legacy(0x18, 0n, 0n);
    r.inv(I.contextDomain(7));
    expect([r.dma(0x1000n, 1, 0x10), r.dma(0x1000n, 1, 0x18)]).toEqual([-2, Number(OLD)]);
  });

  test('entries that are absent or bad are looked at again without any invalidation', () => {
    const r = new Rig();
    const table = r.page();
    r.map(table, 0x1000n, OLD, 3n);
    r.enable(1);
    expect(r.dma(0x1000n)).toBe(-0x39);
    r.scalable();
    expect(r.dma(0x1000n)).toBe(-0x59);
    r.pasid(0, 0x801n);
    expect(r.dma(0x1000n)).toBe(-0x5a);
    r.second(0, 7, table);
    expect(r.dma(0x1000n)).toBe(Number(OLD));
  });

  test('hardware told to ignore invalidations keeps what it has', () => {
    const r = new Rig({ ignoreInvalidations: true });
    const table = r.page();
    const at = r.map(table, 0x1000n, OLD, 3n);
    r.scalable().second(0, 7, table).enable(1);
    r.dma(0x1000n);
    r.set(at, NEW | 3n);
    r.inv(I.contextGlobal, I.pasidCacheGlobal, I.iotlbGlobal);
    expect(r.dma(0x1000n)).toBe(Number(OLD));
  });
});

describe('invalid descriptors stop the queue at themselves', () => {
  const bits = Array.from({ length: 64 }, (_, i) => i);
  /** Bits of (low, high) whose inversion is refused. */
  const refused = (r: Rig, [low, high]: [bigint, bigint]): [number[], number[]] => {
    const bad = (l: bigint, h: bigint) => r.inv([l, h]).error === HW_ERROR.ILLEGAL;
    return [
      bits.filter((b) => bad(low ^ (1n << BigInt(b)), high)),
      bits.filter((b) => bad(low, high ^ (1n << BigInt(b)))),
    ];
  };
  const span = (low: number, high: number): number[] => bits.slice(low, high + 1);

  test.each([
    ['context-cache', I.contextGlobal, [6, 7, 8, 12, 13, 14, 15, ...span(50, 63)], bits],
    ['iotlb', I.iotlbGlobal, [8, 12, 13, 14, 15, ...span(32, 63)], [7, 8, 9, 10, 11]],
    ['device-TLB', [3n, 0n], [...span(4, 8), ...span(12, 15), ...span(21, 31), ...span(48, 63)], span(1, 11)],
    ['interrupt entry cache', [4n, 0n], [...span(5, 8), ...span(12, 26), ...span(48, 63)], bits],
    ['wait', [0x25n, 0n], [8, ...span(12, 31)], [0, 1]],
    ['PASID-IOTLB', I.pasidIotlb(7, 1), [6, 7, 8, ...span(12, 15), ...span(52, 63)], [7, 8, 9, 10, 11]],
    ['PASID-cache', I.pasidCacheGlobal, [6, 7, 8, ...span(12, 15), ...span(52, 63)], bits],
    ['PASID device-TLB', [8n, 0n], [...span(12, 15), ...span(52, 63)], span(1, 10)],
    ['page-group response', [9n, 0n], [...span(5, 8), ...span(52, 63)], [0, 1, ...span(12, 63)]],
  ] as const)('every bit of %s', (_, descriptor, low, high) => {
    const rig = new Rig({ endpoints: { invalidate: answer, pageResponse() {}, resumed() {} } }).enable(1);
    function answer(rid: number, _pasid: number, itag: number): boolean {
      rig.hw.invalidateCompletion(rid, 1 << itag, 1);
      return true;
    }
    const [l, h] = refused(rig, descriptor as [bigint, bigint]);
    // The type itself ([3:0], [11:9]) and the granularity turn one descriptor into another.
    expect(l.filter((b) => b > 5 && (b < 9 || b > 11))).toEqual(low.filter((b) => b > 5));
    expect(h).toEqual(high);
  });

  test('types that do not exist, granularities that do not exist, AM beyond MAMV', () => {
    const rig = new Rig().enable(1);
    for (const type of [0n, 0xan, 0xfn, 0x201n]) expect(rig.inv([type, 0n]).error).toBe(HW_ERROR.ILLEGAL);
    for (const low of [0x01n, 0x02n, 0x06n, 0x16n, 0x27n]) expect(rig.inv([low, 0n]).error).toBe(HW_ERROR.ILLEGAL);
    expect(rig.inv(I.iotlbPage(7, 0n, 19)).error).toBe(HW_ERROR.ILLEGAL);
    expect(rig.inv(I.iotlbPage(7, 0n, 18)).error).toBe(HW_ERROR.NONE);
    const stop = rig.inv(I.iotlbGlobal, I.iotlbGlobal, [0xfn, 0n], I.iotlbGlobal);
    expect(stop).toEqual({ done: 2, error: HW_ERROR.ILLEGAL, pending: 0 });
  });

  test('legacy mode has 128-bit descriptors of types 1 to 5; without DT and PRS types 3, 8 and 9 are none', () => {
    const legacy = new Rig().enable(0);
    expect(legacy.inv(I.iotlbGlobal, I.contextGlobal, [0x25n, 0n])).toEqual({ done: 3, error: 0, pending: 0 });
    for (const type of [6n, 7n, 8n, 9n]) expect(legacy.inv([0x30n | type, 0n]).error).toBe(HW_ERROR.ILLEGAL);
    const poor = new Rig({ ecap: ECAP_ALL & ~((1n << 2n) | (1n << 29n)) }).enable(1);
    for (const type of [3n, 8n, 9n]) expect(poor.inv([type, 0n]).error).toBe(HW_ERROR.ILLEGAL);
  });
});

describe('dirty and accessed flags pass through the cache', () => {
  test('a write behind a cached read still sets D, in each stage', () => {
    const rig = new Rig();
    const table = rig.page();
    const at = rig.map(table, 0x1000n, OLD, 7n);
    rig.scalable().first(1, 7, table).enable(1);
    rig.dma(0x1000n, 1, 0x10, 1);
    expect(rig.get(at) & 0x60n).toBe(0x20n);
    rig.dma(0x1000n, 2, 0x10, 1);
    expect(rig.get(at) & 0x60n).toBe(0x60n);
    const second = rig.page();
    const leaf = rig.map(second, 0x1000n, OLD, 3n);
    rig.second(2, 8, second, 0x200n);
    rig.dma(0x1000n, 1, 0x10, 2);
    expect(rig.get(leaf) & 0x300n).toBe(0x100n);
    rig.dma(0x1000n, 2, 0x10, 2);
    expect(rig.get(leaf) & 0x300n).toBe(0x300n);
  });

  test('once dirty, cleared flags stay clear until the translation is invalidated', () => {
    const rig = new Rig();
    const table = rig.page();
    const at = rig.map(table, 0x1000n, OLD, 7n);
    rig.scalable().first(1, 7, table).enable(1);
    rig.dma(0x1000n, 2, 0x10, 1);
    rig.set(at, OLD | 7n);
    rig.dma(0x1000n, 2, 0x10, 1);
    expect(rig.get(at)).toBe(OLD | 7n);
    rig.inv(I.pasidIotlbPage(7, 1, 0x1000n));
    rig.dma(0x1000n, 2, 0x10, 1);
    expect(rig.get(at)).toBe(OLD | 0x67n);
  });

  test('user and privileged permissions are cached apart', () => {
    const rig = new Rig();
    const table = rig.page();
    rig.map(table, 0x1000n, OLD, 3n);
    rig.scalable().first(1, 7, table, 1n).enable(1);
    expect(rig.dma(0x1000n, 1 | 8, 0x10, 1)).toBe(Number(OLD));
    expect(rig.dma(0x1000n, 1, 0x10, 1)).toBe(-0x81);
    expect(rig.dma(0x1000n, 1 | 8, 0x10, 1)).toBe(Number(OLD));
  });
});

test('an address beyond 57 bits does not meet the cached one it shares 57 bits with', () => {
  const rig = new Rig();
  const table = rig.page();
  rig.map(table, 0x1000n, OLD, 3n);
  rig.scalable().second(0, 7, table).enable(1);
  expect(rig.dma(0x1000n)).toBe(Number(OLD));
  expect(rig.dma(0x1000n | (1n << 60n))).toBe(-0x84);
  const first = rig.page();
  rig.map(first, 0x1000n, OLD, 7n);
  rig.first(1, 7, first);
  expect(rig.dma(0x1000n, 1, 0x10, 1)).toBe(Number(OLD));
  expect(rig.dma(0x1000n | (1n << 63n), 1, 0x10, 1)).toBe(-0x80);
});

test.each([
  ['second', (ih: bigint) => [I.iotlbPage(7, 0x1000n | ih)]],
  ['first', (ih: bigint) => [I.pasidIotlbPage(7, 1, 0x1000n | ih)]],
] as const)(
  'a %s-stage table that was replaced is seen once its page is invalidated without the IH hint',
  (kind, inv) => {
    const rig = new Rig();
    const table = rig.page();
    rig.map(table, 0x1000n, OLD, 7n);
    rig.scalable();
    if (kind === 'second') rig.second(1, 7, table);
    else rig.first(1, 7, table);
    rig.enable(1);
    expect(rig.dma(0x1000n, 1, 0x10, 1)).toBe(Number(OLD));
    // A new last-level table at the place of the old one.
    const fresh = rig.page();
    rig.set(fresh + 8, NEW | 7n);
    const down = (t: number): number => Number(rig.get(t) & 0xf_ffff_f000n);
    rig.set(down(down(table)), BigInt(fresh) | 7n);
    rig.inv(...inv(0x40n));
    expect(rig.dma(0x1000n, 1, 0x10, 1)).toBe(Number(OLD));
    rig.inv(...inv(0n));
    expect(rig.dma(0x1000n, 1, 0x10, 1)).toBe(Number(NEW));
  },
);

test('what is cached can be listed by domain and PASID', () => {
  const rig = staleRig();
  const list = rig.hw.cached().map((c) => [c.domain, c.id, c.input, c.out]);
  expect(list.length).toBe(16);
  expect(list[0]).toEqual([7, 1, PAGES[0], Number(OLD + PAGES[0]!)]);
  expect(list.at(-1)).toEqual([8, 4, PAGES[3], Number(OLD + PAGES[3]!)]);
});
