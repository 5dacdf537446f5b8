import { ViommuError } from '../../../src/core/errors.ts';
import { Heard, type MakeReplayTarget, Replay } from '../../../src/trace/index.ts';
import { loadTrace } from '../../../src/trace/node.ts';
import { fixtures } from '../../replay/fixtures.ts';
import type { TimedCase } from '../case.ts';

/**
 * Events per second of a replay, without decompression and JSON: the recording is in memory, and each run replays it on
 * a machine that was reset. An operation is an event.
 */
export function replayCase(file: string, make: MakeReplayTarget): TimedCase {
  return {
    path: 'replay',
    name: `an event of ${file}`,
    async setup() {
      const fixture = fixtures().find((f) => f.file.startsWith(`${file}.`));
      if (fixture === undefined) throw new ViommuError('E_MISSING', 'caller', `no recording called ${file}`);
      const { header, events } = await loadTrace(fixture.path);
      return {
        ops: events.length,
        run() {
          const heard = new Heard();
          const replay = new Replay(header, make(header, {}, heard.tell), heard);
          for (const e of events) replay.apply(e);
          if (!replay.finish().ok) throw new ViommuError('E_TRACE_DIVERGED', 'trace', `${file} does not match`);
        },
      };
    },
  };
}
