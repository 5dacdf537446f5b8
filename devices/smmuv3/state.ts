import { checkFunctions, checkState } from '../../src/lib/saved/device-state.ts';
import type { Smmuv3Commands } from './commands.ts';
import type { Smmuv3Core } from './core.ts';
import type { Smmuv3Queue } from './queue.ts';
import type { Smmuv3Records } from './records.ts';
import type { Smmuv3Registers } from './registers.ts';
import { checkSmmuv3Streams, type Smmuv3State, smmuv3StateForm } from './state-form.ts';
import type { Smmuv3Streams } from './streams.ts';
import type { Smmuv3Tables } from './tables.ts';

/** The parts that have state of the guest's making. */
interface StateParts {
  readonly core: Smmuv3Core;
  readonly regs: Smmuv3Registers;
  readonly records: Smmuv3Records;
  readonly queue: Smmuv3Queue;
  readonly commands: Smmuv3Commands;
  readonly tables: Smmuv3Tables;
  readonly streams: Smmuv3Streams;
}

export function saveSmmuv3(p: StateParts): Smmuv3State {
  const { idr0, idr1, idr3, idr5, aidr } = p.core.identity;
  return {
    iommu: 'smmuv3',
    version: 2,
    identity: [idr0, idr1, idr3, idr5, aidr],
    functions: functionsOf(p),
    registers: p.regs.save(),
    events: p.records.save(),
    waiting: p.queue.save(),
    timedOut: p.commands.timedOut,
    split: p.tables.save(),
    streams: p.streams.save(),
  };
}

/** @throws ViommuError see `checkState`. */
export function checkSmmuv3State(p: StateParts, given: unknown): Smmuv3State {
  const own = saveSmmuv3(p);
  checkState(p.core.name, given, own, smmuv3StateForm(own));
  checkSmmuv3Streams(p.core, given as Smmuv3State);
  return given as Smmuv3State;
}

/** @throws ViommuError `EINVAL` other functions are behind it, and nothing is changed; `EIO` the host refuses. */
export function loadSmmuv3(p: StateParts, s: Smmuv3State, anyway: boolean): void {
  checkFunctions(p.core.name, s, functionsOf(p));
  p.regs.load(s.registers);
  p.records.load(s.events);
  p.queue.load(s.waiting);
  p.commands.timedOut = s.timedOut;
  p.tables.load(s.split);
  p.streams.load(s.streams, anyway);
}

function functionsOf(p: StateParts): number[] {
  return p.streams.list.map((s) => s.sid);
}
