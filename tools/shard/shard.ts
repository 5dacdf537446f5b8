import { usageError } from '../cli/verb.ts';

/** One part of a campaign that several machines share. */
export interface Shard {
  /** From 1 on. */
  readonly index: number;
  readonly count: number;
}

/** All of it. */
export const WHOLE: Shard = { index: 1, count: 1 };
/** More machines than anybody gives to this. */
const MOST = 100_000;

/** Reads `I/N`. @throws ViommuError `E_USAGE`. */
export function parseShard(text: string): Shard {
  const m = /^(\d+)\/(\d+)$/.exec(text);
  const [index, count] = [Number(m?.[1]), Number(m?.[2])];
  if (m === null || index < 1 || count < index || count > MOST)
    throw usageError(`--shard: expected I/N with I from 1 to N, found "${text}"`);
  return { index, count };
}

/** Whether piece number `n`, from 0 on, belongs to a shard. */
export function belongs(shard: Shard, n: number): boolean {
  return n % shard.count === shard.index - 1;
}
