import { parseArgs } from 'node:util';
import { ViommuError } from '../../src/core/errors.ts';
import type { MakeReplayTarget, ReplayOptions } from '../../src/trace/index.ts';
import { type Command, EXIT, type Io, usageError } from '../cli/command.ts';
import { differences, summary, toJson } from '../replay/report.ts';
import { type Replayed, replayFile, type Watch } from '../replay/run.ts';

const USAGE = `usage: viommu replay [OPTIONS] TRACE...

Replays viommu-trace files: stands up the machine each describes, feeds it the guest's stores and register
accesses in order, and compares register reads, translations, faults, records, interrupts and command counts.

  --json                  one JSON object per recording on standard output
  --profile NAME          qemu-11.1 (default) or arch
  --caches full|off|tiny  caches of the physical IOMMU (default full)
  --ignore-invalidations  debugging: the guest's invalidations are swallowed; stale translations must show
  --batch-quirk           host batches with Linux's partial counts instead of the safe rule

Exit status: 0 everything matched, 1 something differs, 2 the input cannot be used.`;

const CACHES = ['full', 'off', 'tiny'] as const;

/** Options of every command that replays. */
export const REPLAY_OPTIONS = {
  profile: { type: 'string' },
  caches: { type: 'string' },
  'ignore-invalidations': { type: 'boolean' },
  'batch-quirk': { type: 'boolean' },
} as const;

export interface ReplayValues {
  readonly profile?: string | undefined;
  readonly caches?: string | undefined;
  readonly 'ignore-invalidations'?: boolean | undefined;
  readonly 'batch-quirk'?: boolean | undefined;
}

/** @throws ViommuError `E_USAGE`. */
export function replayOptions(values: ReplayValues): ReplayOptions {
  const caches = CACHES.find((c) => c === values.caches);
  if (values.caches !== undefined && caches === undefined)
    throw usageError(`--caches: expected full, off or tiny, found "${values.caches}"`);
  return {
    ...(values.profile === undefined ? {} : { profile: values.profile }),
    ...(caches === undefined ? {} : { caches }),
    ignoreInvalidations: values['ignore-invalidations'] ?? false,
    batchQuirk: values['batch-quirk'] ?? false,
  };
}

/** `viommu replay` on machines made by `make`. */
export function replayCommand(make: MakeReplayTarget): Command {
  return {
    name: 'replay',
    summary: 'replay recorded guests and compare everything with the recording',
    usage: USAGE,
    async run(args, io) {
      const { values, positionals } = parseArgs({
        args: [...args],
        options: { ...REPLAY_OPTIONS, json: { type: 'boolean' } },
        allowPositionals: true,
      });
      if (positionals.length === 0) throw usageError('expected at least one recording');
      return replayAll(positionals, make, replayOptions(values), values.json ?? false, io);
    },
  };
}

/** Replays in order. A file that cannot be used is reported and does not keep the others from being replayed. */
async function replayAll(
  paths: readonly string[],
  make: MakeReplayTarget,
  options: ReplayOptions,
  json: boolean,
  io: Io,
): Promise<number> {
  const done: Replayed[] = [];
  let broken = 0;
  for (const path of paths) {
    try {
      const r = await replayOne(path, make, options, io);
      done.push(r);
      if (json) io.out(JSON.stringify(toJson(r)));
      for (const line of differences(r)) (json ? io.err : io.out)(line);
    } catch (e) {
      if (!(e instanceof ViommuError)) throw e;
      broken++;
      io.err(`viommu replay: ${e.message}`);
    }
  }
  if (!json && done.length > 0) for (const line of summary(done)) io.out(line);
  if (broken > 0) return EXIT.INPUT;
  return done.every((r) => r.ok) ? EXIT.OK : EXIT.DIFFERS;
}

/** One recording, with progress on `io.err`. */
export async function replayOne(
  path: string,
  make: MakeReplayTarget,
  options: ReplayOptions,
  io: Io,
  watch: Watch = {},
): Promise<Replayed> {
  const r = await replayFile(path, make, options, {
    ...watch,
    progress: (events, differing) =>
      io.err(`${path}: ${events} events${differing === 0 ? '' : `, ${differing} differences`}`),
  });
  io.err(`${r.file}: ${r.events} events in ${r.seconds.toFixed(2)} s, ${r.ok ? 'all as recorded' : 'DIFFERS'}`);
  return r;
}
