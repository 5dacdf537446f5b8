import fc from 'fast-check';
import { expect, test } from 'vitest';
import { align } from '../../tools/explorer/model/align.ts';

const letters = fc.array(fc.constantFrom('a', 'b', 'c'), { maxLength: 12 });

/** Length of the longest common subsequence, by the textbook's table. */
function common(a: readonly string[], b: readonly string[]): number {
  const row = new Array<number>(b.length + 1).fill(0);
  for (const x of a) {
    let corner = 0;
    for (const [n, y] of b.entries()) {
      const above = row[n + 1]!;
      row[n + 1] = x === y ? corner + 1 : Math.max(above, row[n]!);
      corner = above;
    }
  }
  return row[b.length]!;
}

test('every element appears once and in order, pairs are equal, and no more pairs were possible', () => {
  fc.assert(
    fc.property(letters, letters, (a, b) => {
      const pairs = align(a, b);
      expect(pairs.map(([x]) => x).filter((x) => x >= 0)).toEqual(a.map((_, n) => n));
      expect(pairs.map(([, y]) => y).filter((y) => y >= 0)).toEqual(b.map((_, n) => n));
      const matched = pairs.filter(([x, y]) => x >= 0 && y >= 0);
      for (const [x, y] of matched) expect(a[x]).toBe(b[y]);
      expect(matched.length).toBe(common(a, b));
    }),
    { numRuns: 2000 },
  );
});

test('sequences that have nothing in common are told as such, however long they are', () => {
  const a = Array.from({ length: 6000 }, (_, n) => `a${n}`);
  const b = Array.from({ length: 6000 }, (_, n) => `b${n}`);
  const pairs = align(['same', ...a, 'end'], ['same', ...b, 'end']);
  expect(pairs.filter(([x, y]) => x >= 0 && y >= 0)).toEqual([
    [0, 0],
    [6001, 6001],
  ]);
  expect(pairs).toHaveLength(12_002);
});
