import type { Run } from './protocol.ts';

/** Which part of the run the timeline shows: moments from `from` up to `to`, which need not be whole numbers. */
export interface View {
  readonly from: number;
  readonly to: number;
}

/** Moments that are shown at least. */
const CLOSEST = 6;

/** The moments of a run by row, and what each led to: what drawing and walking about need. */
export class RunIndex {
  readonly run: Run;
  /** Numbers of the moments of each row, ascending. */
  readonly rows: readonly Int32Array[];
  readonly #firstEffect: Int32Array;
  readonly #effects: Int32Array;

  constructor(run: Run) {
    this.run = run;
    const counts = new Int32Array(run.rows.length);
    const effectCounts = new Int32Array(run.moments + 1);
    for (let n = 0; n < run.moments; n++) {
      counts[run.row[n]!]!++;
      if (run.cause[n]! >= 0) effectCounts[run.cause[n]! + 1]!++;
    }
    const rows = run.rows.map((_, row) => new Int32Array(counts[row]!));
    counts.fill(0);
    for (let n = 0; n < run.moments; n++) {
      const row = run.row[n]!;
      rows[row]![counts[row]!++] = n;
    }
    this.rows = rows;
    for (let n = 1; n <= run.moments; n++) effectCounts[n]! += effectCounts[n - 1]!;
    this.#firstEffect = effectCounts;
    const next = effectCounts.slice();
    this.#effects = new Int32Array(effectCounts[run.moments]!);
    for (let n = 0; n < run.moments; n++) if (run.cause[n]! >= 0) this.#effects[next[run.cause[n]!]!++] = n;
  }

  /** What a moment led to, in order. */
  effects(n: number): Int32Array {
    return this.#effects.subarray(this.#firstEffect[n]!, this.#firstEffect[n + 1]!);
  }

  /** The moments that led to this one, the nearest first. */
  causes(n: number, most = 64): number[] {
    const chain: number[] = [];
    for (let at = this.run.cause[n] ?? -1; at >= 0 && chain.length < most; at = this.run.cause[at]!) chain.push(at);
    return chain;
  }

  /** Place in a row's list of its first moment from `n` on. */
  place(row: number, n: number): number {
    return lowerBound(this.rows[row]!, n);
  }

  /** The moment of a row that is nearest to `n`; -1: the row is empty. */
  nearest(row: number, n: number): number {
    const list = this.rows[row]!;
    const at = lowerBound(list, n);
    const [before, after] = [list[at - 1], list[at]];
    if (before === undefined || after === undefined) return before ?? after ?? -1;
    return n - before <= after - n ? before : after;
  }

  /** The next (+1) or previous (-1) moment in a moment's row; itself at the end. */
  beside(n: number, step: number): number {
    const list = this.rows[this.run.row[n]!]!;
    return list[lowerBound(list, n) + step] ?? n;
  }

  /** The first moment of the first event from `event` on; the last one where there is none. */
  ofEvent(event: number): number {
    return Math.min(lowerBound(this.run.event, event), this.run.moments - 1);
  }
}

/** Place of the first value from `wanted` on in an ascending list. */
export function lowerBound(list: Int32Array | Uint32Array, wanted: number, from = 0): number {
  let low = from;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (list[middle]! < wanted) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** A view that lies inside of the run and is not too narrow. */
export function fitted(view: View, moments: number): View {
  const width = Math.min(moments, Math.max(CLOSEST, view.to - view.from));
  const from = Math.max(0, Math.min(view.from, moments - width));
  return { from, to: from + width };
}

/** Makes everything larger by `factor`, with `at` where it is. */
export function zoomed(view: View, factor: number, at: number, moments: number): View {
  const width = (view.to - view.from) / factor;
  const part = (at - view.from) / (view.to - view.from);
  return fitted({ from: at - part * width, to: at + (1 - part) * width }, moments);
}

/** A view in which a moment can be seen. */
export function showing(view: View, n: number, moments: number): View {
  const width = view.to - view.from;
  const margin = width * 0.08;
  if (n + 0.5 >= view.from + margin && n + 0.5 <= view.to - margin) return view;
  return fitted({ from: n - width / 2, to: n + width / 2 }, moments);
}
