import { describe, expect, test } from 'vitest';
import { ViommuError } from '../../../src/core/errors.ts';
import { FAILURE_KINDS, type FailureKind, type FailureOptions } from '../../../src/lib/inject/failure-options.ts';
import { DMA } from '../../../src/ports/dma.ts';
import { DATA, KINDS, type Kind, probe, Rig, VA } from '../plugged/rig.ts';

const RID = 0x10;
/** Nanoseconds after which an unanswered invalidation has been given up. */
const TIMEOUT = 61e9;

/** A guest with a function; one with ATS has its translation of VA cached. Failures begin then. */
function cached(kind: Kind, failures: FailureOptions, ats = true) {
  const rig = new Rig(kind, { failures });
  const injector = rig.machine.vm.failures!;
  injector.on = false;
  const fn = probe(ats ? { ats: {} } : {});
  rig.plug(fn, RID);
  rig.space(RID);
  rig.guest.sync();
  if (ats) expect(rig.reaches(fn, DATA)).toBe(true);
  injector.on = true;
  const read = (at: number) => rig.iommu.read(at, 4) >>> 0;
  /** The guest was told of an invalidation that nobody answered: CERROR_ATC_INV_SYNC; ITE. */
  const timedOut = () => (kind === 'smmuv3' ? (read(0x9c) >>> 24) & 0x7f : (read(0x34) >>> 6) & 1) !== 0;
  /** VT-d: a completion came that nobody waited for (ICE). */
  const unexpected = () => kind === 'vtd' && ((read(0x34) >>> 5) & 1) === 1;
  /** The queue of records was full: OVFLG; PFO. */
  const overflowed = () => (kind === 'smmuv3' ? read(0x100a8) >>> 31 : read(0x34) & 1) === 1;
  const invalidate = (): boolean => {
    rig.guest.invalidate(RID, -1, VA);
    return rig.guest.sync();
  };
  return { rig, fn, injector, timedOut, unexpected, overflowed, invalidate };
}

