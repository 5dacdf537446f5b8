import { performance } from 'node:perf_hooks';
import { styleText } from 'node:util';

/** Where the program writes, whole lines: results to `out`, complaints to `err`. */
export interface Io {
  out(line: string): void;
  err(line: string): void;
  /** Shows a line on the standard error that the next one replaces; '' takes it away. Absent: it is no terminal. */
  readonly show?: (text: string) => void;
  /** Whether the standard output shows colours, unless `--color` says otherwise. Absent: it does not. */
  readonly colors?: boolean;
}

/** Options that every verb has. */
export interface Common {
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly color?: 'auto' | 'always' | 'never';
}

/** The paints of the program: what is wrong, what is right, what to look at twice, what is a heading. */
export type Paint = 'red' | 'green' | 'yellow' | 'bold';

/** What one verb writes to. */
export interface Session {
  /** A line of the result, on the standard output. */
  out(line: string): void;
  /** A complaint, on the standard error. */
  err(line: string): void;
  /** What was done, on the standard error; `--quiet` leaves it out. */
  note(line: string): void;
  /** How far it is: on a terminal, once the verb has run for a second, replaced by the next and by any line. */
  progress(text: string): void;
  /** The text in a colour, where colours are shown. */
  paint(paint: Paint, text: string): string;
  /** Results are objects, one a line, on the standard output. */
  readonly json: boolean;
}

/** Milliseconds a verb may run before it says how far it is, and between two such words. */
const FIRST = 1000;
const NEXT = 100;

/** Whether colours are shown: `--color` first, then whatever the standard output is. */
export function colored(io: Io, common: Common): boolean {
  return common.color === 'always' || (common.color !== 'never' && io.colors === true);
}

/** @param now milliseconds of a clock that does not go back. */
export function session(io: Io, common: Common, now: () => number = () => performance.now()): Session {
  const colors = colored(io, common);
  let due = now() + FIRST;
  let shown = false;
  const clear = (): void => {
    if (shown) io.show?.('');
    shown = false;
  };
  const err = (line: string): void => {
    clear();
    io.err(line);
  };
  return {
    out: (line) => {
      clear();
      io.out(line);
    },
    err,
    note: common.quiet === true ? () => {} : err,
    progress: (text) => {
      if (io.show === undefined || common.quiet === true || now() < due) return;
      due = now() + NEXT;
      shown = true;
      io.show(text);
    },
    paint: (paint, text) => (colors ? styleText(paint, text, { validateStream: false }) : text),
    json: common.json === true,
  };
}
