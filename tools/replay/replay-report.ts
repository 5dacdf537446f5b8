import { ViommuError } from '../../src/core/errors.ts';
import type { Session } from '../cli/session.ts';
import { EXIT } from '../cli/verb.ts';
import type { Piece } from '../shard/results.ts';
import { differences, type ShownReplay, summary, toJson } from './report.ts';
import type { Replayed } from './run.ts';

/** A recording that was replayed, or could not be, in a form that can be written down. */
export interface ReplayPiece extends Piece {
  /** Why it cannot be used; null: it was replayed. */
  readonly error: string | null;
  readonly replayed: StoredReplay | null;
}

type StoredReplay = Omit<Replayed, 'header' | 'commands' | 'hostOps'> & {
  readonly header: { readonly iommu: Replayed['header']['iommu'] };
  readonly commands: readonly (readonly [string, number])[];
  readonly hostOps: readonly (readonly [string, number])[];
};

/** @param n its number among the recordings. */
export function replayed(n: number, r: Replayed): ReplayPiece {
  const { iommu } = r.header;
  return { n, error: null, replayed: { ...r, header: { iommu }, commands: [...r.commands], hostOps: [...r.hostOps] } };
}

/** @throws what is no complaint about the recording. */
export function notReplayed(n: number, e: unknown): ReplayPiece {
  if (!(e instanceof ViommuError)) throw e;
  return { n, error: e.message, replayed: null };
}

/** Tells of replayed recordings one by one, and at the end of all: the same of one run and of several that are merged. */
export class ReplayReport {
  readonly #io: Session;
  readonly #done: ShownReplay[] = [];
  #broken = 0;

  constructor(io: Session) {
    this.#io = io;
  }

  add(piece: ReplayPiece): void {
    if (piece.replayed === null) {
      this.#broken++;
      this.#io.err(`viommu replay: ${piece.error}`);
      return;
    }
    const stored = piece.replayed;
    const r = { ...stored, commands: new Map(stored.commands), hostOps: new Map(stored.hostOps) };
    this.#done.push(r);
    if (this.#io.json) this.#io.out(JSON.stringify(toJson(r)));
    for (const line of differences(r)) (this.#io.json ? this.#io.err : this.#io.out)(line);
  }

  /** @returns the exit status. */
  end(): number {
    if (!this.#io.json && this.#done.length > 0)
      for (const line of summary(this.#done, this.#io.paint)) this.#io.out(line);
    if (this.#broken > 0) return EXIT.INPUT;
    return this.#done.every((r) => r.ok) ? EXIT.OK : EXIT.DIFFERS;
  }
}
