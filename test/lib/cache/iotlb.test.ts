import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Iotlb } from '../../../src/lib/cache/iotlb.ts';
import { SIZE_CLASSES } from '../../../src/lib/cache/tlb-table.ts';

const words = (va: bigint): [number, number] => [Number(va & 0xffff_ffffn) | 0, Number((va >> 32n) & 0xffff_ffffn) | 0];

interface Entry {
  readonly domain: number;
  readonly id: number;
  readonly va: bigint;
  readonly shift: number;
  readonly out: number;
  readonly perm: number;
  /** A correct cache may have dropped it too (over-invalidation). */
  unsure?: boolean;
}

/** The cache as a list nobody would call fast. */
class Model {
  entries: Entry[] = [];

  insert(e: Entry): void {
    this.entries = this.entries.filter(
      (o) => !(o.domain === e.domain && o.id === e.id && o.shift === e.shift && o.va === e.va),
    );
    this.entries.push(e);
  }
  covering(domain: number, id: number, va: bigint): Entry[] {
    return this.entries.filter(
      (e) => e.domain === domain && e.id === id && va >= e.va && va < e.va + (1n << BigInt(e.shift)),
    );
  }
  range(match: (e: Entry) => boolean, va: bigint, pages: number): void {
    const end = va + BigInt(pages) * 4096n;
    this.entries = this.entries.filter((e) => !(match(e) && e.va < end && va < e.va + (1n << BigInt(e.shift))));
  }
  drop(match: (e: Entry) => boolean): void {
    this.entries = this.entries.filter((e) => !match(e));
  }
}

/** Few places, so that things meet: low addresses, a 2 MiB boundary, the top half. */
const address = fc
  .tuple(fc.constantFrom(0n, 0x1ff_0000n, 0x7fff_ffff_0000n, 0xffff_8000_0000_0000n), fc.integer({ min: 0, max: 40 }))
  .map(([base, page]) => base + BigInt(page) * 4096n);
const domain = fc.integer({ min: 0, max: 1 });
const id = fc.integer({ min: -1, max: 2 });
const operation = fc.oneof(
  { weight: 5, arbitrary: fc.record({ op: fc.constant('insert' as const), domain, id, va: address, cls: fc.nat(7) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('page' as const), domain, id, va: address }) },
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant('range' as const),
      domain,
      id,
      va: address,
      pages: fc.integer({ min: 1, max: 3000 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('rangeAll' as const), domain, va: address, pages: fc.nat(30) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('context' as const), domain, id }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('domain' as const), domain, own: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('all' as const) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('reload' as const) }) },
);

function check(entries: number, complete: boolean): void {
  fc.assert(
    fc.property(
      fc.array(operation, { maxLength: 60 }),
      fc.array(address, { minLength: 5, maxLength: 5 }),
      (ops, probes) => {
        let tlb = new Iotlb({ entries });
        const model = new Model();
        let serial = 1;
        for (const o of ops) {
          switch (o.op) {
            case 'insert': {
              const shift = SIZE_CLASSES[o.cls]!;
              const within = Number(o.va & ((1n << BigInt(shift)) - 1n));
              const va = o.va - BigInt(within);
              const out = serial++ * 2 ** shift;
              const perm = serial & 0x3f;
              const [lo, hi] = words(o.va);
              tlb.insert(tlb.context(o.domain, o.id), lo, hi, out + within, shift, perm, shift, serial & 15);
              model.insert({ domain: o.domain, id: o.id, va, shift, out, perm });
              break;
            }
            case 'page':
            case 'range': {
              const pages = o.op === 'page' ? 1 : o.pages;
              const [lo, hi] = words(o.va);
              tlb.invalidateRange(tlb.context(o.domain, o.id), lo, hi, pages, true);
              model.range((e) => e.domain === o.domain && e.id === o.id, o.va, pages);
              if (pages > 512) {
                for (const e of model.entries) if (e.domain === o.domain && e.id === o.id) e.unsure = true;
              }
              break;
            }
            case 'rangeAll': {
              const [lo, hi] = words(o.va);
              tlb.invalidateRangeAll(o.domain, lo, hi, o.pages + 1, true);
              model.range((e) => e.domain === o.domain && e.id >= 0, o.va, o.pages + 1);
              break;
            }
            case 'context':
              tlb.invalidateContext(tlb.context(o.domain, o.id));
              model.drop((e) => e.domain === o.domain && e.id === o.id);
              break;
            case 'domain':
              tlb.invalidateDomain(o.domain, o.own);
              model.drop((e) => e.domain === o.domain && (o.own || e.id >= 0));
              break;
            case 'all':
              tlb.invalidateAll();
              model.drop(() => true);
              break;
            case 'reload': {
              const data = JSON.parse(JSON.stringify(tlb.save()));
              tlb = new Iotlb({ entries });
              tlb.load(data);
            }
          }
        }
        for (const va of probes) {
          for (let d = 0; d <= 1; d++) {
            for (let i = -1; i <= 2; i++) {
              const [lo, hi] = words(va + 5n);
              const may = model.covering(d, i, va + 5n);
              if (tlb.lookup(tlb.context(d, i), lo, hi)) {
                const same = may.filter((e) => e.shift === tlb.shift && e.out + Number(va + 5n - e.va) === tlb.out);
                expect(same.map((e) => e.perm)).toEqual([tlb.perm]);
              } else if (complete) {
                expect(may.filter((e) => e.unsure !== true)).toEqual([]);
              }
            }
          }
        }
      },
    ),
    { numRuns: 400 },
  );
}

