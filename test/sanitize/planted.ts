import type { TraceEvent } from '../../src/trace/index.ts';
import { errors, type Recording, recording, rewritten, type Submitted, submitted } from './spoil.ts';

type Words = readonly [number, number, number, number];

/** A bug to plant: which command of a recording, and what becomes of it. */
export interface Planted {
  readonly bug: string;
  readonly trace: string;
  readonly is: (w: Words) => boolean;
  readonly to: (w: Words) => readonly number[];
  readonly rule: string;
}

export const op = (code: number) => (w: Words) => (w[0] & 0xff) === code;
export const type =
  (code: number, g = -1) =>
  (w: Words) =>
    (w[0] & 0xf) === code && (g < 0 || ((w[0] >>> 4) & 3) === g);

/** What a command is turned into to withhold it: CMD_PREFETCH_CONFIG, or a wait that only fences. */
export const NO_COMMAND = () => [1, 0x20, 0, 0];
export const NO_DESCRIPTOR = () => [0x45, 0, 0, 0];

/** Adds to a word. */
export const plus =
  (word: number, n: number) =>
  (w: Words): number[] =>
    w.map((v, i) => (i === word ? v + n : v));
/** Clears bits of a word and sets others. */
export const bits =
  (word: number, clear: number, set = 0) =>
  (w: Words): number[] =>
    w.map((v, i) => (i === word ? (v & ~clear) | set : v));

/** A recording with one command after the other spoiled, until a rule finds something: what was found of error level. */
export async function plant(p: Planted): Promise<string[]> {
  const r = await recording(p.trace);
  for (const c of candidates(r, p)) {
    const found = errors(r.header, rewritten(r, c, p.to(c.words)));
    if (found.length > 0) return found;
  }
  return [];
}

/** Commands of the kind, all or some forty spread over the recording: not every one is followed by something that shows it. */
function candidates(r: Recording, p: Planted): Submitted[] {
  const all = submitted(r).filter((c) => p.is(c.words) && c.stores.some((s) => s >= 0));
  const step = Math.max(1, Math.floor(all.length / 40));
  return all.filter((_, n) => n % step === step >> 1);
}

/** The events without some. */
export function without(events: readonly TraceEvent[], gone: (e: TraceEvent) => boolean): TraceEvent[] {
  return events.filter((e) => !gone(e)).map((e, i) => ({ ...e, i }));
}
