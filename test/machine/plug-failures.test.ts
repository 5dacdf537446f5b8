import { describe, expect, test } from 'vitest';
import { ViommuError } from '../../src/core/errors.ts';
import type { IommufdFile } from '../../src/host/iommufd/file.ts';
import { FailNth, SeededFailures } from '../../src/lib/inject/failure-plans.ts';
import type { Vm } from '../../src/machine/vm.ts';
import { CountingMemory, hostState } from '../host/failures/state.ts';
import { Rig as SmmuRig } from './smmuv3/rig.ts';
import { Rig as VtdRig } from './vtd/rig.ts';

interface Plugged {
  readonly vm: Vm;
  plug(): { remove(): void };
}

const MACHINES: Record<string, () => Plugged> = {
  'an SMMUv3': () => {
    const r = new SmmuRig();
    return { vm: r.vm, plug: () => r.plug(8) };
  },
  'an SMMUv3 by the architecture, four streams': () => {
    const r = new SmmuRig({ properties: { profile: 'arch' } });
    return { vm: r.vm, plug: () => r.plug([8, 0x110, 0x218, 9], 0, { pasidBits: 8, ats: true }) };
  },
  'a VT-d unit': () => {
    const r = new VtdRig();
    return { vm: r.vm, plug: () => r.plug(8) };
  },
  'a VT-d unit in scalable mode': () => {
    const r = new VtdRig({ props: { profile: 'arch', scalableMode: true, pasidBits: 8 } });
    return { vm: r.vm, plug: () => r.plug(0x108) };
  },
};

/** Nothing of the guest's RAM is pinned piece by piece in these machines: the process has no part in the state. */
const NOBODY = new CountingMemory();

function state(m: Plugged): string {
  return hostState(m.vm.iommufd as IommufdFile, m.vm.hostMemory, NOBODY, []);
}

describe.each(Object.keys(MACHINES))('plugging a function in behind %s', (name) => {
  const make = MACHINES[name]!;

  test('with the nth internal step of the host failing: an error, nothing stays, and the next attempt succeeds', () => {
    let m = make();
    const before = state(m);
    let refused = 0;
    for (let n = 1; ; n++) {
      expect(n).toBeLessThan(1000);
      const plan = new FailNth(n);
      m.vm.hostMemory.failures = plan;
      try {
        const fn = m.plug();
        m.vm.hostMemory.failures = null;
        if (plan.failed === null) break;
        // What failed belongs to the device model's own reaction (a unit that is not in use yet has time to try again).
        fn.remove();
        m = make();
      } catch (error) {
        m.vm.hostMemory.failures = null;
        expect(error).toBeInstanceOf(ViommuError);
        expect([n, plan.failed, state(m)]).toEqual([n, plan.failed, before]);
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(4);
    const never = make();
    never.plug();
    expect(state(m)).toBe(state(never));
  });

  test('with steps failing at random while functions come and go: the host ends as it began', () => {
    const m = make();
    // What a driver keeps when a function goes is there from the first one on.
    m.plug().remove();
    const before = state(m);
    let failed = 0;
    for (let seed = 1; seed <= 200; seed++) {
      m.vm.hostMemory.failures = new SeededFailures(seed, 0.1);
      try {
        m.plug().remove();
      } catch (e) {
        expect(e).toBeInstanceOf(ViommuError);
        failed++;
      }
      m.vm.hostMemory.failures = null;
      expect([seed, state(m)]).toEqual([seed, before]);
    }
    expect(failed).toBeGreaterThan(50);
  });
});
