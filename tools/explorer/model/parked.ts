import {
  Heard,
  type MakeReplayTarget,
  Replay,
  type ReplayOptions,
  type ReplayTarget,
  type TraceEvent,
  type TraceHeader,
} from '../../../src/trace/index.ts';
import { HostObjects } from '../../explain/objects.ts';

/** A machine on which a recording has been replayed up to some event. */
export class Parked {
  readonly target: ReplayTarget;
  /** Objects of its host. */
  readonly objects = new HostObjects();
  readonly #replay: Replay;
  readonly #heard = new Heard();
  /** Number of the first event it has not seen. */
  position = 0;

  constructor(header: TraceHeader, make: MakeReplayTarget, options: ReplayOptions) {
    this.#heard.also = this.objects.tell;
    this.target = make(header, options, this.#heard.tell);
    this.#replay = new Replay(header, this.target, this.#heard, 0);
  }

  /** Replays on, up to event `to` (not included). */
  forward(events: readonly TraceEvent[], to: number): void {
    for (; this.position < to; this.position++) {
      const e = events[this.position]!;
      // Reading a register has no effect, and nobody asks here whether the answer is the recorded one.
      if (e.t !== 'r') this.#replay.apply(e);
    }
  }
}
