import { ViommuError } from '../../src/core/errors.ts';
import { checkFunctions, checkState } from '../../src/lib/saved/device-state.ts';
import type { VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { isShortage } from '../../src/lib/uapi/refusals.ts';
import { errnoName } from '../../src/spec/iommufd/errno.ts';
import type { TableRoot, VtdCore } from './core.ts';
import type { InterruptRemapper } from './interrupt-remapper.ts';
import type { VtdQueue } from './queue.ts';
import type { VtdRecords } from './records.ts';
import type { VtdRegisters } from './registers.ts';
import { checkVtdFields, type VtdState, vtdStateForm } from './state-form.ts';
import type { VtdStreams } from './streams.ts';
import type { VirtualCommands } from './virtual-commands.ts';

/** The parts of a device that have state. */
export interface VtdStateParts {
  readonly core: VtdCore;
  readonly streams: VtdStreams;
  readonly regs: VtdRegisters;
  readonly root: TableRoot;
  readonly queue: VtdQueue;
  readonly records: VtdRecords;
  readonly remapper: InterruptRemapper;
  readonly virtualCommands: VirtualCommands | null;
}

/** What must be loaded again for the guest to go on. */
export function saveVtd(p: VtdStateParts): VtdState {
  while (p.core.work.waiting) p.core.work.resume();
  const { capLo, capHi, ecapLo, ecapHi } = p.core.identity;
  return {
    iommu: 'vtd',
    version: 2,
    identity: [capLo, capHi, ecapLo, ecapHi],
    functions: functionsOf(p),
    regs: p.regs.save(),
    queue: p.queue.save(),
    faults: p.records.save(),
    remapper: p.remapper.save(),
    root: { ...p.root },
    pasids: p.virtualCommands?.save() ?? [],
  };
}

/** @throws ViommuError see `checkState`. */
export function checkVtdState(p: VtdStateParts, given: unknown): VtdState {
  const own = saveVtd(p);
  checkState(p.core.name, given, own, vtdStateForm(own, p.core.identity.records, p.virtualCommands?.limit ?? 1));
  checkVtdFields(p.core.name, given as VtdState);
  return given as VtdState;
}

/**
 * Puts the parts into a saved state; the streams are for the caller to set up.
 * @throws ViommuError `EINVAL` other functions are behind it, and nothing is changed.
 */
export function loadVtd(p: VtdStateParts, s: VtdState): void {
  checkFunctions(p.core.name, s, functionsOf(p));
  p.regs.load(s.regs);
  p.queue.load(s.queue);
  p.records.load(s.faults);
  p.remapper.load(s.remapper);
  Object.assign(p.root, s.root);
  p.virtualCommands?.load(s.pasids);
}

/**
 * What the host refused of a load, when that is the guest's own doing.
 * @param anyway whatever it is. @throws ViommuError `EIO` the host is out of something, or failed.
 */
export function withoutShortage(refused: VerbOutcome, anyway: boolean): VerbOutcome {
  if (anyway || !isShortage(refused)) return refused;
  throw new ViommuError('EIO', 'host', `a stream was refused: ${errnoName(refused)}`, { result: refused });
}

function functionsOf(p: VtdStateParts): number[] {
  return p.streams.list.map((s) => s.rid);
}
