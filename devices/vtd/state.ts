import { checkFunctions, checkState, type StateOrigin } from '../../src/lib/saved/device-state.ts';
import type { TableRoot, VtdCore } from './core.ts';
import type { InterruptRemapper, RemapperState } from './interrupt-remapper.ts';
import type { QueueState, VtdQueue } from './queue.ts';
import type { VtdRecords } from './records.ts';
import type { VtdRegisters } from './registers.ts';
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

/** A vVT-d as plain data: what the guest made of it. The host objects behind it are not part of it. */
export interface VtdState extends StateOrigin {
  readonly iommu: 'vtd';
  readonly version: 2;
  readonly regs: readonly number[];
  /** @internal */
  readonly queue: QueueState;
  /** The fault recording register that is used next. */
  readonly faults: number;
  /** @internal */
  readonly remapper: RemapperState;
  /** @internal */
  readonly root: TableRoot;
  /** PASIDs given out by VCMD. */
  readonly pasids: readonly number[];
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
  checkState(p.core.name, given, saveVtd(p), ['regs', 'counts', 'identity']);
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

function functionsOf(p: VtdStateParts): number[] {
  return p.streams.list.map((s) => s.rid);
}
