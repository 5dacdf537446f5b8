import type { Command as Parser } from 'commander';
import type { MakeReplayTarget, ReplayOptions } from '../../src/trace/index.ts';
import { oneOf } from '../cli/parser.ts';
import type { Session } from '../cli/session.ts';
import type { Command } from '../cli/verb.ts';
import { notReplayed, type ReplayPiece, ReplayReport, replayed } from '../replay/replay-report.ts';
import { type Replayed, replayFile, type Watch } from '../replay/run.ts';
import { declareShard, type ShardValues } from '../shard/options.ts';
import { writeResults } from '../shard/results.ts';
import { belongs, WHOLE } from '../shard/shard.ts';

/** Options of every command that replays, by their names in camel case. */
export interface ReplayValues {
  readonly profile?: string;
  readonly caches?: 'full' | 'off' | 'tiny';
  readonly ignoreInvalidations?: boolean;
  readonly batchQuirk?: boolean;
}

/** Declares the options of every command that replays. */
export function declareReplay(parser: Parser): void {
  parser
    .option('--profile <name>', 'qemu-11.1 (default) or arch')
    .addOption(
      oneOf('--caches <how>', 'caches of the physical IOMMU: full (default), off or tiny', ['full', 'off', 'tiny']),
    )
    .option(
      '--ignore-invalidations',
      "debugging: the guest's invalidations are swallowed; stale translations must show",
    )
    .option('--batch-quirk', "host batches with Linux's partial counts instead of the safe rule");
}

/** The same for the library. */
export function replayOptions(values: ReplayValues): ReplayOptions {
  return {
    ...(values.profile === undefined ? {} : { profile: values.profile }),
    ...(values.caches === undefined ? {} : { caches: values.caches }),
    ignoreInvalidations: values.ignoreInvalidations ?? false,
    batchQuirk: values.batchQuirk ?? false,
  };
}

/** `viommu replay` on machines made by `make`. */
export function replayCommand(make: MakeReplayTarget): Command {
  return {
    name: 'replay',
    summary: 'replay recorded guests and compare everything with the recording',
    about: `Replays viommu-trace files: stands up the machine each describes, feeds it the guest's stores and register
accesses in order, and compares register reads, translations, faults, records, interrupts and command counts.`,
    notes: 'Exit status: 0 everything matched, 1 something differs, 2 the input cannot be used.',
    examples: ['viommu replay --json boot.ndjson.gz'],
    declare(parser) {
      declareReplay(parser.argument('<trace...>', 'at least one recording (- is the standard input)'));
      declareShard(parser);
    },
    run(paths, values: ReplayValues & ShardValues, io) {
      return replayAll(paths, make, replayOptions(values), values, io);
    },
  };
}

/** Replays in order. A file that cannot be used is reported and does not keep the others from being replayed. */
async function replayAll(
  paths: readonly string[],
  make: MakeReplayTarget,
  options: ReplayOptions,
  values: ShardValues,
  io: Session,
): Promise<number> {
  const shard = values.shard ?? WHOLE;
  const report = new ReplayReport(io);
  const done: ReplayPiece[] = [];
  for (const [n, path] of paths.entries()) {
    if (!belongs(shard, n)) continue;
    const piece = await replayOne(path, make, options, io).then(
      (r) => replayed(n, r),
      (e) => notReplayed(n, e),
    );
    report.add(piece);
    if (values.results !== undefined) done.push(piece);
  }
  if (values.results !== undefined) {
    const campaign = { options, inputs: paths };
    await writeResults(values.results, { verb: 'replay', campaign, pieces: paths.length, shard, done });
  }
  return report.end();
}

/** One recording, with progress. */
export async function replayOne(
  path: string,
  make: MakeReplayTarget,
  options: ReplayOptions,
  io: Session,
  watch: Watch = {},
): Promise<Replayed> {
  const r = await replayFile(path, make, options, {
    ...watch,
    progress: (events, differing) =>
      io.progress(`${path}: ${events} events${differing === 0 ? '' : `, ${differing} differences`}`),
  });
  io.note(`${r.file}: ${r.events} events in ${r.seconds.toFixed(2)} s, ${r.ok ? 'all as recorded' : 'DIFFERS'}`);
  return r;
}
