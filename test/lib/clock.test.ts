import fc from 'fast-check';
import { expect, test } from 'vitest';
import { VirtualClock } from '../../src/lib/clock/virtual-clock.ts';

test('timers run in the order they fall due, ties in the order they were set, and cancelled ones not at all', () => {
  const timer = fc.record({ delay: fc.nat(50), cancel: fc.boolean() });
  fc.assert(
    fc.property(fc.array(timer), fc.array(fc.nat(20)), (timers, steps) => {
      const clock = new VirtualClock();
      const ran: [number, number][] = [];
      const undo = timers.map((t, i) => clock.after(t.delay, () => ran.push([clock.now(), i])));
      timers.forEach((t, i) => {
        if (t.cancel) undo[i]!();
      });
      for (const s of steps) clock.advance(s);
      const end = steps.reduce((a, b) => a + b, 0);
      const want = timers
        .map((t, i): [number, number, boolean] => [t.delay, i, t.cancel])
        .filter(([due, , cancel]) => !cancel && (due < end || (due === end && steps.length > 0)))
        .sort((a, b) => a[0] - b[0] || a[1] - b[1])
        .map(([due, i]) => [due, i]);
      expect(ran).toEqual(want);
      expect(clock.now()).toBe(end);
    }),
  );
});

test('an action that sets a timer of zero delay does not hold time up', () => {
  const clock = new VirtualClock();
  let count = 0;
  const again = () => {
    count++;
    clock.after(0, again);
  };
  clock.after(0, again);
  clock.advance(0);
  expect(count).toBe(1);
  expect(clock.settle(10)).toBe(false);
});
