import { collect } from '../measure.ts';

/** Bytes alive: objects, and the contents of typed arrays, which lie outside of the heap. */
function alive(): number {
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

/**
 * What one of `count` things keeps alive, bytes.
 * @param begin makes what they share, and returns it with what makes the i-th of them; nothing of it counts.
 */
export function bytesEach(count: number, begin: () => readonly [shared: unknown, one: (i: number) => unknown]): number {
  const [shared, one] = begin();
  const held: unknown[] = new Array(count).fill(shared);
  // The first one may fill tables that all share.
  one(count);
  const before = alive();
  for (let i = 0; i < count; i++) held[i] = one(i);
  const bytes = alive() - before;
  return held.length === count ? bytes / count : 0;
}
