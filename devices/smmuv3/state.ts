import type { Smmuv3Commands } from './commands.ts';
import type { Smmuv3Queue } from './queue.ts';
import type { Smmuv3Records } from './records.ts';
import type { Smmuv3Registers } from './registers.ts';
import type { StreamSaved } from './stream.ts';
import type { Smmuv3Streams } from './streams.ts';
import type { Smmuv3Tables } from './tables.ts';

/** The parts that have state of the guest's making. */
interface StateParts {
  readonly regs: Smmuv3Registers;
  readonly records: Smmuv3Records;
  readonly queue: Smmuv3Queue;
  readonly commands: Smmuv3Commands;
  readonly tables: Smmuv3Tables;
  readonly streams: Smmuv3Streams;
}

/** A vSMMUv3 as plain data: what the guest made of it. The host objects behind it are not part of it. */
export interface Smmuv3State {
  readonly version: 1;
  readonly registers: number[];
  /** @internal */
  readonly events: ReturnType<Smmuv3Records['save']>;
  readonly waiting: boolean;
  readonly timedOut: boolean;
  readonly split: number;
  /** @internal */
  readonly streams: StreamSaved[];
}

export function saveSmmuv3(p: StateParts): Smmuv3State {
  return {
    version: 1,
    registers: p.regs.save(),
    events: p.records.save(),
    waiting: p.queue.save(),
    timedOut: p.commands.timedOut,
    split: p.tables.save(),
    streams: p.streams.save(),
  };
}

export function loadSmmuv3(p: StateParts, s: Smmuv3State): void {
  p.regs.load(s.registers);
  p.records.load(s.events);
  p.queue.load(s.waiting);
  p.commands.timedOut = s.timedOut;
  p.tables.load(s.split);
  p.streams.load(s.streams);
}
