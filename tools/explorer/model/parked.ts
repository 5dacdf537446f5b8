import type { Tell } from '../../../src/ports/tell.ts';
import {
  type Difference,
  Heard,
  type MakeReplayTarget,
  Replay,
  type ReplayOptions,
  type ReplayTarget,
  type TraceEvent,
  type TraceHeader,
} from '../../../src/trace/index.ts';
import { HostObjects } from '../../explain/objects.ts';

/** What opening a recording wants of the machine it happens on. */
export interface ParkedWatch {
  /** Hears everything the machine does. */
  tell(said: Parameters<Tell>[0]): void;
  /** Differences between replay and recording that are listed. */
  readonly keep: number;
  /** Hears of each difference. */
  differs(difference: Difference): void;
}

/** A machine on which a recording has been replayed up to some event. */
export class Parked {
  readonly target: ReplayTarget;
  /** Objects of its host. */
  readonly objects = new HostObjects();
  /** The comparison with the recording; of interest on the machine that was opened. */
  readonly replay: Replay;
  readonly #heard = new Heard();
  /** Number of the first event it has not seen. */
  position = 0;

  constructor(header: TraceHeader, make: MakeReplayTarget, options: ReplayOptions, watch: ParkedWatch | null = null) {
    const { objects } = this;
    this.#heard.also =
      watch === null
        ? objects.tell
        : (said) => {
            objects.tell(said);
            watch.tell(said);
          };
    this.target = make(header, options, this.#heard.tell);
    this.replay = new Replay(header, this.target, this.#heard, watch?.keep ?? 0, watch?.differs);
  }

  /** Replays on, up to event `to` (not included). */
  forward(events: readonly TraceEvent[], to: number): void {
    for (; this.position < to; this.position++) {
      const e = events[this.position]!;
      // Reading a register has no effect, and nobody asks here whether the answer is the recorded one.
      if (e.t !== 'r') this.replay.apply(e);
    }
  }

  /** Replays one event and compares what it has to compare. */
  step(e: TraceEvent): void {
    this.replay.apply(e);
    this.position++;
  }
}
