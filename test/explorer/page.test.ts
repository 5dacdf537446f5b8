import { readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { keyAction } from '../../tools/explorer/page/keys.ts';
import { fitted, lowerBound, RunIndex, showing, zoomed } from '../../tools/explorer/page/lines.ts';
import { hashOf, NOWHERE, placeOf, TABS } from '../../tools/explorer/page/place.ts';
import type { Run } from '../../tools/explorer/page/protocol.ts';

/** A run of moments with rows and causes as given. */
function run(rows: readonly number[], causes: readonly number[]): Run {
  const count = Math.max(0, ...rows) + 1;
  return {
    file: 'x',
    iommu: 'smmuv3',
    kernel: '',
    scenario: '',
    devices: [],
    events: rows.length,
    moments: rows.length,
    took: 0,
    replayed: true,
    differing: 0,
    differences: [],
    rows: Array.from({ length: count }, (_, n) => ({ label: `${n}`, lane: 'notes', stream: -1, count: 0 })),
    names: ['m'],
    row: Uint8Array.from(rows),
    event: Uint32Array.from(rows, (_, n) => n),
    cause: Int32Array.from(causes),
    name: new Uint32Array(rows.length),
    subject: new Int32Array(rows.length).fill(-1),
  };
}

const runs = fc.array(fc.tuple(fc.nat(4), fc.nat(1000)), { minLength: 1, maxLength: 60 }).map((list) =>
  run(
    list.map(([row]) => row),
    list.map(([, c], n) => (c % (n + 2)) - 1).map((c, n) => Math.min(c, n - 1)),
  ),
);

describe('the index of a run', () => {
  test('effects and causes are two sides of one thing', () => {
    fc.assert(
      fc.property(runs, (r) => {
        const index = new RunIndex(r);
        const pairs = Array.from({ length: r.moments }, (_, n) => [...index.effects(n)].map((e) => [n, e])).flat();
        const expected = [...r.cause].flatMap((c, n) => (c < 0 ? [] : [[c, n]]));
        expect(pairs.toSorted((a, b) => a[1]! - b[1]!)).toEqual(expected);
        for (let n = 0; n < r.moments; n++) expect(index.causes(n)[0] ?? -1).toBe(r.cause[n]);
      }),
    );
  });

  test('the nearest moment of a row is no further than any other', () => {
    fc.assert(
      fc.property(runs, fc.nat(60), (r, n) => {
        const index = new RunIndex(r);
        for (const [row, list] of index.rows.entries()) {
          const found = index.nearest(row, n);
          if (list.length === 0) expect(found).toBe(-1);
          else expect(Math.abs(found - n)).toBe(Math.min(...[...list].map((m) => Math.abs(m - n))));
        }
      }),
    );
  });

  test('every moment is reached by keys, and no key leaves the run', () => {
    fc.assert(
      fc.property(
        runs,
        fc.array(fc.constantFrom('ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown', 'c', 'e', 'Home', 'End')),
        (r, keys) => {
          const index = new RunIndex(r);
          let n = -1;
          for (const key of keys) {
            const action = keyAction({ key, ctrlKey: false, metaKey: false, altKey: false }, index, n);
            if (action?.is !== 'select') continue;
            expect(action.n).toBeGreaterThanOrEqual(0);
            expect(action.n).toBeLessThan(r.moments);
            if (key === 'c') expect(action.n).toBe(r.cause[n]);
            if (key === 'e') expect(r.cause[action.n]).toBe(n);
            n = action.n;
          }
        },
      ),
    );
    expect(keyAction({ key: 'c', ctrlKey: true, metaKey: false, altKey: false }, new RunIndex(run([0], [-1])), 0)).toBe(
      null,
    );
  });
});

describe('the view', () => {
  const views = fc.tuple(
    fc.double({ min: -50, max: 2000, noNaN: true }),
    fc.double({ min: 0.01, max: 3000, noNaN: true }),
  );

  test('never leaves the run, whatever is asked of it', () => {
    fc.assert(
      fc.property(
        views,
        fc.integer({ min: 1, max: 1000 }),
        fc.double({ min: 0.1, max: 10, noNaN: true }),
        fc.nat(999),
        (v, moments, factor, n) => {
          const view = fitted({ from: v[0], to: v[0] + v[1] }, moments);
          for (const w of [view, zoomed(view, factor, n, moments), showing(view, n % moments, moments)]) {
            expect(w.from).toBeGreaterThanOrEqual(0);
            expect(w.to).toBeLessThanOrEqual(moments + 1e-6);
            expect(w.to).toBeGreaterThan(w.from);
          }
          const shown = showing(view, n % moments, moments);
          expect((n % moments) + 0.5).toBeGreaterThanOrEqual(shown.from - 1e-6);
          expect((n % moments) + 0.5).toBeLessThanOrEqual(shown.to + 1e-6);
        },
      ),
    );
  });

  test('lowerBound is the first place that is not smaller', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(50)), fc.nat(60), (list, wanted) => {
        const sorted = Int32Array.from(list).sort();
        const expected = sorted.findIndex((v) => v >= wanted);
        expect(lowerBound(sorted, wanted)).toBe(expected < 0 ? sorted.length : expected);
      }),
    );
  });
});

describe('links', () => {
  const numbers = fc.integer({ min: -1, max: 999_999 });
  const places = fc.record({
    trace: fc.nat(9),
    moment: numbers,
    event: numbers,
    query: fc.constantFrom('', 'lane:commands', 'about:0x100 "a b"', 'a&b=c#d', '100%', 'ü→'),
    tab: fc.constantFrom(...TABS),
    at: numbers,
    a: numbers,
    b: numbers,
    opened: fc.constantFrom([], ['0x100'], ['0x100', '0x100/context of SSID 0x1', '0x100/context/TTB0/0x0']),
    ask: fc.constantFrom('', 'maps:0xffffd000', 'reaches:4096'),
  });

  test('lead back to the place they were made of', () => {
    fc.assert(
      fc.property(places, (place) => {
        expect(placeOf(hashOf(place))).toEqual(place);
      }),
    );
  });

  test('that say something else lead nowhere in particular', () => {
    expect(placeOf('#event=12&stream=0x100')).toEqual({ ...NOWHERE, event: 12, query: 'about:0x100' });
    expect(placeOf('#event=-3&moment=1e9&tab=<script>&ask=maps:javascript&stream=%22%3E&trace=x')).toEqual(NOWHERE);
    expect(placeOf('')).toEqual(NOWHERE);
    expect(hashOf(NOWHERE)).toBe('');
  });
});

const IMPORT = /^(?:import|export)\s+(?!type\b)(?:[^'";]*?from\s+)?'([^']+)'/gm;

test('the page and its worker load this package and Preact: no node: modules, nothing that compiles code', () => {
  const seen = new Set<string>();
  const outside = new Set<string>();
  const reach = (file: string): void => {
    if (seen.has(file)) return;
    seen.add(file);
    const text = readFileSync(file, 'utf8');
    expect(text, file).not.toMatch(/\bnew Function\b|\beval\(|\bBuffer\.|dangerouslySetInnerHTML|innerHTML/);
    for (const [, name] of text.matchAll(IMPORT)) {
      if (name!.startsWith('.')) reach(normalize(join(dirname(file), name!.replace(/\?.*$/, ''))));
      else outside.add(name!);
    }
  };
  reach('tools/explorer/page/main.tsx');
  expect(seen.size).toBeGreaterThan(100);
  expect([...outside].toSorted()).toEqual(['preact', 'preact/hooks']);
});
