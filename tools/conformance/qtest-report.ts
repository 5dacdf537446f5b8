import type { Session } from '../cli/session.ts';
import { EXIT } from '../cli/verb.ts';
import type { Piece } from '../shard/results.ts';

/** One changed transcript on our machine and on QEMU. */
export interface QtestPiece extends Piece {
  readonly name: string;
  readonly came: 'same' | 'different' | 'skipped';
  /** What was changed and which replies differ; empty unless `different`. */
  readonly lines: readonly string[];
}

/** Tells of changed transcripts, in the order of their numbers. */
export class QtestReport {
  readonly #io: Pick<Session, 'json' | 'out'>;
  #runs = 0;
  #different = 0;
  #skipped = 0;

  constructor(io: Pick<Session, 'json' | 'out'>) {
    this.#io = io;
  }

  add(piece: QtestPiece): void {
    this.#runs++;
    if (piece.came === 'different') this.#different++;
    if (piece.came === 'skipped') this.#skipped++;
    if (this.#io.json) this.#io.out(JSON.stringify(piece));
    else for (const line of piece.lines) this.#io.out(line);
  }

  /** @returns the exit status: differences are to be looked at, and fail nothing by themselves. */
  end(): number {
    if (!this.#io.json) this.#io.out(`${this.#runs} runs, ${this.#different} different, ${this.#skipped} skipped`);
    return EXIT.OK;
  }
}
