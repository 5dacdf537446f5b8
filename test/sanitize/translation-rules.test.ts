import { describe, expect, test } from 'vitest';
import { DATA, type Driver, rulesOf } from './driver.ts';
import { SmmuDriver } from './smmuv3-driver.ts';
import { VtdDriver } from './vtd-driver.ts';

const DRIVERS: readonly (readonly [name: string, make: (ats?: boolean) => Driver])[] = [
  ['SMMUv3 stage 1', (ats = false) => new SmmuDriver({ ats })],
  ['SMMUv3 stage 2', (ats = false) => new SmmuDriver({ stage2: true, ats })],
  ['VT-d legacy', (ats = false) => new VtdDriver({ ats })],
  ['VT-d scalable', (ats = false) => new VtdDriver({ scalable: true, ats })],
];
const VA = 0x10_0000;
const A = DATA;
const B = DATA + 0x1000;

describe.each(DRIVERS)('%s', (_name, make) => {
  test('a driver that does everything right is not found', () => {
    const d = make();
    d.map(VA, A);
    d.guest.dma(d.sid, VA, A);
    d.unmap(VA);
    d.invalidate(VA);
    d.submit();
    d.map(VA, B);
    d.guest.dma(d.sid, VA, B);

    expect(rulesOf(d)).toEqual([]);
  });

  test('use-after-unmap: an access gets through a mapping the tables no longer have', () => {
    const d = make();
    d.map(VA, A);
    d.unmap(VA);
    d.guest.dma(d.sid, VA, A);

    expect(rulesOf(d)).toEqual(['use-after-unmap']);
  });

  test('use-after-unmap: an access that is refused, but could have got through on other hardware', () => {
    const d = make();
    d.map(VA, A);
    d.unmap(VA);
    d.guest.refused(d.sid, VA, d.iommu === 'smmuv3' ? 0x10 : 6);

    expect(rulesOf(d)).toEqual(['use-after-unmap']);
  });

  test('not use-after-unmap: the refused access comes after the invalidation', () => {
    const d = make();
    d.map(VA, A);
    d.unmap(VA);
    d.invalidate(VA);
    d.submit();
    d.guest.refused(d.sid, VA, d.iommu === 'smmuv3' ? 0x10 : 6);

    expect(rulesOf(d)).toEqual([]);
  });

  test('missing-invalidation: an address gets another output', () => {
    const d = make();
    d.map(VA, A);
    d.unmap(VA);
    d.map(VA, B);

    expect(rulesOf(d)).toEqual(['missing-invalidation']);
  });

  test('not missing-invalidation: it gets the same output again', () => {
    const d = make();
    d.map(VA, A);
    d.unmap(VA);
    d.map(VA, A);
    d.guest.dma(d.sid, VA, A);

    expect(rulesOf(d)).toEqual([]);
  });

  test('missing-invalidation: a table that walks may still lead through is a table elsewhere', () => {
    const d = make();
    d.map(VA, A);
    d.unmap(VA);
    d.invalidate(VA);
    d.submit();
    const table = d.unlink(VA);
    d.link(VA + 0x4000_0000, table);

    expect(rulesOf(d)).toEqual(['missing-invalidation']);
  });

  test('not missing-invalidation: the table goes back to its place', () => {
    const d = make();
    d.map(VA, A);
    const table = d.unlink(VA);
    d.link(VA, table);
    d.guest.dma(d.sid, VA, A);

    expect(rulesOf(d)).toEqual([]);
  });

  test('invalidation-too-small: a table entry went, and only the last level was invalidated', () => {
    const d = make();
    d.map(VA, A);
    d.unmap(VA);
    const table = d.unlink(VA);
    d.invalidate(VA);
    d.submit();
    d.link(VA + 0x4000_0000, table);

    const found = d.guest.judge(d.iommu);
    expect(found.map((f) => f.rule)).toEqual(['invalidation-too-small']);
    expect(found[0]!.message).toMatch(/last level only/);
  });

  test('not invalidation-too-small: the walk was invalidated too', () => {
    const d = make();
    d.map(VA, A);
    d.unmap(VA);
    const table = d.unlink(VA);
    d.invalidate(VA, 1, false);
    d.submit();
    d.link(VA + 0x4000_0000, table);

    expect(rulesOf(d)).toEqual([]);
  });

  test('invalidation-too-small: one page of two', () => {
    const d = make();
    for (const n of [0, 1]) d.map(VA + 0x1000 * n, A + 0x1000 * n);
    for (const n of [0, 1]) d.unmap(VA + 0x1000 * n);
    d.invalidate(VA);
    d.submit();
    for (const n of [0, 1]) d.map(VA + 0x1000 * n, A + 0x8000 + 0x1000 * n);

    expect(rulesOf(d)).toEqual(['invalidation-too-small']);
  });

  test('not invalidation-too-small: both pages of two', () => {
    const d = make();
    for (const n of [0, 1]) d.map(VA + 0x1000 * n, A + 0x1000 * n);
    for (const n of [0, 1]) d.unmap(VA + 0x1000 * n);
    d.invalidate(VA, 2);
    d.submit();
    for (const n of [0, 1]) d.map(VA + 0x1000 * n, A + 0x8000 + 0x1000 * n);

    expect(rulesOf(d)).toEqual([]);
  });

  test('invalidation-not-awaited: the address is used anew before the completion', () => {
    const d = make();
    d.map(VA, A);
    d.unmap(VA);
    d.invalidate(VA);
    d.submit(false);
    d.map(VA, B);
    d.submit();

    expect(rulesOf(d)).toEqual(['invalidation-not-awaited']);
  });

  test('not invalidation-not-awaited: another address is used meanwhile', () => {
    const d = make();
    d.map(VA, A);
    d.unmap(VA);
    d.invalidate(VA);
    d.submit(false);
    d.map(VA + 0x1000, B);
    d.submit();
    d.map(VA, B);

    expect(rulesOf(d)).toEqual([]);
  });

  test('lazy invalidation by everything is as good', () => {
    const d = make();
    for (let n = 0; n < 8; n++) d.map(VA + 0x1000 * n, A + 0x1000 * n);
    for (let n = 0; n < 8; n++) d.unmap(VA + 0x1000 * n);
    d.invalidateAll();
    d.submit();
    for (let n = 0; n < 8; n++) d.map(VA + 0x1000 * n, A + 0x8000 + 0x1000 * n);

    expect(rulesOf(d)).toEqual([]);
  });

  test('missing-atc-invalidation: a function with ATS on was never told', () => {
    const d = make(true);
    d.map(VA, A);
    d.unmap(VA);
    d.invalidate(VA);
    d.submit();
    d.map(VA, B);

    expect(rulesOf(d)).toEqual(['missing-atc-invalidation']);
  });

  test('not missing-atc-invalidation: it was told, behind the invalidation of the IOMMU', () => {
    const d = make(true);
    d.map(VA, A);
    d.unmap(VA);
    d.invalidate(VA);
    d.fence();
    d.invalidateDevice(VA);
    d.submit();
    d.map(VA, B);

    expect(rulesOf(d)).toEqual([]);
  });

  test('atc-before-iotlb: the function was told first', () => {
    const d = make(true);
    d.map(VA, A);
    d.unmap(VA);
    d.invalidateDevice(VA);
    d.submit();
    d.invalidate(VA);
    d.submit();
    d.map(VA, B);

    expect(rulesOf(d)).toEqual(['atc-before-iotlb']);
  });

  test('not atc-before-iotlb: it was told again afterwards', () => {
    const d = make(true);
    d.map(VA, A);
    d.unmap(VA);
    d.invalidateDevice(VA);
    d.submit();
    d.invalidate(VA);
    d.submit();
    d.invalidateDevice(VA);
    d.submit();
    d.map(VA, B);

    expect(rulesOf(d)).toEqual([]);
  });

  test('permissions-raised-without-invalidation', () => {
    const d = make();
    d.map(VA, A, false);
    d.map(VA, A, true);
    for (let n = 0; n < 3; n++) d.submit();

    expect(rulesOf(d)).toEqual(['permissions-raised-without-invalidation']);
  });

  test('not permissions-raised-without-invalidation: invalidated', () => {
    const d = make();
    d.map(VA, A, false);
    d.map(VA, A, true);
    d.invalidate(VA);
    for (let n = 0; n < 3; n++) d.submit();

    expect(rulesOf(d)).toEqual([]);
  });

  test('missing-invalidation: permissions that were taken away are still cached', () => {
    const d = make();
    d.map(VA, A, true);
    d.map(VA, A, false);
    for (let n = 0; n < 3; n++) d.submit();

    expect(rulesOf(d)).toEqual(['missing-invalidation']);
  });
});