describe.each(KINDS)('%s', (kind) => {
  test('a completion that is lost is a timeout at the guest, and the next one is none', () => {
    const { rig, injector, invalidate, timedOut } = cached(kind, { seed: 1, lostCompletions: 1 });
    expect(invalidate()).toBe(false);
    expect(timedOut()).toBe(false);
    rig.machine.vm.clock.advance(TIMEOUT);
    expect([timedOut(), injector.last]).toEqual([true, 'completion lost']);
  });

  test('a completion that is late holds the queue for that long', () => {
    const { rig, invalidate, timedOut } = cached(kind, { seed: 1, lateCompletions: 1, delay: 5000 });
    expect(invalidate()).toBe(false);
    rig.machine.vm.clock.advance(4999);
    expect(rig.guest.synced()).toBe(false);
    // A queue may hold back the next invalidation until the one before is answered.
    rig.machine.vm.clock.advance(5001);
    expect([rig.guest.synced(), timedOut()]).toEqual([true, false]);
  });

  test('a completion that comes twice is told where there is a report for it, and harms nothing', () => {
    const { rig, fn, invalidate, unexpected } = cached(kind, { seed: 1, doubledCompletions: 1 });
    expect(invalidate()).toBe(true);
    expect(unexpected()).toBe(kind === 'vtd');
    expect(rig.reaches(fn, DATA)).toBe(true);
  });

  test('a record that finds its queue full is an overflow', () => {
    const { rig, fn, overflowed } = cached(kind, { seed: 1, queues: 1 }, false);
    expect(rig.write(fn, 1, undefined, VA + 0x5000)).not.toBe(DMA.OK);
    expect(overflowed()).toBe(true);
  });

  test('every fetch of an access aborts, one after the other: the access is refused, and goes through afterwards', () => {
    let refused = 0;
    for (let n = 1; ; n++) {
      const { rig, fn, injector, invalidate } = cached(kind, { seed: 1 }, false);
      const plan = injector.nth(n, ['fetches']);
      const r = rig.write(fn, 1);
      injector.on = false;
      if (r !== DMA.OK) refused++;
      expect(rig.errors).toEqual([]);
      if (plan.failed === null) break;
      invalidate();
      expect([n, rig.reaches(fn, DATA)]).toEqual([n, true]);
    }
    // Tables of at least three levels.
    expect(refused).toBeGreaterThan(2);
  });

  test('a number of the hardware that is not to be had: the function cannot be plugged in, or its access is a fault', () => {
    const rig = new Rig(kind, { failures: { seed: 1, ids: 1 } });
    const injector = rig.machine.vm.failures!;
    const fn = probe();
    // The first function of an SMMU brings the VMID of the VM along; VT-d takes a domain id for what is attached.
    if (kind === 'smmuv3') expect(() => rig.plug(fn, RID)).toThrow(ViommuError);
    injector.on = kind === 'vtd';
    rig.plug(fn, RID);
    rig.space(RID);
    rig.guest.sync();
    if (kind === 'vtd') {
      expect(rig.write(fn, 1)).not.toBe(DMA.OK);
      expect(rig.guest.faults().length).toBeGreaterThan(0);
    }
    expect(injector.last).toBe('id');
    injector.on = false;
    rig.guest.invalidate(RID, -1, VA);
    rig.guest.sync();
    expect([rig.reaches(fn, DATA), rig.guest.faults(), rig.errors]).toEqual([true, [], []]);
  });

  test.each(FAILURE_KINDS)('%s alone: the same seed gives the same run, another one another', (which: FailureKind) => {
    const run = (seed: number): string => {
      // Without ATS every refused access is a record; with it, every invalidation waits for a completion.
      const ats = which.endsWith('Completions');
      const { rig, fn, injector } = cached(kind, { seed, [which]: 0.3, delay: 2000 }, ats);
      const read = (at: number) => rig.iommu.read(at, 4) >>> 0;
      /** The driver acknowledges what stopped its queue, which goes on then: GERRORN = GERROR; FSTS. */
      const recover = () => {
        if (kind === 'smmuv3') rig.iommu.write(0x64, 4, read(0x60), 0);
        else rig.iommu.write(0x34, 4, read(0x34), 0);
      };
      const seen: unknown[] = [];
      for (let i = 0; i < 40; i++) {
        const va = VA + 4096 * (i % 8);
        rig.guest.map(RID, -1, va, DATA + 4096 * i);
        if (ats) rig.write(fn, i, undefined, va);
        rig.guest.invalidate(RID, -1, va);
        if (i % 4 === 3) {
          rig.guest.function(RID, [-1]);
          rig.guest.map(RID, -1, VA, DATA);
        }
        seen.push(rig.guest.sync());
        let errors = 0;
        for (; errors < 6; errors++) {
          rig.machine.vm.clock.advance(TIMEOUT);
          if (rig.guest.synced()) break;
          recover();
        }
        seen.push(errors, rig.write(fn, i, undefined, VA + 4096 * ((i * 3) % 16)));
        seen.push(rig.write(fn, i, undefined, VA + 0x40_0000));
        if (kind === 'vtd') {
          seen.push(read(0x34) & 0x70);
          recover();
        }
        seen.push(rig.guest.faults());
      }
      expect(rig.errors).toEqual([]);
      const counts = injector.counts();
      for (const other of FAILURE_KINDS) if (other !== which) expect(counts[other].failed).toBe(0);
      if (kind === 'smmuv3' && which === 'ids') seen.push(...replugged(seed));
      else {
        expect(counts[which].asked).toBeGreaterThan(10);
        expect(counts[which].failed).toBeGreaterThan(0);
      }
      return JSON.stringify(seen);
    };
    expect(run(1)).toBe(run(1));
    const runs = new Set([1, 2, 3, 4].map(run)).size;
    // An SMMU has no report for a completion that comes twice: its guest sees the same run whatever the seed is.
    if (kind === 'smmuv3' && which === 'doubledCompletions') expect(runs).toBe(1);
    else expect(runs).toBeGreaterThan(1);
  });
});

/** The last function goes and comes again, with the VMID of the VM: whether that was possible. */
function replugged(seed: number): boolean[] {
  const rig = new Rig('smmuv3', { failures: { seed, ids: 0.3 } });
  const seen: boolean[] = [];
  for (let i = 0; i < 40; i++) {
    try {
      rig.plug(probe(), RID)();
      seen.push(true);
    } catch (error) {
      expect(error).toBeInstanceOf(ViommuError);
      seen.push(false);
    }
  }
  const { asked, failed } = rig.machine.vm.failures!.counts().ids;
  expect([rig.errors, seen.filter((s) => !s).length]).toEqual([[], failed]);
  expect(asked).toBeGreaterThan(10);
  return seen;
}
