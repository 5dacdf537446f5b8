import { expect, test } from 'vitest';
import { rulesOf } from './driver.ts';
import { GCMD, VTD, VtdDriver } from './vtd-driver.ts';

/** Context entries and IRTEs can be stored 16 bytes at a time, which is told as two stores, the lower half first. */
type Half = readonly [offset: number, value: bigint];

/** Changes the context entry of a function, and invalidates it. */
function context(sid: number, stores: (d: VtdDriver) => readonly Half[]): string[] {
  const d = new VtdDriver();
  for (const [offset, value] of stores(d)) d.guest.st(d.contexts + 16 * sid + offset, value);
  d.contextCache();
  d.invalidateAll();
  d.submit();
  return rulesOf(d);
}

/** Gives an IRTE, and then other words. */
function irte(halves: readonly Half[]): string[] {
  const d = new VtdDriver();
  d.guest.st(d.interrupts, 0).w(VTD.IRTA, BigInt(d.interrupts) | 7n, 8);
  d.control(GCMD.SIRTP);
  d.control(GCMD.IRE);
  d.guest.st(d.interrupts + 24, 0x4_0008n).st(d.interrupts + 16, 0x21_0001n);
  d.descriptor(4n, 0n);
  d.submit();
  for (const [offset, value] of halves) d.guest.st(d.interrupts + 16 + offset, value);
  d.descriptor(4n, 0n);
  d.submit();
  return rulesOf(d);
}

const low = (d: VtdDriver): Half => [0, BigInt(d.root) | 1n];
const high = (d: VtdDriver): Half => [8, 2n | (BigInt(d.did) << 8n)];

test('valid-before-filled: a context entry is present, and the half with the domain comes later', () => {
  expect(context(9, (d) => [low(d), low(d), [0, BigInt(d.root) | 3n], high(d)])).toEqual(['valid-before-filled']);
});

test('not valid-before-filled: the half with P last, or both in one store', () => {
  expect(context(9, (d) => [high(d), low(d)])).toEqual([]);
  expect(context(9, (d) => [low(d), high(d)])).toEqual([]);
});

test('torn-entry: the upper half of a present context entry, then the lower one; not both in one store', () => {
  const other: Half = [8, 2n | (6n << 8n)];
  const moved = (d: VtdDriver): Half => [0, BigInt(d.guest.alloc()) | 1n];

  expect(context(8, (d) => [other, moved(d)])).toEqual(['torn-entry']);
  expect(context(8, (d) => [moved(d), other])).toEqual([]);
});

test('torn-entry: the upper half of a present IRTE, then the lower one; not both in one store, nor the lower one alone', () => {
  const upper: Half = [8, 0x4_0010n];
  const lower: Half = [0, 0x22_0001n];

  expect(irte([upper, lower])).toEqual(['torn-entry']);
  expect(irte([lower, upper])).toEqual([]);
  expect(irte([lower])).toEqual([]);
});
