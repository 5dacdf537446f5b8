import type { TableRoot } from './core.ts';
import type { InterruptRemapper, RemapperState } from './interrupt-remapper.ts';
import type { QueueState, VtdQueue } from './queue.ts';
import type { VtdRecords } from './records.ts';
import type { VtdRegisters } from './registers.ts';
import type { VirtualCommands } from './virtual-commands.ts';

/** The parts of a device that have state. */
export interface VtdStateParts {
  readonly regs: VtdRegisters;
  readonly root: TableRoot;
  readonly queue: VtdQueue;
  readonly records: VtdRecords;
  readonly remapper: InterruptRemapper;
  readonly virtualCommands: VirtualCommands | null;
}

/** A vVT-d as plain data: what the guest made of it. The host objects behind it are not part of it. */
export interface VtdState {
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
  return {
    regs: p.regs.save(),
    queue: p.queue.save(),
    faults: p.records.save(),
    remapper: p.remapper.save(),
    root: { ...p.root },
    pasids: p.virtualCommands?.save() ?? [],
  };
}

/** Puts the parts into a saved state; the streams are for the caller to set up. */
export function loadVtd(p: VtdStateParts, s: VtdState): void {
  p.regs.load(s.regs);
  p.queue.load(s.queue);
  p.records.load(s.faults);
  p.remapper.load(s.remapper);
  Object.assign(p.root, s.root);
  p.virtualCommands?.load(s.pasids);
}