describe('break-before-make', () => {
  const BLOCK = 0x4000_0000;

  test.each([
    ['stage 1', false],
    ['stage 2', true],
  ])('%s: another output in one store', (_, stage2) => {
    const d = new SmmuDriver({ stage2, bbml: 2 });
    d.map(VA, A);
    d.map(VA, B);

    expect(rulesOf(d)).toEqual(['break-before-make']);
  });

  test('not when the entry is invalid, invalidated and waited for in between', () => {
    const d = new SmmuDriver();
    d.map(VA, A);
    d.unmap(VA);
    d.invalidate(VA);
    d.submit();
    d.map(VA, B);

    expect(rulesOf(d)).toEqual([]);
  });

  test('a block is split in one store: forbidden with BBML 0, allowed with BBML 2, with BBML 1 behind nT', () => {
    const split = (bbml: number, nt = 0n) => {
      const d = new SmmuDriver({ bbml });
      d.entry(BLOCK, d.leaf(DATA, true, true), 1);
      if (nt > 0n) d.entry(BLOCK, d.leaf(DATA, true, true) | nt, 1);
      const table = d.guest.alloc();
      for (let n = 0; n < 512; n++) d.guest.st(table + 8 * n, d.leaf(DATA + 0x1000 * n, true));
      d.link(BLOCK, table);
      d.invalidate(BLOCK, 1, false);
      d.submit();
      return rulesOf(d);
    };

    expect(split(0)).toEqual(['break-before-make']);
    expect(split(2)).toEqual([]);
    expect(split(1)).toEqual(['break-before-make']);
    expect(split(1, 1n << 16n)).toEqual([]);
  });

  test('VT-d has no such rule: the invalidation comes after the store', () => {
    const d = new VtdDriver();
    d.map(VA, A);
    d.map(VA, B);
    d.invalidate(VA);
    d.submit();
    d.guest.dma(d.sid, VA, B);

    expect(rulesOf(d)).toEqual([]);
  });

  test('VT-d: without an invalidation the new output must not be used', () => {
    const d = new VtdDriver();
    d.map(VA, A);
    d.map(VA, B);
    d.guest.dma(d.sid, VA, B);

    expect(rulesOf(d)).toEqual(['missing-invalidation']);
  });
});

