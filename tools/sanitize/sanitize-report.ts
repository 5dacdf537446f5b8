import { ViommuError } from '../../src/core/errors.ts';
import { type Finding, SEVERITIES, type Severity } from '../../src/sanitize/index.ts';
import type { Session } from '../cli/session.ts';
import { EXIT } from '../cli/verb.ts';
import type { Piece } from '../shard/results.ts';
import { findingJson, lines, type Sanitized, type SanitizedRow, summaryJson, summaryTable } from './report.ts';

/** A recording that was judged, or could not be, in a form that can be written down. */
export interface SanitizePiece extends Piece {
  /** Why it cannot be used; null: it was judged. */
  readonly error: string | null;
  readonly row: SanitizedRow | null;
  readonly lines: readonly string[];
  readonly json: readonly object[];
}

/** @param n its number among the recordings. @param at where the store of a finding was made, in words. */
export function judged(n: number, s: Sanitized, at: (f: Finding) => string | null): SanitizePiece {
  const counts = Object.fromEntries(
    SEVERITIES.map((v) => [v, s.findings.filter((f) => f.severity === v).length]),
  ) as Record<Severity, number>;
  const row = { file: s.file, events: s.events, seconds: s.seconds, counts };
  const json = [...s.findings.map((f) => findingJson(s, f, at(f))), summaryJson(s)];
  return { n, error: null, row, lines: lines(s, at), json };
}

/** @throws what is no complaint about the recording. */
export function notJudged(n: number, e: unknown): SanitizePiece {
  if (!(e instanceof ViommuError)) throw e;
  return { n, error: e.message, row: null, lines: [], json: [] };
}

const PAINT = { error: 'red', warning: 'yellow', hint: 'bold' } as const;

/** The severity of a finding in its colour. */
export function painted(line: string, io: Session): string {
  return line.replace(/^( {2}\d+\. )(error|warning|hint)\b/, (_, number: string, severity: Severity) => {
    return `${number}${io.paint(PAINT[severity], severity)}`;
  });
}

/** Tells of judged recordings one by one, and at the end of all: the same of one run and of several that are merged. */
export class SanitizeReport {
  readonly #io: Session;
  readonly #rows: SanitizedRow[] = [];
  #broken = 0;

  constructor(io: Session) {
    this.#io = io;
  }

  add(piece: SanitizePiece): void {
    if (piece.row === null) {
      this.#broken++;
      this.#io.err(`viommu sanitize: ${piece.error}`);
      return;
    }
    this.#rows.push(piece.row);
    if (this.#io.json) for (const o of piece.json) this.#io.out(JSON.stringify(o));
    else for (const line of piece.lines) this.#io.out(painted(line, this.#io));
  }

  /** @returns the exit status. */
  end(): number {
    if (!this.#io.json && this.#rows.length > 1)
      for (const line of ['', ...summaryTable(this.#rows)]) this.#io.out(line);
    if (this.#broken > 0) return EXIT.INPUT;
    const found = this.#rows.some((r) => SEVERITIES.some((v) => r.counts[v] > 0));
    return found ? EXIT.DIFFERS : EXIT.OK;
  }
}
