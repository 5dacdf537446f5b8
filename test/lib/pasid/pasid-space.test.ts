import { expect, test } from 'vitest';
import { PasidSpace } from '../../../src/lib/pasid/pasid-space.ts';

test('PASIDs are allocated and freed without any address space; 0 is reserved, the range is the configured one', () => {
  const handle = new PasidSpace(1, 4).open();
  expect([handle.allocate(), handle.allocate(), handle.allocate(), handle.allocate()]).toEqual([1, 2, 3, -1]);
  expect([handle.free(2), handle.free(2), handle.allocate()]).toEqual([true, false, 2]);
  expect(() => new PasidSpace(0, 4)).toThrow('within [1, 2^20)');
});

test('private data is found by PASID, and only while it is allocated', () => {
  const space = new PasidSpace(16, 32);
  const handle = space.open();
  const pasid = handle.allocate('binding');
  expect([pasid, space.dataOf(pasid), space.ownerOf(pasid) === handle]).toEqual([16, 'binding', true]);
  handle.free(pasid);
  expect([space.dataOf(pasid), space.ownerOf(pasid)]).toEqual([undefined, null]);
});

test('a PASID is not reused before every user is done and the drain has finished', () => {
  const space = new PasidSpace(1, 2);
  const handle = space.open();
  const pasid = handle.allocate();
  expect(space.hold(pasid)).toBe(true);
  handle.free(pasid, true);
  expect([space.hold(pasid), handle.allocate()]).toEqual([false, -1]);
  space.done(pasid);
  expect(handle.allocate()).toBe(-1);
  space.drained(pasid);
  expect(handle.allocate()).toBe(pasid);
});

test('closing a handle gives back what is left, and nothing of anybody else', () => {
  const space = new PasidSpace(1, 100);
  const [a, b] = [space.open(), space.open()];
  for (let i = 0; i < 5; i++) {
    a.allocate();
    b.allocate();
  }
  a.close();
  expect([space.busy, b.owns(2), b.free(1)]).toEqual([5, true, false]);
});