describe('missing-notpresent-invalidation', () => {
  const drive = (told: boolean, scalable = false) => {
    const d = new VtdDriver({ cachingMode: true, scalable });
    d.map(VA, A);
    if (told) d.invalidate(VA, 1, false);
    d.submit();
    d.guest.dma(d.sid, VA, A);
    return rulesOf(d);
  };

  test('caching mode: a new mapping is used that hardware was not told of', () => {
    expect(drive(false)).toEqual(['missing-notpresent-invalidation']);
  });

  test('not when it was told; and never of a first stage', () => {
    expect(drive(true)).toEqual([]);
    expect(drive(false, true)).toEqual([]);
  });
});

describe('invalidation-too-small says what was wrong', () => {
  test.each([
    ['ASID', 0x12n | (6n << 48n), BigInt(VA) | 1n, /ASID 6.*ASID 5/],
    ['VMID', 0x12n | (5n << 48n) | (1n << 32n), BigInt(VA) | 1n, /VMID 1.*VMID 0/],
    ['page', 0x12n | (5n << 48n), BigInt(VA + 0x1000) | 1n, /ends before/],
    ['level', 0x12n | (5n << 48n) | (1n << 12n), BigInt(VA) | 1n | (2n << 8n) | (1n << 10n), /2\^21.*2\^12/],
  ])('%s of a TLBI', (_, w0, w1, why) => {
    const d = new SmmuDriver({ stage2: false });
    d.guest.r(0, 0x0d54_1c1b);
    d.map(VA, A);
    d.unmap(VA);
    d.command(w0, w1);
    d.submit();
    d.map(VA, B);

    const found = d.guest.judge('smmuv3');
    expect(found.map((f) => f.rule)).toEqual(['invalidation-too-small']);
    expect(found[0]!.message).toMatch(why);
  });

  test('a global entry and TLBI_NH_ASID', () => {
    const d = new SmmuDriver();
    d.entry(VA, d.leaf(A, true) & ~0x800n);
    d.unmap(VA);
    d.invalidateAll();
    d.submit();
    d.map(VA, B);

    expect(d.guest.judge('smmuv3')[0]!.message).toMatch(/global/);
  });

  test.each([
    ['domain', false, 2n | (3n << 4n) | (6n << 16n), BigInt(VA), /domain 6.*domain 5/],
    ['PASID', true, 6n | (3n << 4n) | (5n << 16n) | (7n << 32n), BigInt(VA), /PASID 7.*PASID 0/],
    ['page', true, 6n | (3n << 4n) | (5n << 16n), BigInt(VA + 0x1000), /ends before/],
  ])('%s of a VT-d descriptor', (_, scalable, lo, hi, why) => {
    const d = new VtdDriver({ scalable });
    d.map(VA, A);
    d.unmap(VA);
    d.descriptor(lo, hi);
    d.submit();
    d.map(VA, B);

    const found = d.guest.judge('vtd');
    expect(found.map((f) => f.rule)).toEqual(['invalidation-too-small']);
    expect(found[0]!.message).toMatch(why);
  });
});
