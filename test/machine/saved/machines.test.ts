import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ViommuError } from '../../../src/core/errors.ts';
import { corruption } from './corrupt.ts';
import { MACHINES } from './makers.ts';

/** How many corruptions of each machine: more by the environment. */
const RUNS = Number(process.env.VIOMMU_STATE_CORRUPTIONS ?? 100);
const SEED = Number(process.env.VIOMMU_STATE_SEED ?? 21);

describe.each(MACHINES)('%s', (_, make) => {
  test('refuses a state with one field changed by the name of a field and stays as it is, or is that state', () => {
    const machine = make();
    // Virtual functions come to life again in a load, behind the others.
    machine.load(machine.save() as never);
    const good = structuredClone(machine.save());
    let refused = 0;
    fc.assert(
      fc.property(corruption(good), ({ path, state }) => {
        const before = structuredClone(machine.save());
        try {
          machine.load(state as never);
        } catch (e) {
          if (!(e instanceof ViommuError)) throw e;
          expect(['EINVAL', 'E_VERSION'], `${path}: ${e.message}`).toContain(e.code);
          refused++;
          expect(
            typeof e.at.at === 'string' || /functions? at|another machine|with functions/.test(e.message),
            e.message,
          ).toBe(true);
          expect(machine.save(), path).toStrictEqual(before);
          return;
        }
        expect(machine.save(), path).toStrictEqual(state);
      }),
      { numRuns: RUNS, seed: SEED, endOnFailure: true },
    );
    expect(refused).toBeGreaterThan(RUNS / 4);
    machine.load(good as never);
    expect(machine.save()).toEqual(good);
  });
});
