import { Heard, type MakeReplayTarget, Replay, type ReplayOptions } from '../../src/trace/index.ts';
import { openTrace } from '../../src/trace/node.ts';
import { atLeast } from '../cli/parser.ts';
import type { Session } from '../cli/session.ts';
import { type Command, EXIT, usageError } from '../cli/verb.ts';
import { Guest } from '../explain/guest.ts';
import { HostObjects } from '../explain/objects.ts';
import { explainSmmuv3 } from '../explain/smmuv3.ts';
import { explainVtd } from '../explain/vtd.ts';
import { build } from '../replay/machine.ts';
import { declareReplay, type ReplayValues, replayOptions } from './replay.ts';

const FEW = 8;

interface Values extends ReplayValues {
  readonly at?: number;
  readonly all?: boolean;
}

/** `viommu explain` on machines made by `make`. */
export function explainCommand(make: MakeReplayTarget): Command {
  return {
    name: 'explain',
    summary: 'registers, tables, host objects and cached translations at one event of a recording',
    about: `What the guest has built, and what stands behind it: registers, stream table or root table, contexts, page tables, the
host's objects, cached translations.`,
    notes: 'With --json one object per section: its title, and its lines as they are without it.',
    examples: ['viommu explain --at 1200 boot.ndjson.gz'],
    declare(parser) {
      parser
        .argument('<trace>', 'one recording')
        .option('--at <n>', 'the state before event N (default: after the last event)', atLeast(0))
        .option('--all', 'every range of every page table (default: the first eight of each)');
      declareReplay(parser);
    },
    async run([path = ''], values: Values, io) {
      const { at = Number.POSITIVE_INFINITY, all = false } = values;
      await explainTrace(path, make, replayOptions(values), at, all, io);
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
  io: Session,
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
    io.progress(`${path}: ${replay.events} events`);
  }
  if (at !== Number.POSITIVE_INFINITY && replay.events < at)
    throw usageError(`--at ${at}: ${trace.file} has only ${replay.events} events`);

  const limit = all ? Number.POSITIVE_INFINITY : FEW;
  const where = replay.events === at ? `before event ${at}` : `after all ${replay.events} events`;
  heard.also = null;
  const guest = new Guest(target);
  const words = trace.header.iommu === 'smmuv3' ? explainSmmuv3 : explainVtd;
  const lines = [...words(guest, trace.header, limit), '', ...objects.lines(), ...(target.explain?.(limit) ?? [])];
  if (io.json) {
    const before = replay.events === at ? at : null;
    io.out(JSON.stringify({ trace: trace.file, kernel: trace.header.guestKernel, events: replay.events, before }));
    for (const section of sections(lines)) io.out(JSON.stringify(section));
    return;
  }
  io.out(`${trace.file} (${trace.header.guestKernel}), ${where}`);
  for (const line of ['', ...lines]) io.out(line);
}

interface Section {
  readonly title: string;
  readonly lines: string[];
}

/** What is indented belongs to the title above it. */
function sections(lines: readonly string[]): Section[] {
  const all: Section[] = [];
  for (const line of lines) {
    if (line === '') continue;
    if (line.startsWith(' ')) all.at(-1)?.lines.push(line.slice(2));
    else all.push({ title: line, lines: [] });
  }
  return all;
}
