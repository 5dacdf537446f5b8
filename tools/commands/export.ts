import { parseArgs } from 'node:util';
import type { MakeReplayTarget } from '../../src/trace/index.ts';
import { type Command, EXIT, usageError } from '../cli/command.ts';
import { FORMATS } from '../export/formats.ts';
import { exportTrace } from '../export/run.ts';
import { REPLAY_OPTIONS, replayOptions } from './replay.ts';

const USAGE = `usage: viommu export --to FORMAT [OPTIONS] TRACE

Replays a recording and writes what happened as a file of another program. TRACE may be - (standard input).

  --to perfetto   Perfetto's TrackEvent protobuf (open it at https://ui.perfetto.dev): a track per lane, arrows from
                  cause to effect; a recording has an order and no times, so each moment lasts a microsecond
  --to vcd        a value change dump of registers and interrupts, for GTKWave and its like; time is the event number
  --to csv        one line per DMA access
  --to json       one object per line: the machine, then every moment with what caused it
  --output FILE   where to write (default: standard output)
  --profile NAME, --caches full|off|tiny, --ignore-invalidations, --batch-quirk   as for replay

Exit status: 0 written, 1 written, but the replay differs from the recording, 2 the input or output cannot be used.

  viommu export --to perfetto --output boot.pftrace smmuv3-boot.ndjson.gz`;

/** `viommu export` of recordings replayed on machines made by `make`. */
export function exportCommand(make: MakeReplayTarget): Command {
  return {
    name: 'export',
    summary: 'a recording as a Perfetto trace, value change dump, CSV or JSON',
    usage: USAGE,
    async run(args, io) {
      const { values, positionals } = parseArgs({
        args: [...args],
        options: { ...REPLAY_OPTIONS, to: { type: 'string' }, output: { type: 'string' } },
        allowPositionals: true,
      });
      const names = Object.keys(FORMATS);
      if (values.to === undefined) throw usageError(`expected --to ${names.join('|')}`);
      const format = Object.hasOwn(FORMATS, values.to) ? FORMATS[values.to] : undefined;
      if (format === undefined) throw usageError(`--to: expected ${names.join(', ')}, found "${values.to}"`);
      const [path] = positionals;
      if (path === undefined || positionals.length > 1) throw usageError('expected one recording');
      if (format.binary && values.output === undefined && process.stdout.isTTY)
        throw usageError(`${values.to} is binary: say --output FILE, or send the standard output to one`);
      const to = values.output ?? null;
      const { events, differing } = await exportTrace(path, make, replayOptions(values), format.make, to);
      io.err(
        `${path}: ${events} events exported${differing === 0 ? '' : `, ${differing} differences to the recording`}`,
      );
      return differing === 0 ? EXIT.OK : EXIT.DIFFERS;
    },
  };
}
