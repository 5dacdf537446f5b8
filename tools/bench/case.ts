/** How much of the way a row measures. */
export const PATHS = [
  'guest path',
  'through the bus',
  "to a real endpoint's ATC",
  'hardware only',
  'host kernel',
  'replay',
  'scale',
  'start',
] as const;
export type BenchPath = (typeof PATHS)[number];

/** What every row says of itself. */
interface Row {
  readonly path: BenchPath;
  /** Rows of one name differ by `n` alone: how cost grows with it. */
  readonly name: string;
  /** How many there are of what `of` says. */
  readonly n?: number;
  /** Translations cached, streams, PASIDs, vIOMMUs … */
  readonly of?: string;
}

/** An operation whose CPU time is measured. */
export interface TimedCase extends Row {
  /** A path on which nothing may allocate: the heap it takes per operation is judged. */
  readonly hot?: boolean;
  /** Builds what is measured. */
  setup(): Prepared | Promise<Prepared>;
}

export interface Prepared {
  /** Operations per call of `run`. */
  readonly ops: number;
  /** Runs the operation `ops` times. Called often; must not allocate per operation itself. */
  run(): void;
}

/** Something that is counted or timed as a whole, several times. */
export interface SampledCase extends Row {
  readonly unit: 'B' | 'ms' | 'x';
  readonly samples: number;
  sample(): number | Promise<number>;
}

export type BenchCase = TimedCase | SampledCase;

/** A case in one line: what `--only` looks into, and what gates name. */
export function titleOf({ path, name, n, of }: Row): string {
  return `${path}: ${name}${n === undefined ? '' : `, ${n.toLocaleString('en-US')} ${of ?? 'cached'}`}`;
}

/** What was measured of a case. */
export interface Measured {
  readonly title: string;
  readonly path: BenchPath;
  readonly name: string;
  readonly n: number | null;
  readonly unit: 'ns' | SampledCase['unit'];
  /** Median of the rounds, and the quartiles beside it. CPU time per operation where the unit is ns. */
  readonly value: number;
  readonly low: number;
  readonly high: number;
  /** Nanoseconds of the reference walk in the same process, between the same rounds. */
  readonly walk: number;
  /** Heap taken per operation, bytes; null: not looked at. */
  readonly heap: number | null;
  readonly hot: boolean;
}