describe('the translation cache against a list', () => {
  test('a large cache answers exactly what was put in and not invalidated', () => check(4096, true));
  test.each([1, 2, 4, 16])('a cache of %i entries never answers what was invalidated', (n) => check(n, false));

  test('a cache of no entries never hits', () => {
    const tlb = new Iotlb({ entries: 0 });
    const c = tlb.context(0, 0);
    tlb.insert(c, 0x5000, 0, 0x9000, 12, 7, 12, 0);
    expect(tlb.lookup(c, 0x5000, 0)).toBe(false);
  });
});

test('entries stay apart after more renewals than there are tags', () => {
  const tlb = new Iotlb({ entries: 64 });
  const quiet = tlb.context(1, 1);
  const busy = tlb.context(1, 2);
  for (let i = 0; i < 140_000; i++) {
    tlb.insert(busy, 0x5000, 0, i * 4096, 12, 7, 12, 0);
    tlb.invalidateContext(busy);
    if (i % 1000 === 0) tlb.insert(quiet, 0x5000, 0, 0x7000, 12, 7, 12, 0);
    if (tlb.lookup(busy, 0x5000, 0)) throw new Error(`stale after ${i} renewals`);
    if (tlb.lookup(quiet, 0x5000, 0) && tlb.out !== 0x7000) throw new Error(`wrong context after ${i} renewals`);
  }
});

test('more contexts than the cache keeps: old ones are dead, ask-again ones work', () => {
  const tlb = new Iotlb({ entries: 64, contexts: 8 });
  const first = tlb.context(0, 0);
  tlb.insert(first, 0x5000, 0, 0x9000, 12, 7, 12, 0);
  for (let i = 1; i <= 8; i++) tlb.context(0, i);
  expect(first.tag).toBe(0);
  expect(tlb.lookup(first, 0x5000, 0)).toBe(false);
  const again = tlb.context(0, 0);
  expect(tlb.lookup(again, 0x5000, 0)).toBe(false);
  tlb.insert(again, 0x5000, 0, 0xa000, 12, 7, 12, 0);
  expect(tlb.lookup(again, 0x5fff, 0)).toBe(true);
  expect(tlb.out).toBe(0xafff);
});

test('a leaf invalidation keeps cached table walks, a full one drops them', () => {
  const tlb = new Iotlb({ entries: 64, walkEntries: 64 });
  const c = tlb.context(0, 0);
  tlb.insertWalk(c, 0x20_5000, 0, 21, 0x8000_3000 | 0, 0, 9);
  tlb.invalidateRange(c, 0x20_5000, 0, 1, true);
  expect(tlb.lookupWalk(c, 0x3f_f000, 0, 21)).toBe(true);
  expect([tlb.table, tlb.attr]).toEqual([0x8000_3000, 9]);
  tlb.invalidateRange(c, 0x20_5000, 0, 1, false);
  expect(tlb.lookupWalk(c, 0x3f_f000, 0, 21)).toBe(false);
});
