import type { TraceHeader } from './header.ts';

export const COLUMNS = ['reads', 'translations', 'faults', 'records', 'interrupts'] as const;
export type ColumnName = (typeof COLUMNS)[number];

/** How many events of a kind were compared, and how many were as recorded. What the machine adds counts in `total`. */
export interface Column {
  total: number;
  matched: number;
}

/** One difference between recording and machine. */
export interface Difference {
  /** Number of the event. */
  readonly i: number;
  readonly column: ColumnName | 'commands';
  /** What the event is about. */
  readonly what: string;
  readonly expected: string;
  readonly got: string;
}

/** What became of one recording. */
export interface ReplayResult {
  readonly header: TraceHeader;
  /** Everything matched, and the machine did nothing that is not in the recording. */
  readonly ok: boolean;
  readonly events: number;
  readonly columns: Readonly<Record<ColumnName, Column>>;
  readonly commands: ReadonlyMap<string, number>;
  readonly hostOps: ReadonlyMap<string, number>;
  /** The first differences, in order of their event numbers. */
  readonly differences: readonly Difference[];
  /** How many differences there were in all. */
  readonly differing: number;
}

/** Counts per column, and the first differences. */
export class Score {
  readonly columns: Record<ColumnName, Column> = {
    reads: { total: 0, matched: 0 },
    translations: { total: 0, matched: 0 },
    faults: { total: 0, matched: 0 },
    records: { total: 0, matched: 0 },
    interrupts: { total: 0, matched: 0 },
  };
  readonly #keep: number;
  #differences: Difference[] = [];
  differing = 0;

  /** @param keep how many differences are remembered. */
  constructor(keep: number) {
    this.#keep = keep;
  }

  match(column: ColumnName): void {
    const c = this.columns[column];
    c.total++;
    c.matched++;
  }

  differ(i: number, column: Difference['column'], what: string, expected: string, got: string): void {
    if (column !== 'commands') this.columns[column].total++;
    this.differing++;
    if (this.#differences.length < 4 * this.#keep) this.#differences.push({ i, column, what, expected, got });
  }

  /** The first differences by event number. */
  first(): Difference[] {
    return this.#differences.toSorted((a, b) => a.i - b.i).slice(0, this.#keep);
  }
}
