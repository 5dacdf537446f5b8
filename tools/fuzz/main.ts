import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ViommuError } from '../../src/core/errors.ts';
import { writeResults } from '../shard/results.ts';
import { parseShard, type Shard, WHOLE } from '../shard/shard.ts';
import { fuzz, tried } from './fuzz.ts';
import { type combined, fuzzLines } from './fuzz-report.ts';
import { readInput, writeInput } from './input-file.ts';
import type { FuzzTarget } from './target.ts';
import { TARGETS } from './targets/index.ts';

const EXIT = { NONE: 0, FOUND: 1, USAGE: 2 } as const;

const HELP = `usage: npm run fuzz -- TARGET [--minutes N | --inputs N] [--seed S] [--length N] [--out FOLDER]
       npm run fuzz -- TARGET --replay FILE
       npm run fuzz -- --list

Tries random inputs on a part of the package until one fails, cuts that to what is needed, and writes it to a file.

  TARGET         one of --list, or "all": each for the time given
  --minutes N    how long (default 1; fractions are fine)
  --inputs N     how many inputs, instead of a time: the same ones for the same seed
  --seed S       any integer (default 1); the same seed gives the same inputs
  --length N     steps of an input (default: the target's)
  --out FOLDER   where a failing input is written (default: here)
  --shard I/N    only every N-th input of the seed, beginning with number I (from 1 on)
  --results FILE also writes what "viommu merge" joins
  --replay FILE  runs such a file again, and says what is wrong

Example:  npm run fuzz -- queues --minutes 10 --seed 7
          npm run fuzz -- queues --replay fuzz-queues-7-1234.json

Exit status: 0 nothing was found, 1 something was, 2 the command line or the file cannot be used.`;

function named(targets: readonly FuzzTarget[], name: string): FuzzTarget {
  const target = targets.find((t) => t.name === name);
  if (target === undefined) {
    const known = targets.map((t) => t.name).join(', ');
    throw new ViommuError('E_USAGE', 'caller', `there is no target "${name}": ${known}`);
  }
  return target;
}

function number(name: string, text: string, lowest: number): number {
  const value = Number(text);
  if (text === '' || !Number.isFinite(value) || value < lowest) {
    throw new ViommuError('E_USAGE', 'caller', `--${name}: expected a number from ${lowest} on, found "${text}"`);
  }
  return value;
}

async function replay(target: FuzzTarget, path: string): Promise<number> {
  const saved = readInput(path);
  if (saved.target !== target.name) {
    throw new ViommuError('E_USAGE', 'caller', `${path} is of the target "${saved.target}"`);
  }
  const error = await tried(target, saved.input);
  console.log(error === null ? `${target.name}: nothing is wrong any more` : error);
  return error === null ? EXIT.NONE : EXIT.FOUND;
}

/** What came out of one target, ready to be told and to be written down. */
type FuzzedPiece = ReturnType<typeof combined>;

interface Wanted {
  readonly seed: number;
  readonly minutes: number;
  readonly inputs: number | null;
  readonly length: number | null;
  readonly out: string;
  readonly shard: Shard;
  readonly results: string | null;
}

/** Runs one target. @param n its number among those of the command line. */
async function run(target: FuzzTarget, n: number, o: Wanted): Promise<FuzzedPiece> {
  const missing = target.missing?.() ?? null;
  if (missing !== null) {
    const nothing = { ran: [], peaks: [], found: null, seconds: 0, inputs: 0, steps: 0, cost: 0 };
    return { n, target: target.name, missing, seed: o.seed, ...nothing };
  }
  const start = performance.now();
  const result = await fuzz(target, {
    seed: o.seed,
    shard: o.shard,
    detailed: o.results !== null,
    ...(o.inputs === null ? { milliseconds: o.minutes * 60_000 } : { inputs: o.inputs }),
    ...(o.length === null ? {} : { length: o.length }),
    progress: (inputs, steps, cost) =>
      console.error(
        `${target.name}: ${inputs} inputs, ${steps} steps${cost > 0 ? `, dearest ${cost.toFixed(1)}` : ''}`,
      ),
  });
  const { inputs, steps, cost, ran, peaks } = result;
  const seconds = (performance.now() - start) / 1000;
  const base = { n, target: target.name, missing: null, seed: o.seed, ran, peaks, seconds, inputs, steps, cost };
  if (result.found === null) return { ...base, found: null };
  const { index, error, input, before } = result.found;
  const path = join(o.out, `fuzz-${target.name}-${o.seed}-${index}.json`);
  writeInput(path, { target: target.name, seed: o.seed, index, error, input });
  return { ...base, found: { index, error, before, steps: input.steps.length, path } };
}

async function main(args: readonly string[], targets: readonly FuzzTarget[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    options: {
      minutes: { type: 'string', default: '1' },
      inputs: { type: 'string' },
      seed: { type: 'string', default: '1' },
      length: { type: 'string' },
      out: { type: 'string', default: '.' },
      replay: { type: 'string' },
      shard: { type: 'string' },
      results: { type: 'string' },
      list: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
    allowPositionals: true,
  });
  if (values.help) {
    console.log(HELP);
    return EXIT.NONE;
  }
  if (values.list) {
    for (const t of targets) console.log(`${t.name.padEnd(12)}${t.summary}`);
    return EXIT.NONE;
  }
  const [name, ...rest] = positionals;
  if (name === undefined || rest.length > 0) throw new ViommuError('E_USAGE', 'caller', 'expected one target (--list)');
  if (values.replay !== undefined) return await replay(named(targets, name), values.replay);
  const wanted = {
    seed: Math.trunc(number('seed', values.seed, -(2 ** 53))),
    minutes: number('minutes', values.minutes, 0),
    inputs: values.inputs === undefined ? null : Math.trunc(number('inputs', values.inputs, 1)),
    length: values.length === undefined ? null : Math.trunc(number('length', values.length, 1)),
    out: values.out,
    shard: values.shard === undefined ? WHOLE : parseShard(values.shard),
    results: values.results ?? null,
  };
  const done: FuzzedPiece[] = [];
  for (const [n, target] of (name === 'all' ? targets : [named(targets, name)]).entries()) {
    const piece = await run(target, n, wanted);
    done.push(piece);
    for (const line of fuzzLines(piece)) console.log(line);
  }
  if (wanted.results !== null) {
    const { shard, results, out, ...campaign } = wanted;
    await writeResults(results, {
      verb: 'fuzz',
      campaign: { ...campaign, target: name },
      pieces: done.length,
      shard,
      done,
    });
  }
  return done.some((p) => p.found !== null) ? EXIT.FOUND : EXIT.NONE;
}

/** Runs a command line. @returns the exit status. */
export async function fuzzMain(args: readonly string[], targets = TARGETS): Promise<number> {
  try {
    return await main(args, targets);
  } catch (e) {
    const usage =
      e instanceof ViommuError || (e instanceof Error && 'code' in e && String(e.code).startsWith('ERR_PARSE'));
    if (!usage) throw e;
    console.error(`fuzz: ${(e as Error).message}`);
    console.error(HELP.split('\n')[0]);
    return EXIT.USAGE;
  }
}

if (import.meta.filename === process.argv[1]) process.exitCode = await fuzzMain(process.argv.slice(2));
