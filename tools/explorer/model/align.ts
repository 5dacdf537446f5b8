/** Two places that belong together, or one that has no counterpart (-1). */
export type Pair = readonly [a: number, b: number];

/** Differences that are looked for exactly; beyond it, what is left is taken as different altogether. */
const MOST_DIFFERENCES = 2000;

/**
 * Aligns two sequences so that as many equal elements as possible stand beside each other, in order (E. Myers, "An O(ND)
 * difference algorithm and its variations", 1986).
 * @returns pairs in order; an element without a counterpart stands alone, those of `a` before those of `b`.
 */
export function align(a: readonly string[], b: readonly string[]): Pair[] {
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const middle = script(a.slice(start, a.length - end), b.slice(start, b.length - end));
  return [
    ...Array.from({ length: start }, (_, n) => [n, n] as const),
    ...middle.map(([x, y]) => [x < 0 ? -1 : x + start, y < 0 ? -1 : y + start] as const),
    ...Array.from({ length: end }, (_, n) => [a.length - end + n, b.length - end + n] as const),
  ];
}

function script(a: readonly string[], b: readonly string[]): Pair[] {
  const history: Int32Array[] = [];
  const most = Math.min(a.length + b.length, MOST_DIFFERENCES);
  const middle = most + 1;
  const far = new Int32Array(2 * most + 3);
  for (let d = 0; d <= most; d++) {
    history.push(far.slice(middle - d - 1, middle + d + 2));
    for (let k = -d; k <= d; k += 2) {
      const down = k === -d || (k !== d && far[middle + k - 1]! < far[middle + k + 1]!);
      let x = down ? far[middle + k + 1]! : far[middle + k - 1]! + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x++;
      far[middle + k] = x;
      if (x >= a.length && x - k >= b.length) return back(a.length, b.length, history);
    }
  }
  return [...a.map((_, n) => [n, -1] as const), ...b.map((_, n) => [-1, n] as const)];
}

/** The way back through what was reached with each number of differences. */
function back(lengthA: number, lengthB: number, history: readonly Int32Array[]): Pair[] {
  const pairs: Pair[] = [];
  let [x, y] = [lengthA, lengthB];
  for (let d = history.length - 1; d >= 0; d--) {
    const far = history[d]!;
    const at = (k: number) => far[k + d + 1]!;
    const k = x - y;
    const down = k === -d || (k !== d && at(k - 1) < at(k + 1));
    const fromX = down ? at(k + 1) : at(k - 1);
    const fromY = fromX - (down ? k + 1 : k - 1);
    while (x > fromX && y > Math.max(fromY, 0)) pairs.push([--x, --y]);
    if (d > 0) pairs.push(down ? [-1, fromY] : [fromX, -1]);
    [x, y] = [fromX, fromY];
  }
  return pairs.reverse();
}
