import { firstRunAt } from '../../lib/memory/runs.ts';

/** Pages [first, last] are pinned `count` times. */
interface Run {
  readonly first: number;
  readonly last: number;
  readonly count: number;
}

/** How often each page is pinned, kept by runs: a client that pins much at once costs no more than one that pins little. */
export class PinCounts {
  #runs: Run[] = [];

  /** How often a page is pinned. */
  of(page: number): number {
    const r = this.#runs[firstRunAt(this.#runs, page)];
    return r !== undefined && r.first <= page ? r.count : 0;
  }

  /** Pins [first, last] once more, or once less. */
  add(first: number, last: number, by: 1 | -1): void {
    const from = firstRunAt(this.#runs, first);
    const changed: Run[] = [];
    const put = (a: number, b: number, count: number) => {
      if (a > b || count <= 0) return;
      const before = changed.at(-1);
      if (before !== undefined && before.last === a - 1 && before.count === count) {
        changed[changed.length - 1] = { first: before.first, last: b, count };
      } else changed.push({ first: a, last: b, count });
    };
    let to = from;
    let at = first;
    for (; to < this.#runs.length && this.#runs[to]!.first <= last; to++) {
      const r = this.#runs[to]!;
      put(r.first, Math.min(r.last, first - 1), r.count);
      put(at, r.first - 1, by);
      put(Math.max(r.first, first), Math.min(r.last, last), r.count + by);
      put(last + 1, r.last, r.count);
      at = Math.max(at, r.last + 1);
    }
    put(at, last, by);
    this.#runs.splice(from, to - from, ...changed);
  }

  get empty(): boolean {
    return this.#runs.length === 0;
  }
}
