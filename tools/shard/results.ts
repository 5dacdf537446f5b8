import { readFileSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { ViommuError } from '../../src/core/errors.ts';
import { openOutput } from '../files/output.ts';
import type { Shard } from './shard.ts';

/** A piece of a campaign that was done: its number among all pieces, and what came out. */
export interface Piece {
  readonly n: number;
}

/** What one machine did of a campaign, as `--results FILE` writes it and `viommu merge` reads it. */
export interface Results<P extends Piece = Piece> {
  readonly format: 'viommu-results';
  readonly version: 1;
  /** Whose results these are. */
  readonly verb: string;
  /** What was asked for: the same for all shards of a campaign. */
  readonly campaign: object;
  /** How many pieces the campaign has. */
  readonly pieces: number;
  readonly shard: Shard;
  readonly done: readonly P[];
}

function wrong(path: string, what: string): ViommuError {
  return new ViommuError('E_TRACE_FORMAT', 'caller', `${path}: ${what}`);
}

/** @throws ViommuError `EIO`. */
export async function writeResults(path: string, results: Omit<Results, 'format' | 'version'>): Promise<void> {
  const output = openOutput(path);
  try {
    output.write(`${JSON.stringify({ format: 'viommu-results', version: 1, ...results })}\n`);
    await output.finished();
  } catch (e) {
    await output.discard();
    throw e;
  }
}

/** @throws ViommuError `E_MISSING`, `E_TRACE_FORMAT`, `E_VERSION`. */
export function readResults(path: string): Results {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (e) {
    const why = e instanceof Error && 'code' in e && e.code === 'ENOENT' ? 'no such file' : String(e);
    throw new ViommuError('E_MISSING', 'caller', `${path}: cannot be read: ${why}`, {}, e);
  }
  let found: Partial<Results>;
  try {
    found = JSON.parse(text) as Partial<Results>;
  } catch (e) {
    throw new ViommuError('E_TRACE_FORMAT', 'caller', `${path}: is no file of --results, or half of one`, {}, e);
  }
  if (found === null || typeof found !== 'object' || found.format !== 'viommu-results')
    throw wrong(path, 'is no file of --results');
  if (found.version !== 1)
    throw new ViommuError('E_VERSION', 'caller', `${path}: version ${found.version}, expected 1`);
  const { verb, campaign, pieces, shard, done } = found;
  const whole =
    typeof verb === 'string' &&
    typeof campaign === 'object' &&
    Number.isSafeInteger(pieces) &&
    Number.isSafeInteger(shard?.index) &&
    Number.isSafeInteger(shard?.count) &&
    Array.isArray(done) &&
    done.every((p: unknown) => typeof p === 'object' && p !== null && Number.isSafeInteger((p as Piece).n));
  if (!whole) throw wrong(path, 'is no whole file of --results');
  return found as Results;
}

/**
 * Puts the shards of one campaign together.
 * @returns every piece in order of its number. @throws ViommuError `EINVAL` when they are not one campaign, or not all of it.
 */
export function together(files: readonly (readonly [path: string, results: Results])[]): {
  readonly verb: string;
  readonly campaign: object;
  readonly pieces: number;
  readonly done: readonly Piece[];
} {
  const refuse = (what: string): never => {
    throw new ViommuError('EINVAL', 'caller', what);
  };
  const [first, ...others] = files;
  if (first === undefined) return refuse('expected files of --results');
  const [path, { verb, campaign, pieces, shard }] = first;
  for (const [other, r] of others) {
    const same = r.verb === verb && r.pieces === pieces && r.shard.count === shard.count;
    if (!same || !isDeepStrictEqual(r.campaign, campaign))
      refuse(`${other} is of another campaign than ${path}: verb, options and inputs have to be the same`);
  }
  const of = new Map<number, string>();
  for (const [name, r] of files) {
    const twice = of.get(r.shard.index);
    if (twice !== undefined) refuse(`${twice} and ${name} are both shard ${r.shard.index}/${shard.count}`);
    of.set(r.shard.index, name);
  }
  const missing: number[] = [];
  for (let n = 1; n <= shard.count; n++) if (!of.has(n)) missing.push(n);
  if (missing.length > 0)
    refuse(
      `shard ${missing.slice(0, 5).join(', ')}${missing.length > 5 ? ' and more' : ''} of ${shard.count} is missing`,
    );
  const done = files.flatMap(([, r]) => r.done).toSorted((a, b) => a.n - b.n);
  return { verb, campaign, pieces, done };
}
