import { parseArgs } from 'node:util';
import { Heard, type MakeReplayTarget, Replay, type ReplayOptions } from '../../src/trace/index.ts';
import { openTrace } from '../../src/trace/node.ts';
import { type Command, EXIT, type Io, usageError } from '../cli/command.ts';
import { Guest } from '../explain/guest.ts';
import { HostObjects } from '../explain/objects.ts';
import { explainSmmuv3 } from '../explain/smmuv3.ts';
import { explainVtd } from '../explain/vtd.ts';
import { build } from '../replay/run.ts';
import { REPLAY_OPTIONS, replayOptions } from './replay.ts';

const USAGE = `usage: viommu explain [OPTIONS] TRACE

What the guest has built, and what stands behind it: registers, stream table or root table, contexts, page tables, the
host's objects, cached translations.

  --at N       the state before event N (default: after the last event)
  --all        every range of every page table (default: the first eight of each)
  --profile NAME, --caches full|off|tiny, --ignore-invalidations, --batch-quirk   as for replay`;

const FEW = 8;

function eventNumber(text: string | undefined): number {
  if (text === undefined) return Number.POSITIVE_INFINITY;
  const n = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(n))
    throw usageError(`--at: expected an event number, found "${text}"`);
  return n;
}

/** `viommu explain` on machines made by `make`. */
export function explainCommand(make: MakeReplayTarget): Command {
  return {
    name: 'explain',
    summary: 'registers, tables, host objects and cached translations at one event of a recording',
    usage: USAGE,
    async run(args, io) {
      const { values, positionals } = parseArgs({
        args: [...args],
        options: { ...REPLAY_OPTIONS, at: { type: 'string' }, all: { type: 'boolean' } },
        allowPositionals: true,
      });
      const [path] = positionals;
      if (path === undefined || positionals.length > 1) throw usageError('expected one recording');
      await explainTrace(path, make, replayOptions(values), eventNumber(values.at), values.all ?? false, io);
      return EXIT.OK;
    },
  };
}

/** Writes what there is before event `at` of a recording. @throws ViommuError `E_USAGE` when it ends before. */
export async function explainTrace(
  path: string,
  make: MakeReplayTarget,
  options: ReplayOptions,
  at: number,
  all: boolean,
  io: Io,
): Promise<void> {
  const trace = await openTrace(path);
  const heard = new Heard();
  const objects = new HostObjects();
  heard.also = objects.tell;
  const target = build(trace, make, options, heard);
  const replay = new Replay(trace.header, target, heard);
  read: for await (const batch of trace.batches) {
    for (const e of batch) {
      if (e.i >= at) break read;
      replay.apply(e);
    }
  }
  if (at !== Number.POSITIVE_INFINITY && replay.events < at)
    throw usageError(`--at ${at}: ${trace.file} has only ${replay.events} events`);

  const limit = all ? Number.POSITIVE_INFINITY : FEW;
  const where = replay.events === at ? `before event ${at}` : `after all ${replay.events} events`;
  io.out(`${trace.file} (${trace.header.guestKernel}), ${where}`);
  heard.also = null;
  const guest = new Guest(target);
  const lines = trace.header.iommu === 'smmuv3' ? explainSmmuv3 : explainVtd;
  for (const line of ['', ...lines(guest, trace.header, limit), '', ...objects.lines()]) io.out(line);
  for (const line of target.explain?.(limit) ?? []) io.out(line);
}
