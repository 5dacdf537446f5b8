import { performance } from 'node:perf_hooks';
import { ViommuError } from '../../src/core/errors.ts';
import type { Tell } from '../../src/ports/tell.ts';
import {
  Heard,
  type MakeReplayTarget,
  type OpenTrace,
  Replay,
  type ReplayOptions,
  type ReplayResult,
  type ReplayTarget,
  type TraceEvent,
} from '../../src/trace/index.ts';
import { openTrace } from '../../src/trace/node.ts';

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

/**
 * The machine of a recording.
 * @throws ViommuError with the file's name, whatever kept the machine from being built.
 */
export function build(trace: OpenTrace, make: MakeReplayTarget, options: ReplayOptions, heard: Heard): ReplayTarget {
  try {
    return make(trace.header, options, heard.tell);
  } catch (cause) {
    const what = cause instanceof Error ? cause.message : String(cause);
    if (cause instanceof ViommuError)
      throw new ViommuError(cause.code, cause.blame, `${trace.file}: header: ${what}`, {}, cause);
    throw new ViommuError('ENOMEM', 'host', `${trace.file}: header: the machine cannot be built: ${what}`, {}, cause);
  }
}

/** What went wrong, with the file and the event it went wrong at. */
export function located(file: string, i: number, cause: unknown): ViommuError {
  const what = cause instanceof Error ? cause.message : String(cause);
  const where = what.startsWith('event ') ? file : `${file}: event ${i}`;
  if (cause instanceof ViommuError) return new ViommuError(cause.code, cause.blame, `${where}: ${what}`, {}, cause);
  return new ViommuError('EIO', 'host', `${where}: the machine failed: ${what}`, {}, cause);
}
