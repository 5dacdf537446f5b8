import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Shadow, type ShadowWalk } from '../../../src/lib/shadow/shadow.ts';
import { type LeafSource, ShadowFill } from '../../../src/lib/shadow/shadow-fill.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { OneIoas } from './host.ts';

const READ = 1;
const WRITE = 2;
const PAGE = 4096;

/** A guest's stage as a list of leaves, in pages. */
class Leaves implements ShadowWalk {
  gpa = 0;
  shift = 0;
  perm = 0;
  leaves: { first: number; shift: number; gpa: number; perm: number }[] = [];

  set(first: number, shift: number, gpa: number, perm = READ | WRITE): void {
    const end = first + 2 ** shift;
    this.leaves = this.leaves.filter((l) => l.first >= end || l.first + 2 ** l.shift <= first);
    this.leaves.push({ first, shift, gpa, perm });
  }

  find(ipa: number): boolean {
    const page = Math.floor(ipa / PAGE);
    const leaf = this.leaves.find((l) => page >= l.first && page < l.first + 2 ** l.shift);
    if (leaf === undefined) return false;
    this.gpa = (leaf.gpa + page - leaf.first) * PAGE + (ipa % PAGE);
    this.shift = leaf.shift + 12;
    this.perm = leaf.perm;
    return true;
  }
}

function shadowOf(unit: 'leaf' | 'range', regions: readonly (readonly [number, number])[] = [[0, 0x10_0000]]) {
  const host = new OneIoas(regions);
  const walk = new Leaves();
  const shadow = new Shadow({ verbs: host.verbs, ioasId: 1, walk, memory: host, unit });
  return { host, walk, shadow, miss: (page: number, access = READ) => shadow.miss(page * PAGE, access) };
}

describe.each(['leaf', 'range'] as const)('a shadow whose invalidations name a %s', (unit) => {
  test('a miss maps the leaf as large as RAM allows, once', () => {
    const { host, walk, shadow, miss } = shadowOf(unit, [[0x100, 0x280]]);
    walk.set(0, 9, 0x100);
    expect(miss(5)).toBe(true);
    expect(miss(5)).toBe(false);
    expect(host.took()).toEqual(['map 0..384']);
    expect([miss(384), miss(512)]).toEqual([false, false]);
    expect(shadow.leafShift(5 * PAGE)).toBe(unit === 'leaf' ? 21 : Math.log2(384 * PAGE));
  });

  test('of a leaf that begins outside RAM, the part around the page is mapped', () => {
    const { host, walk, miss } = shadowOf(unit, [[0x180, 0x1000]]);
    walk.set(0, 9, 0x100);
    expect([miss(0), miss(0x90)]).toEqual([false, true]);
    expect(host.took()).toEqual(['map 128..512']);
  });

  test('what the host keeps for itself is mapped around, and what was mapped beside it stays', () => {
    const { host, walk, miss } = shadowOf(unit);
    host.reserved = { first: 0x55, end: 0x56 };
    walk.set(0, 9, 0x1000);
    expect([miss(0), miss(0x100), miss(0x54), miss(0x57)]).toEqual([true, true, true, true]);
    expect(miss(0x55)).toBe(false);
    expect(host.took()).toEqual(['map 0..64', 'map 256..512', 'map 84..85', 'map 86..88']);
  });

  test('memory that cannot be written stays readable', () => {
    const { host, walk, miss } = shadowOf(unit);
    host.rom = 0x1000;
    walk.set(0, 0, 0x1000);
    expect([miss(0), miss(0)]).toEqual([true, false]);
    expect(host.maps).toEqual([{ first: 0, end: 1, gpa: 0x1000, write: false }]);
  });

  test('a leaf that allows more than before makes room for itself', () => {
    const { host, walk, miss } = shadowOf(unit);
    walk.set(0, 9, 0x200, READ);
    expect([miss(7), miss(7, WRITE)]).toEqual([true, false]);
    walk.set(0, 9, 0x200);
    expect(miss(7, WRITE)).toBe(true);
    expect(host.took()).toEqual(['map 0..512', 'unmap 0..512', 'map 0..512']);
  });

  test('guest memory that goes is taken away, the rest stays', () => {
    const { host, walk, shadow, miss } = shadowOf(unit);
    for (let i = 0; i < 4; i++) walk.set(i, 0, 0x100 + 2 * i);
    for (let i = 0; i < 4; i++) miss(i);
    expect(shadow.forget(0x102 * PAGE, 3 * PAGE)).toBe(0);
    expect([0, 1, 2, 3].map((page) => host.at(page))).toEqual([0x100, -1, -1, 0x106]);
    expect([shadow.clear(), shadow.clear()]).toEqual([0, 0]);
    expect(host.maps).toEqual([]);
  });

  test('what the host refuses to take away is told and stays known until it goes', () => {
    const { host, walk, shadow, miss } = shadowOf(unit);
    for (let i = 0; i < 3; i++) walk.set(i, 0, 0x100 + i);
    for (let i = 0; i < 3; i++) miss(i);
    host.refuse = 4;
    expect(shadow.invalidate(0, 3)).toBe(-E.NOMEM);
    expect([0, 1, 2].map((page) => host.at(page))).toEqual([-1, 0x101, -1]);
    expect(shadow.invalidate(0, 3)).toBe(0);
    expect(host.maps).toEqual([]);
  });

  test('whatever the guest maps and invalidates, nothing is mapped that its leaves did not say since', () => {
    const action = fc.record({
      kind: fc.constantFrom('miss', 'leaf', 'refused'),
      page: fc.nat(63),
      shift: fc.nat(4),
      gpa: fc.nat(255),
    });
    fc.assert(
      fc.property(fc.array(action, { minLength: 10, maxLength: 80 }), (actions) => {
        const { host, walk, shadow, miss } = shadowOf(unit, [
          [0, 0x40],
          [0x48, 0x400],
        ]);
        host.reserved = { first: 21, end: 22 };
        for (const a of actions) {
          if (a.kind === 'miss') {
            miss(a.page, a.gpa % 2 === 0 ? READ : WRITE);
          } else {
            const pages = 2 ** a.shift;
            const first = a.page - (a.page % pages);
            const gone = walk.leaves.filter((l) => l.first < first + pages && l.first + 2 ** l.shift > first);
            walk.set(first, a.shift, a.gpa - (a.gpa % pages));
            // The guest's duty: all of a leaf that it changes, or any address of it where that does.
            const named = [{ first, shift: a.shift }, ...gone];
            for (const l of named) {
              if (unit === 'range') shadow.invalidate(l.first, 2 ** l.shift);
              else for (let i = 0; i < 2 ** l.shift; i++) shadow.invalidate(l.first + i, 1);
            }
          }
        }
        for (const m of host.maps) {
          for (let page = m.first; page < m.end; page++) {
            expect(walk.find(page * PAGE)).toBe(true);
            expect(host.at(page)).toBe(walk.gpa / PAGE);
          }
        }
        expect(shadow.areas.count).toBe(host.maps.length);
      }),
      { numRuns: 100 },
    );
  });
});

