import type { Commands } from './commands.ts';
import type { CommandQueue } from './queue.ts';
import type { EventQueue } from './records.ts';
import type { Registers } from './registers.ts';
import type { StreamSaved } from './stream.ts';
import type { Streams } from './streams.ts';
import type { StreamTable } from './tables.ts';

export interface SnapshotParts {
  readonly regs: Registers;
  readonly events: EventQueue;
  readonly queue: CommandQueue;
  readonly commands: Commands;
  readonly table: StreamTable;
  readonly streams: Streams;
}

/** A vSMMUv3 as plain data: what the guest made of it. The host objects behind it are not part of it. */
export interface DeviceState {
  readonly version: 1;
  readonly registers: number[];
  readonly events: ReturnType<EventQueue['save']>;
  readonly waiting: boolean;
  readonly timedOut: boolean;
  readonly split: number;
  readonly streams: StreamSaved[];
}

export function saveDevice(p: SnapshotParts): DeviceState {
  return {
    version: 1,
    registers: p.regs.save(),
    events: p.events.save(),
    waiting: p.queue.save(),
    timedOut: p.commands.timedOut,
    split: p.table.save(),
    streams: p.streams.save(),
  };
}

export function loadDevice(p: SnapshotParts, s: DeviceState): void {
  p.regs.load(s.registers);
  p.events.load(s.events);
  p.queue.load(s.waiting);
  p.commands.timedOut = s.timedOut;
  p.table.load(s.split);
  p.streams.load(s.streams);
}
