import { makeReplayMachine } from '../../../src/machine/replay.ts';
import { ReplayMachine } from '../../../src/machine/replay-machine.ts';
import { ReplayedVtd } from '../../../src/machine/replay-vtd.ts';
import type { Vm } from '../../../src/machine/vm.ts';
import type { VtdUnit } from '../../../src/machine/vtd-unit.ts';
import type { Said } from '../../../src/ports/tell.ts';
import { Heard, Replay, type ReplayOptions, type ReplayResult } from '../../../src/trace/index.ts';
import { loadTrace } from '../../../src/trace/node.ts';

export const RECORDINGS = [
  'vtd-boot',
  'vtd-caching-mode',
  'vtd-faults-legacy',
  'vtd-intremap-eim',
  'vtd-legacy',
  'vtd-legacy-ats',
  'vtd-legacy-strict-heavy',
  'vtd-scalable-first-ats',
  'vtd-scalable-first-caching',
  'vtd-scalable-passthrough',
  'vtd-scalable-second',
  'vtd-svm-pasid',
  'vtd-xen-register-invalidation',
];

/** The machine of a recording. */
export interface VtdReplayMachine {
  readonly vm: Vm;
  readonly unit: VtdUnit;
}

/** A recording, lived through by the machine it describes. `listen` hears everything, at the moment it happens. */
export async function replay(
  name: string,
  options: ReplayOptions = {},
  listen: (said: Said, machine: VtdReplayMachine) => void = () => {},
): Promise<ReplayResult> {
  const { header, events } = await loadTrace(`guest-fixtures/recordings/${name}.ndjson.gz`);
  const heard = new Heard();
  let machine: VtdReplayMachine | null = null;
  const target = makeReplayMachine(header, options, (said) => {
    heard.tell(said);
    if (machine !== null) listen(said, machine);
  });
  if (!(target instanceof ReplayMachine && target.iommu instanceof ReplayedVtd)) {
    throw new Error(`${name} is no VT-d recording`);
  }
  machine = { vm: target.vm, unit: target.iommu.unit };
  const r = new Replay(header, target, heard);
  for (const e of events) r.apply(e);
  return r.finish();
}
