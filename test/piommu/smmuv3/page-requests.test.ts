import { expect, test } from 'vitest';
import { PhysicalSmmuv3 } from '../../../src/piommu/smmuv3/device.ts';
import { ACCESS, NO_PASID } from '../../../src/ports/dma.ts';
import { FULL_IDRS, QEMU_IDRS, Rig, words } from './rig.ts';

const SID = 8;
const { READ, WRITE, EXEC, PRIV } = ACCESS;
const ask = (rig: Rig, group: number, last: boolean, pasid: number = NO_PASID, access: number = READ) =>
  rig.hw.pageRequest(SID, pasid, 0x7654_3000, 0x12, access, group, last);
const responses = (rig: Rig) => rig.messages.splice(0).map((m) => m.args);

test('a page request becomes the PRIQ entry of the specification', () => {
  const rig = new Rig(FULL_IDRS);
  ask(rig, 0x1ff, true, 5, READ | WRITE);
  ask(rig, 3, false, NO_PASID, EXEC | PRIV);
  const bit = (n: number) => 1n << BigInt(n);
  expect(rig.pages).toEqual([
    [8n | (5n << 32n) | bit(60) | bit(61) | (bit(62) * 2n) | bit(62), 0x12_7654_3000n | 0x1ffn],
    [8n | bit(58) | bit(59), 0x12_7654_3003n],
  ]);
});

test('PRI_RESP answers the function: deny, fail, success', () => {
  const rig = new Rig(FULL_IDRS);
  for (const [resp, code] of [
    [0n, 15],
    [1n, 1],
    [2n, 0],
  ] as const) {
    rig.submit([0x8_0000_5841n, (resp << 12n) | 0x33n], [0x8_0000_0041n, (resp << 12n) | 0x33n]);
    expect(responses(rig)).toEqual([
      [SID, 5, 0x33, code],
      [SID, NO_PASID, 0x33, code],
    ]);
  }
});

test('without PRI, or switched off, every request is answered Response Failure, a stop marker is not', () => {
  for (const rig of [new Rig(QEMU_IDRS), new Rig(FULL_IDRS), new Rig(FULL_IDRS)]) {
    rig.control({ priqen: false });
    ask(rig, 7, false, 5);
    ask(rig, 7, true, 5);
    ask(rig, 7, true, 5, 0); // a stop marker
    expect(responses(rig)).toEqual([
      [SID, NO_PASID, 7, 15],
      [SID, NO_PASID, 7, 15],
    ]);
    expect(rig.pages).toEqual([]);
  }
});

test('an overflowing queue answers Success itself until the host has read it; stop markers are never answered', () => {
  const rig = new Rig({ ...FULL_IDRS, priEntries: 4, priLatency: 100 });
  for (let n = 0; n < 6; n++) ask(rig, n, true);
  ask(rig, 6, false);
  ask(rig, 7, true, 5, 0);
  ask(rig, 8, true, 5);
  expect(responses(rig)).toEqual([
    [SID, NO_PASID, 4, 0],
    [SID, NO_PASID, 5, 0],
    [SID, NO_PASID, 8, 0],
  ]);
  expect(rig.pages).toEqual([]);
  rig.clock.advance(100);
  expect(rig.pages.map(([, w1]) => Number(w1! & 0x1ffn))).toEqual([0, 1, 2, 3]);
  ask(rig, 9, true);
  rig.clock.advance(100);
  expect(rig.pages.length).toBe(5);
});

test('an automatic answer repeats the PASID with IDR3.PPS or STE.PPAR', () => {
  const pps = new Rig({ ...FULL_IDRS, idr3: FULL_IDRS.idr3 | (1 << 5), priEntries: 1, priLatency: 1 });
  const ppar = new Rig({ ...FULL_IDRS, priEntries: 1, priLatency: 1 });
  ppar.ste(SID, 9n, 1n << 18n);
  ppar.dma(SID, 0n);
  for (const rig of [pps, ppar]) {
    for (let n = 0; n < 2; n++) ask(rig, n, true, 5);
    expect(responses(rig)).toEqual([[SID, 5, 1, 0]]);
  }
});

test('queued requests survive saving', () => {
  const rig = new Rig({ ...FULL_IDRS, priEntries: 2, priLatency: 100 });
  for (let n = 0; n < 3; n++) ask(rig, n, true);
  rig.clock.advance(40);
  const other = new Rig({ ...FULL_IDRS, priEntries: 2, priLatency: 100 });
  other.clock.advance(40);
  other.hw.load(JSON.parse(JSON.stringify(rig.hw.save())));
  ask(other, 3, true);
  expect(responses(other)).toEqual([[SID, NO_PASID, 3, 0]]);
  other.clock.advance(60);
  expect(other.pages.length).toBe(2);
});

test('a million page requests, asked and answered, leave nothing behind', () => {
  const rig = new Rig(FULL_IDRS);
  const answer = words(0x8_0000_0041n, 2n << 12n);
  let answered = 0;
  const hw = new PhysicalSmmuv3({
    memory: rig.memory,
    ...FULL_IDRS,
    clock: rig.clock,
    endpoints: { invalidate: () => false, pageResponse: () => void answered++, resumed() {} },
    events: {
      streamMiss: () => false,
      stageTwoMiss: () => false,
      fault() {},
      pageRequest: () => hw.submit(answer, 0, 1),
      completed() {},
    },
  });
  for (let n = 0; n < 100_000; n++) hw.pageRequest(SID, NO_PASID, n << 12, 0, READ, n & 0x1ff, true);
  const before = JSON.stringify(hw.save()).length;
  for (let n = 0; n < 900_000; n++) hw.pageRequest(SID, NO_PASID, n << 12, 0, READ, n & 0x1ff, true);
  expect(answered).toBe(1_000_000);
  expect(JSON.stringify(hw.save()).length - before).toBeLessThan(4);
});
