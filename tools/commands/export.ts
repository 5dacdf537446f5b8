import type { MakeReplayTarget } from '../../src/trace/index.ts';
import { oneOf } from '../cli/parser.ts';
import { type Command, EXIT, usageError } from '../cli/verb.ts';
import { FORMATS } from '../export/formats.ts';
import { exportTrace } from '../export/run.ts';
import { declareReplay, type ReplayValues, replayOptions } from './replay.ts';

interface Values extends ReplayValues {
  readonly to?: string;
  readonly output?: string;
}

/** `viommu export` of recordings replayed on machines made by `make`. */
export function exportCommand(make: MakeReplayTarget): Command {
  return {
    name: 'export',
    summary: 'a recording as a Perfetto trace, value change dump, CSV or JSON',
    about: `Replays a recording and writes what happened as a file of another program.

  perfetto   Perfetto's TrackEvent protobuf (open it at https://ui.perfetto.dev): a track per lane, arrows from
             cause to effect; a recording has an order and no times, so each moment lasts a microsecond
  vcd        a value change dump of registers and interrupts, for GTKWave and its like; time is the event number
  csv        one line per DMA access
  json       one object per line: the machine, then every moment with what caused it`,
    notes:
      'Exit status: 0 written, 1 written, but the replay differs from the recording, 2 the input or output cannot be used.',
    examples: ['viommu export --to perfetto --output boot.pftrace smmuv3-boot.ndjson.gz'],
    declare(parser) {
      parser
        .usage('--to FORMAT [options] <trace>')
        .argument('<trace>', 'one recording (- is the standard input)')
        .addOption(oneOf('--to <format>', 'perfetto, vcd, csv or json', Object.keys(FORMATS)))
        .option('--output <file>', 'where to write (default: standard output)');
      declareReplay(parser);
    },
    async run([path = ''], values: Values, io) {
      if (values.to === undefined) throw usageError(`expected --to ${Object.keys(FORMATS).join('|')}`);
      const format = FORMATS[values.to]!;
      if (format.binary && values.output === undefined && process.stdout.isTTY)
        throw usageError(`${values.to} is binary: say --output FILE, or send the standard output to one`);
      const to = values.output ?? null;
      const { events, differing } = await exportTrace(path, make, replayOptions(values), format.make, to, (n) =>
        io.progress(`${path}: ${n} events`),
      );
      if (io.json) {
        // The standard output is the export itself, unless that goes to a file.
        (to === null ? io.err : io.out)(
          JSON.stringify({ trace: path, format: values.to, output: to, events, differing }),
        );
      } else
        io.note(
          `${path}: ${events} events exported${differing === 0 ? '' : `, ${differing} differences to the recording`}`,
        );
      return differing === 0 ? EXIT.OK : EXIT.DIFFERS;
    },
  };
}
