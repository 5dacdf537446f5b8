import { describe, expect, test } from 'vitest';
import { FailNth, SeededFailures } from '../../../src/lib/inject/failure-plans.ts';
import { FAILURE_STEP } from '../../../src/ports/failures.ts';
import { HWPT_FLAG } from '../../../src/spec/iommufd/uapi.ts';
import { type BackendName, IOVA, World } from './world.ts';

type Step = readonly [what: string, run: (w: World) => number];

const { NEST_PARENT, PASID, FAULT_ID_VALID } = HWPT_FLAG;

/** What a VMM does, one verb after the other. Every verb that makes or moves something is in it. */
function program(name: BackendName): readonly Step[] {
  const common: Step[] = [
    ['IOAS_ALLOC', (w) => w.ioas('a')],
    ['IOAS_ALLOC another', (w) => w.ioas('b')],
    ['IOAS_ALLOW_IOVAS', (w) => w.allow('b')],
    ['IOAS_MAP without a domain', (w) => w.map('a', IOVA, 8)],
    ['IOAS_COPY without a domain', (w) => w.copy('a', 'b', IOVA + 0x1000n, IOVA, 3)],
    ['bind', (w) => w.bind(0)],
    ['bind a second function', (w) => w.bind(1)],
    ['HWPT_ALLOC of a nest parent', (w) => w.hwpt('parent', 'a', NEST_PARENT)],
    ['IOAS_MAP into a domain', (w) => w.map('a', IOVA + 0x20_0000n, 5)],
    ['attach an IOAS', (w) => w.attach(1, 'a')],
    ['IOAS_MAP into two domains', (w) => w.map('a', IOVA + 0x40_0000n, 600)],
    ['IOAS_COPY into two domains', (w) => w.copy('a', 'a', IOVA + 0x40_0000n, IOVA + 0x80_0000n, 600)],
    ['replace by another IOAS', (w) => w.attach(1, 'b')],
    ['FAULT_QUEUE_ALLOC', (w) => w.faults()],
    ['attach a parent', (w) => w.attach(0, 'parent')],
  ];
  const viommu: Step[] = [
    ['VIOMMU_ALLOC', (w) => w.viommu('viommu', 'parent')],
    ['VDEVICE_ALLOC', (w) => w.vdevice('vdevice', 'viommu', 0)],
    ['VEVENTQ_ALLOC', (w) => w.veventq('viommu')],
    ['HWPT_ALLOC nested through a vIOMMU', (w) => w.nested('nested', 'viommu')],
    ['replace a parent by a nested HWPT', (w) => w.attach(0, 'nested')],
    ['HWPT_ALLOC of another', (w) => w.nested('other', 'viommu')],
    ['replace nested by nested', (w) => w.attach(0, 'other')],
    ['replace nested by its parent', (w) => w.attach(0, 'parent')],
  ];
  const direct: Step[] = [
    ['HWPT_ALLOC of a parent for PASIDs', (w) => w.hwpt('pasids', 'a', NEST_PARENT | PASID)],
    ['replace by it', (w) => w.attach(0, 'pasids')],
    ['HWPT_ALLOC nested', (w) => w.nested('nested2', 'pasids', PASID)],
    ['attach a PASID', (w) => w.attach(0, 'nested2', 5)],
    ['attach a PASID of another table', (w) => w.attach(0, 'pasids', 5000)],
    ['replace a PASID', (w) => w.attach(0, 'pasids', 5)],
    ['replace the RID beside PASIDs', (w) => w.attach(0, 'nested2')],
  ];
  const kernelOwned: Step[] = [
    ['HWPT_ALLOC for PASIDs', (w) => w.hwpt('pasids', 'b', PASID)],
    ['replace by it', (w) => w.attach(1, 'pasids')],
    ['attach a PASID', (w) => w.attach(1, 'pasids', 5)],
    ['HWPT_ALLOC of another', (w) => w.hwpt('more', 'b', PASID)],
    ['replace a PASID', (w) => w.attach(1, 'more', 5)],
    ['attach another PASID', (w) => w.attach(1, 'more', 500)],
  ];
  switch (name) {
    case 'mock':
      return [
        ...common,
        ...viommu,
        ['HW_QUEUE_ALLOC', (w) => w.hwQueue('viommu')],
        ...direct,
        ['HWPT_ALLOC with faults', (w) => w.nested('io', 'pasids', FAULT_ID_VALID | PASID)],
        ['replace by one with faults', (w) => w.attach(0, 'io')],
      ];
    case 'smmuv3':
      return [...common, ...viommu, ...kernelOwned];
    case 'vtd':
      return [...common, ...direct];
  }
}

const BACKENDS: readonly BackendName[] = ['mock', 'smmuv3', 'vtd'];
const MOST_STEPS = 4000;
const [ENOMEM, EBUSY, ENOSPC] = [-12, -16, -28];
/** What Linux says where an id is missing: of an ASID, EBUSY; of a VMID or domain id, ENOSPC. */
const NO_ID = [EBUSY, ENOSPC];

/** Runs the first `count` steps, none of which may fail. */
function ran(name: BackendName, steps: readonly Step[], count: number): World {
  const w = new World(name);
  for (const [what, run] of steps.slice(0, count)) expect([what, run(w)]).toEqual([what, 0]);
  return w;
}

describe.each(BACKENDS)('%s: when the nth internal step of a verb fails', (name) => {
  const steps = program(name);
  test.each(steps.map(([what], i) => [what, i] as const))('%s: nothing has happened', (_what, i) => {
    const run = steps[i]![1];
    let tried = 0;
    let w = ran(name, steps, i);
    const before = w.state();
    for (let n = 1; ; n++) {
      expect(n).toBeLessThan(MOST_STEPS);
      const plan = new FailNth(n);
      w.memory.failures = plan;
      const r = run(w);
      w.memory.failures = null;
      if (plan.failed === null) {
        expect(r).toBe(0);
        break;
      }
      tried++;
      const errno = plan.failed === FAILURE_STEP.ID ? NO_ID : [ENOMEM];
      expect(errno, `step ${n}: ${plan.failed}`).toContain(r);
      expect(w.state()).toBe(before);
    }
    expect(tried).toBeGreaterThan(0);
    // What failed so often does what it does in a world where nothing ever failed.
    const fresh = ran(name, steps, i + 1);
    expect(w.state()).toBe(fresh.state());
    w.close();
    w = fresh;
    w.close();
    expect(w.process.pins.size).toBe(0);
  });

  test('a whole program whose steps fail at random, each repeated until it passes, ends as one that never failed', () => {
    const never = ran(name, steps, steps.length).state();
    for (let seed = 1; seed <= 20; seed++) {
      const w = new World(name);
      for (const [what, run] of steps) {
        for (let tries = 0; ; tries++) {
          w.memory.failures = tries < 8 ? new SeededFailures(seed * 1000 + tries, 0.05 / (tries + 1)) : null;
          const before = tries === 0 ? w.state() : '';
          const r = run(w);
          w.memory.failures = null;
          if (r === 0) break;
          expect([ENOMEM, ...NO_ID], `seed ${seed}: ${what}`).toContain(r);
          if (before !== '') expect(w.state()).toBe(before);
        }
      }
      expect(w.state()).toBe(never);
      w.close();
      expect(w.process.pins.size).toBe(0);
    }
  });
});
