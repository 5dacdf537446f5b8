import { describe, expect, test } from 'vitest';
import { Random } from '../../../tools/oracle/random.ts';
import { type RefusedMachine, RefusedScript } from './frame.ts';
import type { What } from './nth.ts';
import { Smmuv3Refused, smmuv3Options } from './smmuv3.ts';
import { VtdRefused, vtdOptions } from './vtd.ts';

/** Random configurations of each IOMMU, failures of each, and where to begin; the environment asks for more. */
const CONFIGURATIONS = Number(process.env.VIOMMU_REFUSED_CONFIGURATIONS ?? 5);
const FAILURES = Number(process.env.VIOMMU_REFUSED_FAILURES ?? 2);
const SEED = Number(process.env.VIOMMU_REFUSED_SEED ?? 1);
const STEPS = 10;

type Make = (seed: number, what: What, lasting: boolean) => RefusedMachine;

const MAKE: Record<string, Make> = {
  vtd: (seed, what, lasting) =>
    new VtdRefused(vtdOptions(new Random(seed * 7919)), what, lasting, new Random(seed + 1)),
  smmuv3: (seed, what, lasting) =>
    new Smmuv3Refused(smmuv3Options(new Random(seed * 7919)), what, lasting, new Random(seed + 1)),
};

function play(make: Make, seed: number, what: What, lasting: boolean, n: number): number {
  const machine = make(seed, what, lasting);
  try {
    return new RefusedScript(machine, new Random(seed * 31)).run(n, STEPS);
  } catch (error) {
    (error as Error).message = `seed ${seed}, ${what} ${n}${lasting ? ' and on' : ''}: ${(error as Error).message}`;
    throw error;
  }
}

describe.each(Object.keys(MAKE))(`a guest of %s, in ${CONFIGURATIONS} configurations`, (kind) => {
  const make = MAKE[kind]!;
  test.each(['verb', 'command'] as const)(
    'after a completed sync no access uses what was to go, and the guest was told: the n-th %s fails',
    (what) => {
      let failures = 0;
      for (let seed = SEED; seed < SEED + CONFIGURATIONS; seed++) {
        const count = play(make, seed, what, false, 0);
        const draw = new Random(seed * 104_729);
        for (let i = 0; i < FAILURES && count > 0; i++) {
          const n = FAILURES >= count ? i + 1 : 1 + draw.below(count);
          if (n > count) break;
          for (const lasting of [false, true]) play(make, seed, what, lasting, n);
          failures++;
        }
      }
      expect(failures).toBeGreaterThanOrEqual(CONFIGURATIONS);
    },
    Math.max(60_000, CONFIGURATIONS * FAILURES * 2000),
  );
});
