import { ViommuError } from '../../core/errors.ts';
import type { Clock } from '../../ports/clock.ts';

interface Timer {
  readonly due: number;
  readonly order: number;
  readonly action: () => void;
  live: boolean;
}

/** The virtual clock of a machine: time moves only when its owner says so. Timers due at one instant run in the order they were set. */
export class VirtualClock implements Clock {
  #now = 0;
  #order = 0;
  #timers: Timer[] = [];

  now(): number {
    return this.#now;
  }

  after(delay: number, action: () => void): () => void {
    if (!(delay >= 0)) throw new ViommuError('EINVAL', 'caller', 'a delay is a number of nanoseconds ≥ 0', { delay });
    const timer: Timer = { due: this.#now + delay, order: this.#order++, action, live: true };
    // Insertion from the back: most timers are set in the order they fall due.
    let i = this.#timers.length;
    while (i > 0 && this.#timers[i - 1]!.due > timer.due) i--;
    this.#timers.splice(i, 0, timer);
    return () => {
      if (!timer.live) return;
      timer.live = false;
      const at = this.#timers.indexOf(timer);
      if (at >= 0) this.#timers.splice(at, 1);
    };
  }

  /** Nanoseconds until the next timer; Infinity when none is set. */
  get next(): number {
    return this.#timers.length === 0 ? Number.POSITIVE_INFINITY : this.#timers[0]!.due - this.#now;
  }

  /** Lets `nanoseconds` pass and runs everything that falls due in them, also what those actions set. */
  advance(nanoseconds: number): void {
    if (!(nanoseconds >= 0)) throw new ViommuError('EINVAL', 'caller', 'time does not run backwards', { nanoseconds });
    const end = this.#now + nanoseconds;
    // Only timers that existed before a zero-length step run in it, so `after(0)` in an action cannot loop for ever.
    const limit = nanoseconds === 0 ? this.#order : Number.POSITIVE_INFINITY;
    for (;;) {
      const first = this.#timers[0];
      if (first === undefined || first.due > end || first.order >= limit) break;
      this.#timers.shift();
      this.#now = Math.max(this.#now, first.due);
      first.live = false;
      first.action();
    }
    this.#now = end;
  }

  /** Runs timers until none is left or `budget` of them have run. @returns whether none is left. */
  settle(budget = 1_000_000): boolean {
    for (let i = 0; i < budget && this.#timers.length > 0; i++) this.advance(this.next);
    return this.#timers.length === 0;
  }
}
