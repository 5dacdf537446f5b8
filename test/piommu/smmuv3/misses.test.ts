import { expect, test } from 'vitest';
import { ACCESS, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import { bump, S2_RW, TableWriter } from '../../support/vmsa-tables.ts';
import { CD0, FULL_IDRS, Rig, STE_S2, stage1Tables, stage2Tables } from './rig.ts';

const SID = 8;
const VA = 0x5000n;

test('a stream without entry is asked for once, before any record; what the host installs is used at once', () => {
  const rig = new Rig();
  rig.onStreamMiss = (rid) => {
    expect(rig.faults).toEqual([]);
    rig.hw.writeEntry(0x4010_0000, rid * 64, 0, 9, 0);
    return true;
  };
  expect(rig.dma(SID, 0x1234n)).toBe(DMA.OK);
  expect(rig.dma(SID, 0x1234n)).toBe(DMA.OK);
  expect(rig.streamMisses).toEqual([[SID, NO_PASID]]);
  expect(rig.faults).toEqual([]);
});

test('a host that says yes and installs nothing, or no, is asked once per access; each access is recorded', () => {
  for (const answer of [true, false]) {
    const rig = new Rig();
    rig.onStreamMiss = () => answer;
    for (let n = 1; n <= 3; n++) {
      expect(rig.dma(SID, 0x1234n, ACCESS.READ)).toBe(DMA.ABORT);
      expect([rig.streamMisses.length, rig.faults.length]).toEqual([n, n]);
    }
  }
});

test('a level-1 stream table descriptor without a table is a miss too, a StreamID out of range is not', () => {
  const rig = new Rig();
  rig.streamTable({ base: 0x4010_0000, log2size: 8, twoLevel: true });
  rig.dma(SID, 0x1234n);
  rig.dma(0x100, 0x1234n);
  expect(rig.streamMisses).toEqual([[SID, NO_PASID]]);
  expect(rig.faults.map(([w0]) => w0)).toEqual([0x8_0000_0002n, 0x100_0000_0002n]);
});

test('an entry that is not legal is no miss', () => {
  const rig = new Rig();
  rig.ste(SID, 0xdn, 0n, 0n, 0n); // S2AA64 = 0
  expect(rig.dma(SID, 0x1234n)).toBe(DMA.ABORT);
  expect(rig.streamMisses).toEqual([]);
  expect(rig.faults).toEqual([[0x8_0000_0004n, 0n, 0n, 0n]]);
});

test('a shadow stage 2 is filled page by page as one access needs it: CD, each table, the page; nothing is recorded', () => {
  const rig = new Rig();
  const outer = stage2Tables(rig);
  rig.store(0x4040_0000, CD0, 0x4041_0000n);
  stage1Tables(rig).map(VA, 0x4050_0000);
  rig.ste(SID, 0x4040_000fn, 0n, ...STE_S2);
  rig.onStageTwoMiss = (ipa) => {
    outer.map(BigInt(ipa - (ipa % 4096)), ipa - (ipa % 4096), 3, S2_RW);
    return true;
  };
  expect(rig.dma(SID, VA + 8n, ACCESS.WRITE)).toBe(DMA.OK);
  expect(rig.hw.out).toBe(0x4050_0008);
  const R = ACCESS.READ;
  expect(rig.stageTwoMisses).toEqual([
    [0x4040_0000, R],
    [0x4041_0000, R],
    [0x4042_0000, R],
    [0x4042_1000 + 5 * 8, R],
    [0x4050_0008, ACCESS.WRITE],
  ]);
  expect(rig.faults).toEqual([]);
});

test('a page mapped read-only on first use is asked for again for the write', () => {
  const rig = new Rig();
  const outer = stage2Tables(rig);
  rig.ste(SID, 0xdn, 0n, ...STE_S2);
  rig.onStageTwoMiss = (ipa, access) => {
    outer.map(BigInt(ipa - (ipa % 4096)), 0x4060_0000, 3, access === ACCESS.WRITE ? S2_RW : S2_RW & ~0x80n);
    return true;
  };
  expect(rig.dma(SID, VA, ACCESS.READ)).toBe(DMA.OK);
  expect(rig.hw.outPerm).toBe(ACCESS.READ | ACCESS.EXEC);
  expect(rig.dma(SID, VA, ACCESS.WRITE)).toBe(DMA.OK);
  expect(rig.dma(SID, VA, ACCESS.READ)).toBe(DMA.OK);
  expect(rig.stageTwoMisses).toEqual([
    [0x5000, ACCESS.READ],
    [0x5000, ACCESS.WRITE],
  ]);
});

test('a host that says yes without mapping is not believed twice, and the record has the IPA', () => {
  const rig = new Rig();
  rig.ste(SID, 0xdn, 0n, ...STE_S2);
  rig.onStageTwoMiss = () => true;
  expect(rig.dma(SID, VA + 4n, ACCESS.READ)).toBe(DMA.ABORT);
  expect(rig.stageTwoMisses).toEqual([[0x5004, ACCESS.READ]]);
  expect(rig.faults).toEqual([[0x8_0000_0010n, 0x288_0000_0000n, 0x5004n, 0x5000n]]);
});

test('a host that maps one page more at each question ends somewhere', () => {
  const rig = new Rig();
  const outer = new TableWriter(rig.memory, 12, 39, 1, 0x4060_0000, bump(0x4061_0000, 4096));
  rig.store(0x4040_0000, CD0, 0x4041_0000n);
  rig.ste(SID, 0x4040_000fn, 0n, ...STE_S2);
  let last = 0;
  rig.onStageTwoMiss = (ipa) => {
    // Each table it reads points at itself, one page further in IPA space.
    last = ipa - (ipa % 4096);
    outer.map(BigInt(last), 0x4070_0000, 3, S2_RW);
    return true;
  };
  rig.store(0x4070_0000, ...Array.from({ length: 512 }, () => 0x5000_0003n));
  expect([DMA.OK, DMA.ABORT]).toContain(rig.dma(SID, VA));
  expect(rig.stageTwoMisses.length).toBeLessThan(70);
});

test('read and execute faults, privilege and the SubstreamID are in the record', () => {
  const rig = new Rig(FULL_IDRS);
  rig.store(0x4040_0000 + 2 * 64, CD0, 0x4041_0000n);
  rig.ste(SID, (3n << 59n) | 0x4040_000bn);
  const SSID2 = 0x8_0000_2810n;
  for (const [access, w1] of [
    [ACCESS.READ, 0x208_0000_0000n],
    [ACCESS.WRITE, 0x200_0000_0000n],
    [ACCESS.READ | ACCESS.WRITE, 0x200_0000_0000n],
    [ACCESS.READ | ACCESS.PRIV, 0x20a_0000_0000n],
    [ACCESS.READ | ACCESS.EXEC, 0x20c_0000_0000n],
    [ACCESS.WRITE | ACCESS.EXEC | ACCESS.PRIV, 0x202_0000_0000n],
  ] as const) {
    expect(rig.dma(SID, 0x1_2345_6789_abcn, access, 2)).toBe(DMA.ABORT);
    expect(rig.takeFaults()).toEqual([[SSID2, w1, 0x1_2345_6789_abcn, 0n]]);
  }
});

test('CD.A = 0 ends a stage-1 fault as RAZ/WI where that exists, a stage-2 fault as an abort', () => {
  const rig = new Rig(FULL_IDRS);
  rig.store(0x4040_0000, CD0 & ~(1n << 46n), 0x4041_0000n);
  rig.ste(SID, 0x4040_000bn);
  expect(rig.dma(SID, VA)).toBe(DMA.RAZ_WI);
  rig.ste(SID, 0x4040_000fn, 0n, ...STE_S2);
  rig.submit([0x8_0000_0003n, 1n]);
  expect(rig.dma(SID, VA)).toBe(DMA.ABORT);
  expect(rig.faults.map(([w0]) => w0)).toEqual([0x8_0000_0010n, 0x8_0000_0010n]);
});
