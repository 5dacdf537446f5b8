import { expect, test } from 'vitest';
import { ACCESS, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import { CD0, FULL_IDRS, Rig, STE_S2, stage1Tables } from './rig.ts';

const SID = 8;
const STALL = 1n << 31n;
/** CD.S; CD.R is clear: a stall is recorded all the same. */
const CD_STALLS = (CD0 | (1n << 44n)) & ~(1n << 45n);
const resume = (stag: number, resp: number, sid = SID) =>
  [(BigInt(sid) << 32n) | (BigInt(resp) << 12n) | 0x44n, BigInt(stag)] as const;
const stallTerm = (sid = SID) => [(BigInt(sid) << 32n) | 0x45n, 0n] as const;

function bench(options: object = FULL_IDRS): Rig {
  const rig = new Rig({ ...FULL_IDRS, ...options });
  rig.store(0x4040_0000, CD_STALLS, 0x4041_0000n);
  rig.ste(SID, 0x4040_000bn);
  return rig;
}

test('a fault with CD.S stalls; retried after the page was mapped it goes through', () => {
  const rig = bench();
  expect(rig.dma(SID, 0x5000n, ACCESS.READ)).toBe(DMA.STALLED);
  const token = rig.hw.stallToken;
  expect(rig.takeFaults()).toEqual([[0x8_0000_0010n, STALL | 0x208_0000_0000n, 0x5000n, 0n]]);
  stage1Tables(rig).map(0x5000n, 0x4050_0000);
  rig.submit(resume(0, 1));
  expect(rig.messages).toEqual([{ what: 'resumed', args: [SID, token, DMA.OK] }]);
  expect(rig.dma(SID, 0x5000n, ACCESS.READ)).toBe(DMA.OK);
});

test.each([
  [0, DMA.RAZ_WI],
  [1, DMA.OK],
  [2, DMA.ABORT],
  [3, DMA.OK],
])('RESUME with Resp %i', (resp, outcome) => {
  const rig = bench();
  rig.dma(SID, 0x5000n);
  rig.submit(resume(0, resp));
  expect(rig.messages).toEqual([{ what: 'resumed', args: [SID, rig.hw.stallToken, outcome] }]);
});

test('with TERM_MODEL terminating is aborting', () => {
  const rig = bench({ idr0: FULL_IDRS.idr0 | (1 << 26) });
  rig.dma(SID, 0x5000n);
  rig.submit(resume(0, 0));
  expect(rig.messages).toEqual([{ what: 'resumed', args: [SID, 1, DMA.ABORT] }]);
});

test('an unknown STAG or stream is no error and resumes nobody', () => {
  const rig = bench();
  rig.dma(SID, 0x5000n);
  expect(rig.submit(resume(1, 1), resume(0, 1, 9), stallTerm(9))).toBe(0);
  expect(rig.messages).toEqual([]);
});

test('configuration and TLB invalidations leave stalls alone', () => {
  const rig = bench();
  rig.dma(SID, 0x5000n);
  rig.submit([0x4n, 31n], [0x30n, 0n]);
  expect(rig.messages).toEqual([]);
  rig.submit(stallTerm());
  expect(rig.messages).toEqual([{ what: 'resumed', args: [SID, 1, DMA.ABORT] }]);
});

test('more stalls than STAGs wait unrecorded; each free STAG lets one be recorded; none is lost', () => {
  const rig = bench({ stalls: 2 });
  const tokens: number[] = [];
  for (let n = 0; n < 5; n++) {
    expect(rig.dma(SID, BigInt(0x1000 * (n + 1)))).toBe(DMA.STALLED);
    tokens.push(rig.hw.stallToken);
  }
  const stags = () => rig.takeFaults().map(([, w1, w2]) => [Number(w1! & 0xffffn), Number(w2)]);
  expect(stags()).toEqual([
    [0, 0x1000],
    [1, 0x2000],
  ]);
  rig.submit(resume(1, 1));
  expect(stags()).toEqual([[1, 0x3000]]);
  rig.submit(resume(0, 1));
  expect(stags()).toEqual([[0, 0x4000]]);
  rig.submit(stallTerm());
  expect(rig.messages.map((m) => m.args[1]).toSorted()).toEqual(tokens);
});

test('a stage-2 fault stalls by S2S', () => {
  const rig = bench();
  rig.ste(SID, 0xdn, 0n, STE_S2[0] | (1n << 57n), STE_S2[1]);
  expect(rig.dma(SID, 0x5000n)).toBe(DMA.STALLED);
  expect(rig.takeFaults()).toEqual([[0x8_0000_0010n, STALL | 0x280_0000_0000n, 0x5000n, 0x5000n]]);
});

test('external aborts and bad configuration do not stall', () => {
  const rig = bench();
  rig.store(0x4040_0008, 0x800_0000_0000n);
  expect(rig.dma(SID, 0x5000n)).toBe(DMA.ABORT);
  rig.store(0x4040_0000, 0n);
  expect(rig.dma(SID, 0x5000n)).toBe(DMA.ABORT);
});

test('stalled transactions survive saving', () => {
  const rig = bench({ stalls: 1 });
  rig.dma(SID, 0x1000n, ACCESS.READ, NO_PASID);
  rig.dma(SID, 0x2000n, ACCESS.READ, NO_PASID);
  const other = new Rig({ ...FULL_IDRS, stalls: 1 });
  other.hw.load(JSON.parse(JSON.stringify(rig.hw.save())));
  other.submit(resume(0, 1));
  expect(other.messages).toEqual([{ what: 'resumed', args: [SID, 1, DMA.OK] }]);
  expect(other.takeFaults().map((f) => f[2])).toEqual([0x2000n]);
});
