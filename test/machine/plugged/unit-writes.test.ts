import { expect, test } from 'vitest';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { Naive } from './naive.ts';
import { IOMMU, PCI, Rig } from './rig.ts';

const BAR = (n: number) => PCI + 0x10_0000 + n * 0x1000;
/** An address no function has mapped. */
const NOWHERE = 0x7000_0000;

/** Functions whose BARs are at BAR(0), BAR(1) …, all mapped for all. */
function plug(rig: Rig, count: number, targets: readonly number[]): Naive[] {
  return Array.from({ length: count }, (_, i) => {
    const fn = new Naive(BAR(i), targets);
    rig.machine.plug(fn, 8 * (i + 1));
    rig.config(0, 8 * (i + 1), 4, 2, 6);
    rig.guest.function(8 * (i + 1), [NO_PASID]);
    for (let k = 0; k < count; k++) rig.guest.map(8 * (i + 1), NO_PASID, BAR(k), BAR(k));
    return fn;
  });
}

/** Points a queue of the SMMU (its base register at `at`) at `base`. */
function aim(rig: Rig, at: number, base: number): void {
  const w = (offset: number, value: number) => rig.iommu.write(offset, 4, value, 0);
  w(0x20, 0x9);
  w(at, base);
  w(at + 4, 0);
  w(0x20, 0xf);
}
const EVENTQ_BASE = 0xa0;
const GERROR = 0x60;

test('an SMMUv3 event queue in the registers of the function that faults takes no record, and the guest is told', () => {
  const rig = new Rig('smmuv3');
  const [fn] = plug(rig, 1, [NOWHERE]);
  aim(rig, EVENTQ_BASE, BAR(0) | 4);
  rig.bars.write(BAR(0) - PCI, 4, 1, 0);
  expect(fn!.writes).toBe(1);
  expect(rig.iommu.read(GERROR, 4) & 4).toBe(4);
  expect(rig.errors).toEqual([]);
});

test('an SMMUv3 event queue in the registers of functions that fault in their turn ends with the last of them', () => {
  const rig = new Rig('smmuv3');
  const fns = plug(rig, 3, [NOWHERE, BAR(2)]);
  aim(rig, EVENTQ_BASE, BAR(1) | 4);
  rig.bars.write(BAR(0) - PCI, 4, 1, 0);
  expect(fns[0]!.writes).toBe(1);
  expect(fns[1]!.writes).toBeGreaterThan(0);
  expect(fns.map((f) => f.deepest)).toEqual([1, 1, 1]);
  expect(fns[1]!.writes + fns[2]!.writes).toBeLessThan(5000);
  expect(rig.errors).toEqual([]);
});

test('an SMMUv3 whose event queue lies in its own registers changes none of them', () => {
  const rig = new Rig('smmuv3');
  plug(rig, 1, [NOWHERE]);
  const before = rig.iommu.read(0x80, 4);
  aim(rig, EVENTQ_BASE, IOMMU | 0x80);
  rig.bars.write(BAR(0) - PCI, 4, 1, 0);
  expect(rig.iommu.read(0x80, 4)).toBe(before);
  expect(rig.iommu.read(GERROR, 4) & 4).toBe(4);
  expect(rig.errors).toEqual([]);
});