test('a range takes exactly its pages out of a large leaf, any address of a leaf takes the leaf', () => {
  const left = (unit: 'leaf' | 'range') => {
    const { host, walk, shadow, miss } = shadowOf(unit);
    walk.set(0, 9, 0x200);
    miss(0);
    shadow.invalidate(0x80, 16);
    return host.maps.map((m) => [m.first, m.end, m.gpa]);
  };
  expect(left('leaf')).toEqual([]);
  expect(left('range')).toEqual([
    [0, 0x80, 0x200],
    [0x90, 0x200, 0x290],
  ]);
});

test('another leaf in the place of one whose invalidation has not come makes room for itself', () => {
  const { host, walk, miss } = shadowOf('leaf');
  for (let i = 0; i < 4; i++) walk.set(i, 0, 0x100 + i);
  for (let i = 0; i < 3; i++) miss(i);
  walk.set(0, 9, 0x200);
  expect(miss(0x80)).toBe(true);
  expect(host.maps).toEqual([{ first: 0, end: 512, gpa: 0x200, write: true }]);
});

describe('a fill', () => {
  function fillOf(leaves: readonly (readonly [number, number, number])[], limit = 100) {
    const { host, shadow } = shadowOf('range', [
      [0, 0x100],
      [0x200, 0x1_0000],
    ]);
    const source: LeafSource = {
      leaves: (first, pages, sink) => {
        for (const [page, n, gpa] of leaves) {
          if (page >= first && page < first + pages && !sink.leaf(page, n, gpa, READ | WRITE)) return page + n;
        }
        return first + pages;
      },
    };
    const fill = new ShadowFill({
      shadow,
      source,
      memory: host,
      limit,
      hole: { first: 0x500, end: 0x510 },
    });
    return { host, fill };
  }

  test('makes one mapping of leaves that follow each other, and leaves out holes of RAM and of the input', () => {
    const { host, fill } = fillOf([
      [0, 1, 0x10],
      [1, 1, 0x11],
      [2, 0x200, 0xf0],
      [0x4f0, 0x40, 0x1000],
    ]);
    expect(fill.fill(0, 0x1000)).toBe(0);
    expect(host.took()).toEqual(['map 0..2', 'map 2..18', 'map 274..514', 'map 1264..1280', 'map 1296..1328']);
  });

  test('goes around what the host keeps for itself, and says what else it refuses', () => {
    const { host, fill } = fillOf([[0, 8, 0x10]]);
    host.reserved = { first: 3, end: 4 };
    expect(fill.fill(0, 16)).toBe(0);
    expect(host.took().sort()).toEqual(['map 0..2', 'map 2..3', 'map 4..8']);
    host.maps = [];
    host.refuse = 8;
    expect(fill.fill(0, 16)).toBe(-E.NOMEM);
  });

  test('stops at its limit', () => {
    const { host, fill } = fillOf(
      [0, 2, 4, 6, 8].map((page) => [page, 1, page] as const),
      2,
    );
    fill.fill(0, 16);
    expect(host.maps.length).toBe(3);
    // What is left of it is found from where it stopped.
    fill.fill(fill.next, 16 - fill.next, 100);
    expect([host.maps.length, fill.next]).toEqual([5, 16]);
  });
});
