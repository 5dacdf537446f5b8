import { History } from '../../src/history/index.ts';
import { Heard, type MakeReplayTarget, Replay, type ReplayOptions } from '../../src/trace/index.ts';
import { openTrace } from '../../src/trace/node.ts';
import { build, located } from '../replay/run.ts';
import type { MakeExporter } from './exporter.ts';
import type { Output } from './output.ts';

/**
 * Replays a recording - one without guest memory is only read - and writes what an exporter makes of it. The output is drained after each batch of events, so that a slow
 * reader does not make it grow.
 * @returns how many events were replayed and how many differences to the recording there were.
 * @throws ViommuError for what is no recording, and when the output cannot be written.
 */
export async function exportTrace(
  path: string,
  make: MakeReplayTarget,
  options: ReplayOptions,
  exporter: MakeExporter,
  output: Output,
): Promise<{ readonly events: number; readonly differing: number }> {
  const trace = await openTrace(path);
  const heard = new Heard();
  const lacking = trace.header.lacks?.includes('memory') === true;
  const target = lacking ? null : build(trace, make, { ...options, tellHardware: true }, heard);
  const replay = target === null ? null : new Replay(trace.header, target, heard);
  const history = new History(trace.header, target, (m) => to.moment?.(m));
  const to = exporter(
    { file: trace.file, header: trace.header, target, nameOf: (s) => history.nameOf(s) },
    output.write,
  );
  heard.also = history.tell;
  let events = 0;
  for await (const batch of trace.batches) {
    for (const e of batch) {
      history.before(e);
      try {
        replay?.apply(e);
      } catch (cause) {
        throw located(trace.file, e.i, cause);
      }
      history.after();
      to.event?.(e);
      events++;
    }
    await output.drained();
  }
  to.end?.();
  await output.drained();
  return { events, differing: replay?.differing ?? 0 };
}
