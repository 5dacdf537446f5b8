import { EventEmitter } from 'eventemitter3';
import type { Said, Tell } from '../ports/tell.ts';

/** One event per word of `tell`, and `said` for every one of them. */
export type MachineEvents = { said: [said: Said] } & {
  [W in Said['what']]: [said: Extract<Said, { what: W }>];
};

/**
 * The public edge of a machine: events for traces, user interfaces and tests. Give its `tell` to the machine when it is
 * made. The parts of a machine talk through ports, not through these events; a machine without an observer emits nothing.
 */
export class MachineObserver {
  /** What to listen on: `events.on('command', …)`. */
  readonly events = new EventEmitter<MachineEvents>();

  /** To be given to a machine. */
  readonly tell: Tell = (said) => {
    this.events.emit('said', said);
    // The type system cannot see that name and argument belong together.
    (this.events as unknown as EventEmitter).emit(said.what, said);
  };
}
