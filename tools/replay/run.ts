import { performance } from 'node:perf_hooks';
import type { Tell } from '../../src/ports/tell.ts';
import {
  Heard,
  type MakeReplayTarget,
  Replay,
  type ReplayOptions,
  type ReplayResult,
  type TraceEvent,
} from '../../src/trace/index.ts';
import { openTrace } from '../../src/trace/node.ts';
import { build, located } from './machine.ts';

/** A replayed recording, with its file name and the wall-clock time of all of it (reading included). */
export interface Replayed extends ReplayResult {
  readonly file: string;
  readonly seconds: number;
}

export interface Watch {
  /** Called after some hundred events, with the number of events done. */
  progress?(events: number, differing: number): void;
  /** Hears everything the machine does, too. */
  tell?: Tell;
  /** Called with every event before it is replayed. */
  event?(e: TraceEvent): void;
}

/**
 * Replays one recording on the machine it describes.
 * @throws ViommuError for a file that is no recording, a machine that is not known, and whatever the machine throws.
 */
export async function replayFile(
  path: string,
  make: MakeReplayTarget,
  options: ReplayOptions,
  watch: Watch = {},
): Promise<Replayed> {
  const start = performance.now();
  const trace = await openTrace(path);
  const heard = new Heard();
  heard.also = watch.tell ?? null;
  const replay = new Replay(trace.header, build(trace, make, options, heard), heard);
  for await (const batch of trace.batches) {
    for (const e of batch) {
      watch.event?.(e);
      try {
        replay.apply(e);
      } catch (cause) {
        throw located(trace.file, e.i, cause);
      }
    }
    watch.progress?.(replay.events, replay.differing);
  }
  return { ...replay.finish(), file: trace.file, seconds: (performance.now() - start) / 1000 };
}
