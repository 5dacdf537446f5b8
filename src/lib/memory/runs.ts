/** Pages up to `last`, in a list of runs that are in ascending order and do not overlap. */
export interface PageRun {
  readonly last: number;
}

/** Index of the first run that ends at or behind `page`; the length of the list when there is none. */
export function firstRunAt(runs: readonly PageRun[], page: number): number {
  let lo = 0;
  let hi = runs.length;
  while (lo < hi) {
    const mid = (lo + hi) >>> 1;
    if (runs[mid]!.last < page) lo = mid + 1;
    else hi = mid;
  }
  return lo;
}
