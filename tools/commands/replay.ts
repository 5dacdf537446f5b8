import type { Command as Parser } from 'commander';
import { ViommuError } from '../../src/core/errors.ts';
import type { MakeReplayTarget, ReplayOptions } from '../../src/trace/index.ts';
import { oneOf } from '../cli/parser.ts';
import type { Session } from '../cli/session.ts';
import { type Command, EXIT } from '../cli/verb.ts';
import { differences, summary, toJson } from '../replay/report.ts';
import { type Replayed, replayFile, type Watch } from '../replay/run.ts';

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
    },
    run(paths, values: ReplayValues, io) {
      return replayAll(paths, make, replayOptions(values), io);
    },
  };
}

/** Replays in order. A file that cannot be used is reported and does not keep the others from being replayed. */
async function replayAll(
  paths: readonly string[],
  make: MakeReplayTarget,
  options: ReplayOptions,
  io: Session,
): Promise<number> {
  const done: Replayed[] = [];
  let broken = 0;
  for (const path of paths) {
    try {
      const r = await replayOne(path, make, options, io);
      done.push(r);
      if (io.json) io.out(JSON.stringify(toJson(r)));
      for (const line of differences(r)) (io.json ? io.err : io.out)(line);
    } catch (e) {
      if (!(e instanceof ViommuError)) throw e;
      broken++;
      io.err(`viommu replay: ${e.message}`);
    }
  }
  if (!io.json && done.length > 0) for (const line of summary(done, io.paint)) io.out(line);
  if (broken > 0) return EXIT.INPUT;
  return done.every((r) => r.ok) ? EXIT.OK : EXIT.DIFFERS;
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
