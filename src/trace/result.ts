import type { TraceHeader } from './header.ts';

/** What a replay compares. */
export const COLUMNS = ['reads', 'translations', 'faults', 'records', 'interrupts'] as const;
/** A name of `COLUMNS`. */
export type ColumnName = (typeof COLUMNS)[number];

/** How many events of a kind were compared, and how many were as recorded. What the machine adds counts in `total`. */
export interface Column {
  /** Compared so far. */
  total: number;
  /** Equal so far. */
  matched: number;
}

/** One difference between recording and machine. */
export interface Difference {
  /** Number of the event. */
  readonly i: number;
  /** What differed. */
  readonly column: ColumnName | 'commands';
  /** What the event is about. */
  readonly what: string;
  /** What the recording has. */
  readonly expected: string;
  /** What this machine did. */
  readonly got: string;
}

/** What became of one recording. */
export interface ReplayResult {
  /** Header of the recording. */
  readonly header: TraceHeader;
  /** Everything matched, and the machine did nothing that is not in the recording. */
  readonly ok: boolean;
  /** Events taken. */
  readonly events: number;
  /** What was compared and how much of it was equal. */
  readonly columns: Readonly<Record<ColumnName, Column>>;
  /** Commands executed, by name. */
  readonly commands: ReadonlyMap<string, number>;
  /** Host verbs called, by name. */
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
  /** Hears of every difference when it is found. */
  also: ((difference: Difference) => void) | null = null;

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
    if (this.#differences.length >= 4 * this.#keep && this.also === null) return;
    const difference = { i, column, what, expected, got };
    if (this.#differences.length < 4 * this.#keep) this.#differences.push(difference);
    this.also?.(difference);
  }

  /** The first differences by event number. */
  first(): Difference[] {
    return this.#differences.toSorted((a, b) => a.i - b.i).slice(0, this.#keep);
  }
}
