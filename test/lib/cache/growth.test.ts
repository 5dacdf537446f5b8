import { expect, test } from 'vitest';
import { Iotlb } from '../../../src/lib/cache/iotlb.ts';

const PAGES = 32_768;

function insert(tlb: Iotlb, domain: number, id: number, page: number, out: number): void {
  tlb.insert(tlb.context(domain, id), page << 12, page >>> 20, out * 4096, 12, 3, 12, 0);
}

function finds(tlb: Iotlb, domain: number, id: number, page: number): boolean {
  return tlb.lookup(tlb.context(domain, id), page << 12, page >>> 20);
}

function kept(tlb: Iotlb, domain: number, id: number, count: number): number {
  let found = 0;
  for (let page = 0; page < count; page++) if (finds(tlb, domain, id, page)) found++;
  return found;
}

test('a cache that grows keeps nearly all of what fits in half of it', () => {
  const tlb = new Iotlb({ entries: 2 * PAGES });
  for (let page = 0; page < PAGES; page++) insert(tlb, 0, 1, page, page);
  expect(kept(tlb, 0, 1, PAGES)).toBeGreaterThan(0.93 * PAGES);
  for (let page = 0; page < PAGES; page++) insert(tlb, 0, 1, page, page);
  expect(kept(tlb, 0, 1, PAGES)).toBeGreaterThan(0.99 * PAGES);
});

test('what was invalidated by its context is room for what comes after it', () => {
  const tlb = new Iotlb({ entries: 2 * PAGES });
  for (let round = 0; round < 6; round++) {
    tlb.invalidateContext(tlb.context(0, 1));
    for (let page = 0; page < PAGES; page++) insert(tlb, 0, 1, page, page);
  }
  expect(kept(tlb, 0, 1, PAGES)).toBeGreaterThan(0.99 * PAGES);
});

test('over every size a cache grows through, what it finds is what was put in last and not invalidated', () => {
  for (let seed = 1; seed <= 5; seed++) {
    let state = seed;
    const below = (n: number) => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff;
      return (state >>> 8) % n;
    };
    let tlb = new Iotlb({ entries: 8192 });
    const model = new Map<string, number>();
    const drop = (of: string) => {
      for (const key of [...model.keys()]) if (key.startsWith(of)) model.delete(key);
    };
    for (let step = 0; step < 6000; step++) {
      const [domain, id, page] = [below(2), below(3), below(4000)];
      const what = below(400);
      if (what === 0) {
        tlb.invalidateContext(tlb.context(domain, id));
        drop(`${domain} ${id} `);
      } else if (what === 1) {
        tlb.invalidateDomain(domain, true);
        drop(`${domain} `);
      } else if (what === 2) {
        const data = tlb.save();
        tlb = new Iotlb({ entries: 8192 });
        tlb.load(data);
      } else if (what < 60) {
        tlb.invalidateRange(tlb.context(domain, id), page << 12, 0, 1, true);
        model.delete(`${domain} ${id} ${page}`);
      } else {
        insert(tlb, domain, id, page, step);
        model.set(`${domain} ${id} ${page}`, step);
      }
    }
    let hits = 0;
    for (let domain = 0; domain < 2; domain++) {
      for (let id = 0; id < 3; id++) {
        for (let page = 0; page < 4000; page++) {
          if (!finds(tlb, domain, id, page)) continue;
          hits++;
          expect(tlb.out / 4096).toBe(model.get(`${domain} ${id} ${page}`));
        }
      }
    }
    expect(hits).toBeGreaterThan(0.9 * model.size);
  }
});
