import { History } from '../../src/history/index.ts';
import {
  Heard,
  hasMemory,
  type MakeReplayTarget,
  type OpenTrace,
  Replay,
  type ReplayOptions,
} from '../../src/trace/index.ts';
import { openTrace } from '../../src/trace/node.ts';
import { type Output, openOutput, refuseSameFile } from '../files/output.ts';
import { build, located } from '../replay/machine.ts';
import type { MakeExporter } from './exporter.ts';

/** What an export was made of. */
export interface Exported {
  readonly events: number;
  /** Differences between replay and recording. */
  readonly differing: number;
}

/**
 * Replays a recording - one without guest memory is only read - and writes what an exporter makes of it.
 * @param path null: the standard output. A file is there when everything is written.
 * @throws ViommuError for what is no recording, and when the output cannot be written.
 */
export async function exportTrace(
  input: string,
  make: MakeReplayTarget,
  options: ReplayOptions,
  exporter: MakeExporter,
  path: string | null,
  progress: (events: number) => void = () => {},
): Promise<Exported> {
  const trace = await openTrace(input);
  await refuseSameFile(input, path);
  const output = openOutput(path);
  try {
    const exported = await written(trace, make, options, exporter, output, progress);
    await output.finished();
    return exported;
  } catch (e) {
    await output.discard();
    throw e;
  }
}

/** The output is drained after each batch of events, so that a slow reader does not make it grow. */
async function written(
  trace: OpenTrace,
  make: MakeReplayTarget,
  options: ReplayOptions,
  exporter: MakeExporter,
  output: Output,
  progress: (events: number) => void,
): Promise<Exported> {
  const { header, file } = trace;
  const heard = new Heard();
  const lacking = !hasMemory(header);
  const target = lacking ? null : build(trace, make, { ...options, tellHardware: true }, heard);
  const replay = target === null ? null : new Replay(header, target, heard);
  const history = new History(header, target, (m) => to.moment?.(m));
  const to = exporter({ file, header, target, nameOf: (s) => history.nameOf(s) }, output.write);
  heard.also = history.tell;
  let events = 0;
  for await (const batch of trace.batches) {
    for (const e of batch) {
      try {
        history.before(e);
        replay?.apply(e);
        history.after();
        to.event?.(e);
      } catch (cause) {
        throw located(file, e.i, cause);
      }
      events++;
    }
    progress(events);
    await output.drained();
  }
  for (const _ of to.end?.() ?? []) await output.drained();
  return { events, differing: replay?.differing ?? 0 };
}
