import type { Said } from '../ports/tell.ts';
import type { ReplayTarget, TraceEvent, TraceHeader } from '../trace/index.ts';
import { type Moment, momentOf } from './moment.ts';
import { ToldHistory } from './told-history.ts';
import type { GuestWalk } from './walk.ts';

/**
 * Follows a replay and tells it as moments, each with the moment that caused it: a register write leads to commands, a command
 * to host operations, those to commands of the physical IOMMU; an access is made possible by the guest's last store to an
 * entry on its way, and leads to a fault, its record, its interrupt. Commands travel to the host in batches: what a batch
 * does stands with the last command that went before it.
 *
 * Call `before(e)` with each event before it is replayed, `tell` with everything the machine says, `after()` when the event
 * is done: `on` then gets the moments of the event, in order.
 */
export class History {
  readonly #told: ToldHistory;
  /** Goes beside the replay's own listener: hears everything the machine does. */
  readonly tell: (said: Said) => void;

  /**
   * @param header of the recording. @param target the machine it is replayed on; tables are read from it. Null: nothing is
   *   replayed (a recording without guest memory), and what is told is what was recorded.
   * @param on called with each moment, in order; must not call the machine.
   */
  constructor(header: TraceHeader, target: ReplayTarget | null, on: (moment: Moment) => void) {
    this.#told = new ToldHistory(header, target, (m) => on(momentOf(m)));
    this.tell = this.#told.tell;
  }

  /** The name of a function, or its requester id. @param stream StreamID or requester id. */
  nameOf(stream: number): string {
    return this.#told.nameOf(stream);
  }

  /** The way of an access of `stream` through the guest's tables as they are now. @param lo, hi words of the address. */
  walk(stream: number, lo: number, hi: number): GuestWalk {
    return this.#told.walk(stream, lo, hi);
  }

  /** Number of the last moment that stored to one of `bytes` bytes at `gpa`; -1: none is known. */
  lastStore(gpa: number, bytes: number): number {
    return this.#told.lastStore(gpa, bytes);
  }

  /** An event is about to be replayed. */
  before(e: TraceEvent): void {
    this.#told.before(e);
  }

  /** The event has been replayed: its moments are complete and go out. */
  after(): void {
    this.#told.after();
  }
}
