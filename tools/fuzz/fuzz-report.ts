import type { Piece } from '../shard/results.ts';

/** What a shard did on one target, in a form that can be written down. */
export interface FuzzPiece extends Piece {
  readonly target: string;
  /** Why it was not run; null: it was. */
  readonly missing: string | null;
  readonly seed: number;
  /** The numbers of its inputs, in order, as [first, distance, how many, steps of each]. */
  readonly ran: readonly (readonly [number, number, number, number])[];
  /** Inputs that were dearer than those of the shard before them: number, milliseconds. */
  readonly peaks: readonly (readonly [number, number])[];
  readonly found: FoundInput | null;
  readonly seconds: number;
}

/** An input that failed, and the file it was written to. */
export interface FoundInput {
  readonly index: number;
  readonly error: string;
  readonly before: number;
  readonly steps: number;
  readonly path: string;
}

/** Puts numbers of inputs with the same distance and the same number of steps together. */
export class InputsRan {
  readonly runs: [number, number, number, number][] = [];

  add(index: number, steps: number): void {
    const last = this.runs.at(-1);
    if (last === undefined || last[3] !== steps) this.runs.push([index, 1, 1, steps]);
    else if (last[2] === 1) last.splice(1, 2, index - last[0], 2);
    else if (index === last[0] + last[1] * last[2]) last[2]++;
    else this.runs.push([index, 1, 1, steps]);
  }
}

/** What the shards did on one target, as one run would have: it would have ended at the first input that failed. */
export function combined(
  pieces: readonly FuzzPiece[],
): FuzzPiece & { readonly inputs: number; readonly steps: number; readonly cost: number } {
  const [first] = pieces;
  if (first === undefined) throw new RangeError('no shard');
  let found: FoundInput | null = null;
  for (const p of pieces) if (p.found !== null && (found === null || p.found.index < found.index)) found = p.found;
  const last = found?.index ?? Number.POSITIVE_INFINITY;
  let [inputs, steps, cost, seconds] = [0, 0, 0, 0];
  for (const p of pieces) {
    seconds += p.seconds;
    for (const [from, distance, count, each] of p.ran) {
      const within = from > last ? 0 : Math.min(count, Math.floor((last - from) / distance) + 1);
      inputs += within;
      steps += within * each;
    }
    for (const [index, milliseconds] of p.peaks) if (index < last) cost = Math.max(cost, milliseconds);
  }
  return {
    ...first,
    missing: pieces.find((p) => p.missing !== null)?.missing ?? null,
    found,
    seconds,
    inputs,
    steps,
    cost,
  };
}

/** What is told of a target, in lines. */
export function fuzzLines(p: ReturnType<typeof combined>): string[] {
  const { target, seed, inputs, steps, cost, found } = p;
  if (p.missing !== null) return [`${target}: not run: ${p.missing}`];
  const dearest = cost > 0 ? `, dearest access ${cost.toFixed(1)} ms` : '';
  if (found === null)
    return [
      `${target}: seed ${seed}: ${inputs} inputs, ${steps} steps in ${p.seconds.toFixed(1)} s${dearest}: nothing found`,
    ];
  return [
    `${target}: seed ${seed}, input ${found.index}: ${found.before} steps, cut to ${found.steps}: ${found.path}`,
    found.error,
  ];
}

/** What a program is told of a target. */
export function fuzzJson(p: ReturnType<typeof combined>): object {
  const { target, missing, seed, inputs, steps, cost, found } = p;
  return { target, missing, seed, inputs, steps, cost, found, seconds: Math.round(p.seconds * 1000) / 1000 };
}
