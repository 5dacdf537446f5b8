import { describe, expect, test } from 'vitest';
import { FailureInjector } from '../../../src/lib/inject/failure-injector.ts';
import { FAILURE_KINDS, parseFailureOptions } from '../../../src/lib/inject/failure-options.ts';
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
