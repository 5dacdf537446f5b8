import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { TraceEvent } from '../../src/trace/index.ts';
import { Checkpoints } from '../../tools/explorer/model/checkpoints.ts';
import type { Parked } from '../../tools/explorer/model/parked.ts';

/** A machine that only knows where it stands, and that it never goes back. */
class Marker {
  position = 0;
  forward(events: readonly TraceEvent[], to: number): void {
    expect(to).toBeLessThanOrEqual(events.length);
    if (to < this.position) throw new Error('a machine cannot go back');
    this.position = to;
  }
}

const commands = fc.array(fc.oneof(fc.nat(100_000), fc.constant('mend' as const)), { maxLength: 200 });

test('whoever asks gets a machine at his event, in any order, also where there is memory for a few only', () => {
  const memory = fc.integer({ min: 1, max: 30 });
  fc.assert(
    fc.property(commands, fc.integer({ min: 1, max: 100_000 }), memory, (list, length, room) => {
      const events = { length } as readonly TraceEvent[];
      const checkpoints: Checkpoints = new Checkpoints(
        () => {
          if (checkpoints.ready >= room) throw new RangeError('Array buffer allocation failed');
          return new Marker() as unknown as Parked;
        },
        events,
        2 ** 29,
      );
      for (const c of list) {
        if (c === 'mend') checkpoints.mend();
        else expect(checkpoints.at(c % (length + 1)).position).toBe(c % (length + 1));
        expect(checkpoints.ready).toBeLessThanOrEqual(Math.max(room, 1));
      }
    }),
  );
});

test('when nothing is left to mend, a machine stands in every segment: no state is further away than two of them', () => {
  const events = { length: 100_000 } as readonly TraceEvent[];
  fc.assert(
    fc.property(fc.array(fc.nat(100_000), { maxLength: 30 }), fc.nat(100_000), (asked, n) => {
      let steps = 0;
      class Counting extends Marker {
        override forward(all: readonly TraceEvent[], to: number): void {
          steps += to - this.position;
          super.forward(all, to);
        }
      }
      const checkpoints = new Checkpoints(() => new Counting() as unknown as Parked, events, 2 ** 29);
      for (const a of asked) checkpoints.at(a);
      while (checkpoints.mend());
      steps = 0;
      checkpoints.at(n);
      // Six GiB for machines of half a GiB: twelve segments.
      expect(steps).toBeLessThanOrEqual(2 * Math.ceil(100_000 / 12));
    }),
    { numRuns: 30 },
  );
});
