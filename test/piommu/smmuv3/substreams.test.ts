import { describe, expect, test } from 'vitest';
import { ACCESS, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import { CD0, cfgiCd, cfgiCdAll, FULL_IDRS, identityStage2, QEMU_IDRS, Rig, STE_S2, stage1Tables } from './rig.ts';

const SID = 8;
const CDS = 0x4040_0000;
const VA = 0x5000n;
/** Stage 1, S1CDMax `max`, S1Fmt `fmt`. */
const word0 = (config: bigint, max: number, fmt = 0) =>
  (BigInt(max) << 59n) | BigInt(CDS) | (BigInt(fmt) << 4n) | (config << 1n) | 1n;
const DSS = { terminate: 0n, bypass: 1n, zero: 2n };
const cdOf = (ssid: number) => (CD0 & ~(0xffffn << 48n)) | (BigInt(0x100 + ssid) << 48n);

/** CDs `ssids` in a linear table, each with its own tables and its own page for VA. */
function rigWith(ssids: readonly number[], options = FULL_IDRS): Rig {
  const rig = new Rig(options);
  ssids.forEach((ssid, i) => {
    const ttb = 0x4080_0000 + i * 0x10_0000;
    rig.store(CDS + ssid * 64, cdOf(ssid), BigInt(ttb));
    stage1Tables(rig, ttb).map(VA, 0x5000_0000 + ssid * 4096);
  });
  return rig;
}

const record = (type: number, ssid?: number) => [
  BigInt(type) | (8n << 32n) | (ssid === undefined ? 0n : (BigInt(ssid) << 12n) | (type === 8 ? 0n : 1n << 11n)),
  0n,
  0n,
  0n,
];

describe('which CD a transaction uses', () => {
  test('each SubstreamID has its own tables and ASID', () => {
    const rig = rigWith([0, 1, 5, 7]);
    rig.ste(SID, word0(5n, 3), DSS.terminate);
    for (let round = 0; round < 2; round++) {
      for (const ssid of [0, 1, 5, 7]) {
        expect(rig.dma(SID, VA + 4n, ACCESS.READ, ssid)).toBe(DMA.OK);
        expect([rig.hw.out, rig.hw.tag]).toEqual([0x5000_0004 + ssid * 4096, 0x100 + ssid]);
      }
    }
  });

  test('without SubstreamID: terminated, stage 1 bypassed, or CD 0', () => {
    const rig = rigWith([0, 1]);
    const cases = [
      [DSS.terminate, DMA.ABORT, 0],
      [DSS.bypass, DMA.OK, 0x5000],
      [DSS.zero, DMA.OK, 0x5000_0000],
      [3n, DMA.ABORT, 0],
    ] as const;
    for (const [dss, answer, out] of cases) {
      rig.ste(SID, word0(5n, 3), dss);
      rig.submit([0x8_0000_0003n, 1n]);
      rig.dma(SID, VA, ACCESS.READ, 1); // what is cached for others must not matter
      rig.dma(SID, VA, ACCESS.READ, 0);
      rig.takeFaults();
      expect(rig.dma(SID, VA, ACCESS.READ)).toBe(answer);
      if (answer === DMA.OK) expect(rig.hw.out).toBe(out);
      expect(rig.takeFaults()).toEqual(answer === DMA.OK ? [] : [record(6)]);
    }
  });

  test('SubstreamID 0 is F_STREAM_DISABLED while CD 0 serves those without, cached or not', () => {
    const rig = rigWith([0]);
    rig.ste(SID, word0(5n, 3), DSS.zero);
    for (let round = 0; round < 2; round++) {
      expect(rig.dma(SID, VA, ACCESS.READ)).toBe(DMA.OK);
      expect(rig.dma(SID, VA, ACCESS.READ, 0)).toBe(DMA.ABORT);
      expect(rig.takeFaults()).toEqual([record(6, 0)]);
    }
  });

  test('a SubstreamID nothing can serve is C_BAD_SUBSTREAMID', () => {
    for (const [options, config, max, ssid] of [
      [FULL_IDRS, 5n, 3, 8],
      [FULL_IDRS, 5n, 0, 0],
      [FULL_IDRS, 5n, 0, 3],
      [FULL_IDRS, 4n, 3, 1],
      [FULL_IDRS, 6n, 3, 1],
      [QEMU_IDRS, 5n, 3, 1],
    ] as const) {
      const rig = rigWith([0], options);
      rig.ste(SID, word0(config, max), DSS.zero, ...STE_S2);
      rig.dma(SID, VA, ACCESS.READ);
      rig.takeFaults();
      expect(rig.dma(SID, VA, ACCESS.READ, ssid)).toBe(DMA.ABORT);
      expect(rig.takeFaults()).toEqual([record(8, ssid)]);
    }
  });

  test('S1CDMax beyond SSIDSIZE is C_BAD_STE; without substreams S1CDMax and S1Fmt are ignored', () => {
    const rig = new Rig({ ...FULL_IDRS, idr1: 0x0273_0010 | (4 << 6) });
    rig.ste(SID, word0(5n, 5));
    expect(rig.dma(SID, VA)).toBe(DMA.ABORT);
    expect(rig.takeFaults()).toEqual([record(4)]);
    const plain = rigWith([0], QEMU_IDRS);
    plain.ste(SID, word0(5n, 5, 1));
    expect(plain.dma(SID, VA)).toBe(DMA.OK);
  });
});

describe('two-level CD tables', () => {
  test.each([
    [1, 6],
    [2, 10],
  ])('S1Fmt %i splits at %i bits, alone and behind stage 2', (fmt, split) => {
    for (const config of [5n, 7n]) {
      const rig = new Rig(FULL_IDRS);
      identityStage2(rig);
      const ssid = (3 << split) | 5;
      const l2 = 0x4150_0000;
      rig.store(CDS + 3 * 8, BigInt(l2) | 1n);
      rig.store(l2 + 5 * 64, cdOf(5), 0x4080_0000n);
      stage1Tables(rig, 0x4080_0000).map(VA, 0x4300_0000);
      rig.ste(SID, word0(config, 12, fmt), DSS.terminate, ...STE_S2);
      expect(rig.dma(SID, VA, ACCESS.READ, ssid)).toBe(DMA.OK);
      expect(rig.hw.out).toBe(0x4300_0000);
      // A level-1 descriptor that is not valid, or points nowhere an address can be.
      expect(rig.dma(SID, VA, ACCESS.READ, 2 << split)).toBe(DMA.ABORT);
      expect(rig.takeFaults()).toEqual([record(8, 2 << split)]);
      rig.store(CDS + 2 * 8, (1n << 51n) | 1n);
      expect(rig.dma(SID, VA, ACCESS.READ, 2 << split)).toBe(DMA.ABORT);
      expect(rig.takeFaults()).toEqual([record(8, 2 << split)]);
    }
  });

  test('without IDR0.CD2L such an STE is C_BAD_STE', () => {
    const rig = new Rig({ ...FULL_IDRS, idr0: FULL_IDRS.idr0 & ~(1 << 19) });
    rig.ste(SID, word0(5n, 12, 1));
    expect(rig.dma(SID, VA)).toBe(DMA.ABORT);
    expect(rig.takeFaults()).toEqual([record(4)]);
  });
});

test('CFGI_CD makes one changed CD visible, CFGI_CD_ALL all of the stream', () => {
  const rig = rigWith([0, 1, 2]);
  rig.ste(SID, word0(5n, 3), DSS.zero);
  const look = (ssid: number) => {
    const answer = rig.dma(SID, VA, ACCESS.READ, ssid);
    return answer === DMA.OK ? rig.hw.tag : -1;
  };
  const change = (ssid: number, asid: number) =>
    rig.store(CDS + ssid * 64, (CD0 & ~(0xffffn << 48n)) | (BigInt(asid) << 48n));
  const all = () => [look(NO_PASID), look(1), look(2)];
  expect(all()).toEqual([0x100, 0x101, 0x102]);
  for (const ssid of [0, 1, 2]) change(ssid, 0x200 + ssid);
  expect(all()).toEqual([0x100, 0x101, 0x102]);
  rig.submit(cfgiCd(SID, 1));
  expect(all()).toEqual([0x100, 0x201, 0x102]);
  rig.submit(cfgiCd(SID, 0));
  expect(all()).toEqual([0x200, 0x201, 0x102]);
  rig.submit(cfgiCdAll(7));
  expect(all()).toEqual([0x200, 0x201, 0x102]);
  rig.submit(cfgiCdAll(SID));
  expect(all()).toEqual([0x200, 0x201, 0x202]);
});
