import { describe, expect, test } from 'vitest';
import { DATA, rulesOf } from './driver.ts';
import { SmmuDriver } from './smmuv3-driver.ts';
import { GCMD, VTD, VtdDriver } from './vtd-driver.ts';

const VA = 0x10_0000;
const B = DATA + 0x1000;

describe('an STE that is stored behind its command', () => {
  const STE = (d: SmmuDriver, n: number) => d.streams + 64 * d.sid + 8 * n;
  /** From bypass to stage 1: a word that nobody looks at, an invalidation, the word that says what the entry is. */
  const drive = (late: boolean) => {
    const d = new SmmuDriver();
    d.guest.st(STE(d, 0), 9);
    d.config(d.sid);
    if (!late) d.guest.st(STE(d, 2), 5);
    d.config(d.sid);
    if (late) d.guest.st(STE(d, 2), 5);
    d.guest.st(STE(d, 0), d.steWords()[0]!);
    d.config(d.sid);
    return rulesOf(d);
  };

  test('was changed and not invalidated', () => {
    expect(drive(true)).toEqual(['config-change-not-invalidated']);
  });

  test('not where it is stored before the command', () => {
    expect(drive(false)).toEqual([]);
  });
});

describe('a level hint and a granule', () => {
  const TG = 1n << 10n;
  const drive = (w1: bigint) => {
    const d = new SmmuDriver();
    d.guest.r(0xc, 0x404);
    d.map(VA, DATA);
    d.unmap(VA);
    const table = d.unlink(VA);
    d.command(0x12n | (BigInt(d.asid) << 48n) | (1n << 12n), BigInt(VA) | w1);
    d.submit();
    d.link(VA + 0x4000_0000, table);
    return d.guest.judge(d.iommu).map((f) => `${f.rule}: ${f.message}`);
  };

  test('of level 2: the entry of level 2 that led to a table stays (IHI 0070 §4.4.1.1)', () => {
    expect(drive(TG | (2n << 8n))).toEqual([expect.stringMatching(/^invalidation-too-small: .*level hint/)]);
  });

  test('of level 3, or none: entries above go', () => {
    expect(drive(TG | (3n << 8n))).toEqual([]);
    expect(drive(TG)).toEqual([]);
  });

  test('of 64 KiB: no entry of tables of 4 KiB is reached', () => {
    expect(drive((3n << 10n) | (3n << 8n))).toEqual([expect.stringMatching(/^invalidation-too-small: .*granule/)]);
  });
});

describe('an invalidation by register', () => {
  const IVT = 0x9000_0000_0000_0000n;
  /** Maps a page anew behind the write of the register. @param polls before that, behind it, or never. */
  const drive = (polls: 'before' | 'behind' | 'never') => {
    const d = new VtdDriver();
    const off = d.levels & ~GCMD.QIE;
    d.guest.w(VTD.GCMD, off).r(VTD.GSTS, off);
    d.map(VA, DATA);
    d.unmap(VA);
    d.guest.w(VTD.IOTLB, IVT, 8);
    if (polls === 'before') d.guest.r(VTD.IOTLB, 0x1000_0000_0000_0000n, 8);
    d.map(VA, B);
    if (polls === 'behind') d.guest.r(VTD.IOTLB, 0x1000_0000_0000_0000n, 8);
    d.guest.w(VTD.IOTLB, IVT, 8).r(VTD.IOTLB, 0x1000_0000_0000_0000n, 8);
    return rulesOf(d);
  };

  test('that nobody polls is a handshake that was not awaited, and nothing else', () => {
    expect(drive('never')).toEqual(['handshake-not-awaited']);
  });

  test('that is polled too late was not awaited; not where it is polled at once', () => {
    expect(drive('behind')).toEqual(['invalidation-not-awaited']);
    expect(drive('before')).toEqual([]);
  });
});
