import { makeReplayMachine } from '../../../src/machine/replay.ts';
import { Heard, Replay, type ReplayOptions, type ReplayResult } from '../../../src/trace/index.ts';
import { loadTrace } from '../../../src/trace/node.ts';

export const RECORDINGS = [
  'smmuv3-boot',
  'smmuv3-default',
  'smmuv3-faults',
  'smmuv3-lazy-heavy',
  'smmuv3-linux612-reset-1g',
  'smmuv3-passthrough',
  'smmuv3-rebind-vfio',
  'smmuv3-stage2only',
  'smmuv3-strict-heavy',
];

/** A recording, lived through by the machine it describes. */
export async function replay(name: string, options: ReplayOptions = {}): Promise<ReplayResult> {
  const { header, events } = await loadTrace(`guest-fixtures/recordings/${name}.ndjson.gz`);
  const heard = new Heard();
  const r = new Replay(header, makeReplayMachine(header, options, heard.tell), heard);
  for (const e of events) r.apply(e);
  return r.finish();
}
