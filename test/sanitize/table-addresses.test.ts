import { describe, expect, test } from 'vitest';
import { rulesOf } from './driver.ts';
import { SMMU, SmmuDriver } from './smmuv3-driver.ts';
import { VtdDriver } from './vtd-driver.ts';

/** An address that neither unit can send out, and one that both can. */
const FAR = 1n << 50n;
const NEAR = 1n << 43n;

describe('SMMUv3', () => {
  /** CDs of 64 KiB leaf tables below a first level. @param leaf where substreams 1024 to 2047 have theirs. */
  function levels(leaf: bigint, format: bigint): string[] {
    const d = new SmmuDriver();
    const first = d.guest.alloc();
    d.guest.st(first + 8, leaf | 1n);
    const at = d.streams + 64 * 16;
    d.guest.st(at + 8, 2n).st(at, 0xbn | (format << 4n) | BigInt(first) | (11n << 59n));
    d.config(16);
    return rulesOf(d);
  }

  /** A stream table of two levels, split at 64. */
  function streams(leaf: (d: SmmuDriver) => bigint): string[] {
    const d = new SmmuDriver();
    d.control(0x8);
    const first = d.guest.alloc();
    d.guest.st(first, leaf(d) | 7n);
    d.guest.w(SMMU.STRTAB_BASE, first, 8).w(SMMU.STRTAB_BASE_CFG, (1 << 16) | (6 << 6) | 10);
    d.control(0x9);
    return rulesOf(d);
  }

  test.each<[what: string, store: (d: SmmuDriver, at: bigint) => void]>([
    ['a CD table', (d, at) => d.guest.st(d.streams + 64 * 16, 0xbn | at)],
    ['a stage-1 table', (d, at) => d.guest.st(d.cds + 72, at).st(d.cds + 64, d.cdWord(9))],
  ])('beyond-output-size: %s; not one that the SMMU can reach', (_, store) => {
    const far = (at: bigint) => {
      const d = new SmmuDriver({ ssid: 2 });
      store(d, at);
      d.config(16);
      return rulesOf(d);
    };

    expect(far(FAR)).toEqual(['beyond-output-size']);
    expect(far(NEAR)).toEqual([]);
  });

  test('beyond-output-size: a second level of either table; not one that the SMMU can reach', () => {
    expect(levels(FAR, 1n)).toEqual(['beyond-output-size']);
    expect(levels(NEAR, 1n)).toEqual([]);
    expect(streams(() => FAR)).toEqual(['beyond-output-size']);
    expect(streams(() => NEAR)).toEqual([]);
  });

  test('table-not-aligned: a second level of either table; not one that is', () => {
    expect(levels(0x4400_1000n, 2n)).toEqual(['table-not-aligned']);
    expect(levels(0x4401_0000n, 2n)).toEqual([]);
    expect(streams((d) => BigInt(d.guest.alloc()) + 0x40n)).toEqual(['table-not-aligned']);
    expect(streams((d) => BigInt(d.guest.alloc()))).toEqual([]);
  });
});

describe('VT-d', () => {
  test.each<[what: string, scalable: boolean, store: (d: VtdDriver, at: bigint) => void]>([
    ['a context table', false, (d, at) => d.guest.st(d.roots + 16, at | 1n)],
    ['a second-stage table', false, (d, at) => d.context(9, Number(at), 16)],
    ['a PASID directory', true, (d, at) => d.guest.st(d.contexts + 32 * 16, at | 9n)],
    ['a PASID table', true, (d, at) => d.guest.st(d.directory + 8, at | 1n)],
    ['a first-stage table', true, (d, at) => d.pasid(3, 9, Number(at))],
    ['a second-stage table of a PASID', true, (d, at) => d.guest.st(d.pasids + 136, 7).st(d.pasids + 128, at | 0x89n)],
  ])('beyond-output-size: %s; not one that the unit can reach', (_, scalable, store) => {
    const far = (at: bigint) => {
      const d = new VtdDriver({ scalable });
      store(d, at);
      return rulesOf(d);
    };

    expect(far(FAR)).toEqual(['beyond-output-size']);
    expect(far(NEAR)).toEqual([]);
  });
});
