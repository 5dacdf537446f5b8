import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test } from 'vitest';
import { smmuv3Defaults } from '../../devices/smmuv3/properties.ts';
import { vtdDefaults } from '../../devices/vtd/properties.ts';
import { Smmuv3Unit } from '../../src/machine/smmuv3-unit.ts';
import { Vm } from '../../src/machine/vm.ts';
import { VtdUnit } from '../../src/machine/vtd-unit.ts';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** Bytes alive: objects, and array contents outside the heap. */
function alive(): number {
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

const MANY = 64;
const irq = { pulse() {}, level() {}, message: () => true };
const vm = () => new Vm({ ram: [{ base: 0, bytes: 4096 }] });

const MAKERS: readonly (readonly [name: string, make: () => unknown])[] = [
  ['vSMMUv3', () => new Smmuv3Unit(vm(), { name: 'smmuv3', properties: smmuv3Defaults(), irq, doorbell: 0x0809_0000 })],
  ['vVT-d', () => new VtdUnit(vm(), { name: 'vtd', properties: vtdDefaults(), irq })],
];

test.each(MAKERS)('a %s that nobody uses, with its VM and host, takes at most 256 KiB', (_, make) => {
  make();
  const before = alive();
  const kept = Array.from({ length: MANY }, make);
  const each = (alive() - before) / MANY;
  expect(kept.length).toBe(MANY);
  expect(each).toBeLessThan(256 * 1024);
  // Registers alone are more than this: less would say that nothing was measured.
  expect(each).toBeGreaterThan(16 * 1024);
});
