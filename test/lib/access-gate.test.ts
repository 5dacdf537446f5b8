import { expect, test } from 'vitest';
import { AccessGate, AccessNesting } from '../../src/lib/access/access-gate.ts';
import { AddressSpace } from '../../src/lib/memory/address-space.ts';

test('a device at work lets nobody in, and while it brings others to life and those are at work, neither', () => {
  const nesting = new AccessNesting();
  const parent = new AccessGate(nesting);
  const child = new AccessGate(nesting, parent);
  expect(parent.enter()).toBe(true);
  expect([parent.enter(), child.enter()]).toEqual([false, true]);
  child.leave();
  parent.leave();
  expect(child.send()).toBe(true);
  expect([parent.open, parent.enter()]).toEqual([false, false]);
  child.sent();
  expect([parent.open, nesting.depth]).toEqual([true, 0]);
});

test('while an IOMMU reads registers in the middle of a walk, no request of a function gets through', () => {
  const nesting = new AccessNesting();
  const fn = new AccessGate(nesting);
  const space = new AddressSpace();
  const seen: boolean[] = [];
  space.addWindow(0x1000, 16, {
    name: 'w',
    read: () => {
      seen.push(fn.send());
      if (seen.at(-1)) fn.sent();
      return 5;
    },
    write: () => void seen.push(fn.send()),
  });
  const walker = space.view(new AccessGate(nesting), true);
  expect([walker.load32(0x1000), walker.lo, walker.store32(0x1000, 1)]).toEqual([true, 5, true]);
  expect(space.load32(0x1000)).toBe(true);
  expect(seen).toEqual([false, false, true]);
  expect(nesting.depth + nesting.sealed).toBe(0);
});

test('a chain of devices, and what it sets in motion, has an end', () => {
  const nesting = new AccessNesting();
  const gates = Array.from({ length: 20 }, () => new AccessGate(nesting));
  expect(gates.filter((g) => g.enter())).toHaveLength(8);
  let caused = 0;
  while (gates[7]!.send() && caused < 1e6) {
    gates[7]!.sent();
    caused++;
  }
  expect(caused).toBeLessThan(5000);
});
