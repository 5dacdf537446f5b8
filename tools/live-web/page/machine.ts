/** A machine that runs beside the page and is recorded as it does. */
export interface LiveMachine {
  /** Name of its recording. */
  readonly name: string;
  /** First line of the recording. */
  readonly header: string;
  /** Takes what was recorded since the last time: lines, whole. */
  take(): string;
  /** Goes on, and stands still. */
  go(): Promise<void>;
  halt(): Promise<void>;
  /** Goes on for a moment, while it stands still otherwise: a step needs more events than there are. */
  little(): Promise<void>;
  /** It has no more to do. */
  readonly ended: boolean;
  /** Lines of its console so far; null: it has none. */
  readonly console: readonly string[] | null;
  /** Types a line. */
  send(line: string): void;
  /** A DMA write nobody asked for, and its outcome (a DMA value); null: there is no function to make it. */
  readonly stray: (() => number) | null;
  /** Why it cannot go on; '': nothing is wrong. */
  readonly error: string;
}
