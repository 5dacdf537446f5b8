import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Area, AreaTree } from '../../../src/host/iommufd/ioas/area-tree.ts';
import { Pages } from '../../../src/host/iommufd/ioas/pages.ts';
import { IOVA_LAST, ReservedRanges } from '../../../src/host/iommufd/ioas/ranges.ts';

const PAGES = new Pages({
  source: { hpa: 0, run: 0, pin: () => false },
  base: 0n,
  count: 1,
  writable: true,
  file: null,
  account: null,
  mode: 'none',
});

interface Plain {
  readonly start: bigint;
  readonly last: bigint;
}

function area(tree: AreaTree, r: Plain): Area {
  return new Area({ ...r, pages: PAGES, startByte: 0, prot: 3 }, tree.nextWeight());
}

/** Holes of a sorted list of ranges, the slow way. */
function holes(list: readonly Plain[], start: bigint, last: bigint): Plain[] {
  const out: Plain[] = [];
  let at = start;
  for (const r of list) {
    if (r.last < at) continue;
    if (r.start > last) break;
    if (r.start > at) out.push({ start: at, last: r.start - 1n });
    at = r.last + 1n;
  }
  if (at <= last) out.push({ start: at, last });
  return out;
}

// Addresses near each other, near 0 and near the top, at odd bytes.
const address = fc.oneof(
  fc.bigInt({ min: 0n, max: 0x1_0000n }),
  fc.bigInt({ min: IOVA_LAST - 0x1_0000n, max: IOVA_LAST }),
);
const range = fc.tuple(address, fc.bigInt({ min: 1n, max: 0x2000n })).map(([start, length]) => {
  const last = start + length - 1n;
  return { start, last: last > IOVA_LAST ? IOVA_LAST : last };
});

describe('areas of an IOAS', () => {
  test('after any insertions and removals, lookup and holes are those of a sorted list', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.boolean(), range), { maxLength: 60 }),
        range,
        fc.nat(0x3000),
        (steps, window, size) => {
          const tree = new AreaTree();
          let list: { r: Plain; a: Area }[] = [];
          for (const [remove, r] of steps) {
            if (remove && list.length > 0) {
              const victim = list[Number(r.start) % list.length]!;
              tree.remove(victim.a);
              list = list.filter((x) => x !== victim);
            } else if (!list.some((x) => x.r.start <= r.last && r.start <= x.r.last)) {
              const a = area(tree, r);
              tree.insert(a);
              list = [...list, { r, a }].sort((x, y) => (x.r.start < y.r.start ? -1 : 1));
            }
          }
          const plain = list.map((x) => x.r);
          expect(tree.size).toBe(list.length);
          expect([...tree].map((a) => [a.start, a.last])).toEqual(plain.map((r) => [r.start, r.last]));
          expect(tree.first(window.start, window.last)).toBe(
            list.find((x) => x.r.start <= window.last && window.start <= x.r.last)?.a ?? null,
          );
          // Every hole that can hold `size` bytes is offered, from the lowest up; smaller ones may be left out.
          const offered: Plain[] = [];
          tree.findHole(window.start, window.last, size, (page, off, lastPage, lastOff) => {
            offered.push({
              start: (BigInt(page) << 12n) | BigInt(off),
              last: (BigInt(lastPage) << 12n) | BigInt(lastOff),
            });
            return false;
          });
          const all = holes(plain, window.start, window.last);
          const key = (h: Plain) => `${h.start}-${h.last}`;
          const wide = all.filter((h) => h.last - h.start + 1n >= BigInt(size));
          expect(offered.map(key)).toEqual(all.filter((h) => offered.some((o) => key(o) === key(h))).map(key));
          for (const h of wide) expect(offered.map(key)).toContain(key(h));
        },
      ),
      { numRuns: 300 },
    );
  });

  test('50,000 areas stay quick to insert, look up and remove in any order', () => {
    const n = 50_000;
    const tree = new AreaTree();
    const areas: Area[] = [];
    // A permutation: 7919 does not divide n.
    for (let i = 0; i < n; i++) {
      const start = BigInt((i * 7919) % n) * 0x2000n;
      const a = area(tree, { start, last: start + 0xfffn });
      areas.push(a);
      tree.insert(a);
    }
    let steps = 0;
    for (let a = tree.firstFrom(0, 0); a !== null && steps < 1000; a = tree.next(a)) {
      expect(a.start).toBe(BigInt(steps) * 0x2000n);
      steps++;
    }
    // Every hole is a page: one more byte fits behind the last area only, and that is found at once.
    const offered: number[] = [];
    tree.findHole(0n, IOVA_LAST, 0x1001, (page) => offered.push(page) < 0);
    expect(offered).toEqual([n * 2 - 1]);
    for (const a of areas) tree.remove(a);
    expect(tree.size).toBe(0);
    expect(tree.firstFrom(0, 0)).toBeNull();
  });
});

describe('reserved regions', () => {
  test('regions of many owners are one region until the last owner leaves', () => {
    const r = new ReservedRanges();
    const owners = Array.from({ length: 1000 }, () => ({}));
    for (const o of owners) r.add(0x1000n, 0x1fffn, o);
    r.add(0x1800n, 0x2fffn, owners[0]!);
    expect(r.holes(0n, 0x3fffn)).toEqual([
      { start: 0n, last: 0xfffn },
      { start: 0x3000n, last: 0x3fffn },
    ]);
    for (const o of owners.slice(1)) r.removeOwner(o);
    expect(r.intersects(0x1000n, 0x1000n)).toBe(true);
    r.removeOwner(owners[0]!);
    expect(r.holes(0n, IOVA_LAST)).toEqual([{ start: 0n, last: IOVA_LAST }]);
  });

  test('a region that reaches the top of the space leaves no hole behind it', () => {
    const r = new ReservedRanges();
    r.add(0x8000_0000n, IOVA_LAST, r);
    expect(r.holes(0n, IOVA_LAST)).toEqual([{ start: 0n, last: 0x7fff_ffffn }]);
  });
});
