import { describe, expect, test } from 'vitest';
import { VirtualClock } from '../../../src/lib/clock/virtual-clock.ts';
import { FailureInjector } from '../../../src/lib/inject/failure-injector.ts';
import {
  FAILURE_KINDS,
  type FailureKind,
  failureKindOf,
  parseFailureOptions,
} from '../../../src/lib/inject/failure-options.ts';
import { SeededFailures } from '../../../src/lib/inject/failure-plans.ts';
import type { AtsPort } from '../../../src/ports/dma.ts';
import { FAILURE_STEP, type FailureStep } from '../../../src/ports/failures.ts';

const STEPS = Object.values(FAILURE_STEP) as readonly FailureStep[];

describe('which steps fail', () => {
  test('is read from a command line, and refused by name', () => {
    const text = 'seed=7,memory=0.5,lostCompletions=1,delay=9,construction';
    expect(parseFailureOptions(text)).toEqual({
      seed: 7,
      memory: 0.5,
      lostCompletions: 1,
      delay: 9,
      construction: true,
    });
    for (const [wrong, why] of [
      ['memory=0.1', /`seed` is missing/],
      ['seed=1.5', /`seed` is an integer/],
      ['seed', /`seed` is an integer/],
      ['seed=9007199254740992', /`seed` is an integer below 2\^53/],
      ['seed=1,memory=2', /'memory' is a share/],
      ['seed=1,memory=x', /'memory' is a share/],
      ['seed=1,memroy=0.1', /there is no 'memroy'/],
      ['seed=1,nth=0', /`nth` is an integer from 1/],
      ['seed=1,delay=-1', /`delay` is a number/],
    ] as const) {
      expect(() => parseFailureOptions(wrong), wrong).toThrow(why);
    }
  });

  test('every step has a kind, and only steps of kinds with a share fail', () => {
    for (const kind of FAILURE_KINDS) {
      const i = new FailureInjector({ seed: 3, [kind]: 1, construction: true });
      for (const step of STEPS) {
        const before = i.counts()[kind];
        const fails = i.fails(step);
        expect([kind, step, fails]).toEqual([kind, step, i.counts()[kind].asked > before.asked]);
      }
      expect(i.counts()[kind].failed).toBeGreaterThan(0);
    }
  });

  test('a share is kept, from the seed alone, whatever else is switched on', () => {
    const run = (more: object): boolean[] => {
      const i = new FailureInjector({ seed: 11, memory: 0.25, construction: true, ...more });
      return Array.from({ length: 4000 }, () => {
        i.fails(FAILURE_STEP.FETCH);
        return i.fails(FAILURE_STEP.PIN);
      });
    };
    const failed = run({});
    expect(run({ fetches: 0.5 })).toEqual(failed);
    expect(run({ seed: 12 })).not.toEqual(failed);
    const share = failed.filter((f) => f).length / failed.length;
    expect(share).toBeGreaterThan(0.22);
    expect(share).toBeLessThan(0.28);
  });

  test('every bit of the seed counts, and no kind draws as another one does', () => {
    const drawn = (seed: number, kind: FailureKind) => {
      const i = new FailureInjector({ seed, [kind]: 0.5, construction: true });
      const step = STEPS.find((s) => failureKindOf(s) === kind)!;
      return Array.from({ length: 64 }, () => (i.fails(step) ? '1' : '0')).join('');
    };
    const bits = Array.from({ length: 53 }, (_, bit) => 2 ** bit - (bit === 52 ? 1 : 0));
    for (const base of [0, 7, 12_345_678_901]) {
      const seeds = [base, ...bits.map((b) => (base + b <= Number.MAX_SAFE_INTEGER ? base + b : base - b)), -base - 3];
      const runs = seeds.flatMap((seed) => FAILURE_KINDS.map((kind) => drawn(seed, kind)));
      expect(new Set(runs).size).toBe(seeds.length * FAILURE_KINDS.length);
      // Half of what is drawn at the same place by two of them agrees, as with coins.
      for (let k = 1; k < runs.length; k++) {
        const agree = [...runs[0]!].filter((c, at) => c === runs[k]![at]).length;
        expect([k, agree > 10 && agree < 54]).toEqual([k, true]);
      }
    }
    expect(() => new SeededFailures(2 ** 53, 1)).toThrow(/below 2\^53/);
  });

  test('a completion that is lost moves neither those that are late nor those that come twice', () => {
    const run = (lostCompletions: number) => {
      const i = new FailureInjector({
        seed: 5,
        lostCompletions,
        lateCompletions: 0.3,
        doubledCompletions: 0.3,
        construction: true,
      });
      const clock = new VirtualClock();
      let arrived = 0;
      const ats = i.completions({ invalidateCompletion: () => arrived++ } as unknown as AtsPort, clock);
      for (let n = 0; n < 400; n++) ats.invalidateCompletion(1, 1, 1);
      clock.advance(1e9);
      return { counts: i.counts(), arrived };
    };
    const [none, some, all] = [run(0), run(0.5), run(1)];
    for (const { counts } of [none, some, all]) {
      expect(counts.lostCompletions.asked).toBe(400);
      expect(counts.lateCompletions).toEqual(none.counts.lateCompletions);
      expect(counts.doubledCompletions).toEqual(none.counts.doubledCompletions);
    }
    expect(none.arrived).toBe(400 + none.counts.doubledCompletions.failed);
    expect(some.arrived).toBeGreaterThan(150);
    expect(some.arrived).toBeLessThan(none.arrived - 100);
    expect(all.arrived).toBe(0);
  });

  test('nth counts the kinds asked for, and nothing fails or counts while it is off', () => {
    const i = new FailureInjector({ seed: 1, memory: 1 });
    expect([i.fails(FAILURE_STEP.PIN), i.counts().memory.asked]).toEqual([false, 0]);
    i.on = true;
    const plan = i.nth(2, ['fetches']);
    const seen = [FAILURE_STEP.PIN, FAILURE_STEP.FETCH, FAILURE_STEP.ID, FAILURE_STEP.FETCH, FAILURE_STEP.FETCH];
    expect(seen.map((s) => i.fails(s))).toEqual([false, false, false, true, false]);
    expect([plan.failed, i.last]).toEqual(['fetch', 'fetch']);
    i.byChance();
    expect([i.fails(FAILURE_STEP.PIN), i.last]).toEqual([true, 'pin']);
  });
});
