import { expect, test } from 'vitest';
import { faultName, frcd, frcdWord2, frcdWord3 } from '../../../src/spec/vtd/faults.ts';
import { decodeInvalidation, INV_NAME, invType } from '../../../src/spec/vtd/invalidation.ts';
import {
  pageRequest,
  pageRequestWord0,
  pageRequestWord1,
  pageRequestWord2,
} from '../../../src/spec/vtd/page-request.ts';
import { FRO, IRO, PAGE } from '../../../src/spec/vtd/registers.ts';
import { aboveWidth, awBits, awLevels, pointer } from '../../../src/spec/vtd/tables.ts';

const words = (...q: bigint[]): number[] => q.flatMap((v) => [Number(v & 0xffff_ffffn) | 0, Number(v >> 32n) | 0]);

test.each([
  [[0x3_0010_0005_0031n, 0n], { op: 'context-cache', granularity: 'device', did: 5, sid: 0x10, fm: 3 }],
  [[0x5_0032n, 0x1234_5678_9042n], { op: 'iotlb', granularity: 'page', did: 5, page: 0x1_2345_6789, am: 2, ih: true }],
  [
    [0x200_0000_0003n, 0x7fff_ffff_ffff_f001n],
    { op: 'device', sid: 0x200, address: 0x7fff_ffff_ffff_f000n, size: true },
  ],
  [[0x7_1000_0014n, 0n], { op: 'iec', granularity: 'index', index: 7, mask: 2 }],
  [
    [0x55_0000_00b5n, 0x20_0004n],
    { op: 'wait', interrupt: true, fence: false, drain: true, status: { address: 0x20_0004n, data: 0x55 } },
  ],
  [[0x40045n, 0n], { op: 'wait', interrupt: false, fence: true, drain: false, status: null }],
  [[0x3_0005_0026n, 0n], { op: 'p-iotlb', granularity: 'pasid', did: 5, pasid: 3, page: 0, am: 0, ih: false }],
  [[0x37n, 0n], { op: 'pasid-cache', granularity: 'global', did: 0, pasid: 0 }],
  [[0x3_0010_0008n, 0x5801n], { op: 'p-device', sid: 0x10, pasid: 3, address: 0x5000n, size: true, global: true }],
  [[0x3_0010_1019n, 0x38n], { op: 'page-response', sid: 0x10, pasid: 3, group: 7, code: 1 }],
  [[0xe0fn, 0n], { op: 'unknown', type: 0x7f }],
])('a descriptor as an object', (qwords, want) => {
  expect(decodeInvalidation(words(...qwords))).toEqual(want);
  if (want.op !== 'unknown') expect(INV_NAME[invType(words(qwords[0]!)[0]!)]).toBe(want.op);
});

test('the register table lies inside its page, without overlaps, where CAP.FRO and ECAP.IRO point', () => {
  const regs = Object.values(PAGE).sort((a, b) => a.at - b.at);
  for (const [i, r] of regs.entries()) {
    expect(r.at % 4).toBe(0);
    expect(r.at + r.size).toBeLessThanOrEqual(regs[i + 1]?.at ?? 0x1000);
  }
  expect([PAGE.IVA.at, PAGE.FRCD_LO.at]).toEqual([IRO, FRO]);
});

test('a fault record takes apart what it was put together from, PASID and flags included', () => {
  for (const pasid of [-1, 0, 0xf_ffff]) {
    const w2 = frcdWord2(0xff10, pasid, true, true);
    const w3 = frcdWord3(true, 2, pasid, 0x71);
    expect([frcd.sid(w2), frcd.pasid(w2, w3), frcd.reason(w3), frcd.isRead(w3), frcd.addressType(w3)]).toEqual([
      0xff10,
      pasid,
      0x71,
      true,
      2,
    ]);
    expect([frcd.isExec(w2), frcd.isPriv(w2), frcd.isFault(w3)]).toEqual([pasid >= 0, pasid >= 0, false]);
  }
  expect([frcd.page(-4096, -1), frcd.interruptIndex(0x5678_0000), faultName(0x71)]).toEqual([
    2 ** 52 - 1,
    0x5678,
    'FS_P',
  ]);
});

test('a page request descriptor holds source, PASID, permissions, group and all 64 bits of address', () => {
  const w = [
    pageRequestWord0(0x8001, 5),
    pageRequestWord1(5, true, true),
    pageRequestWord2(-4096, 511, true, false, true),
    -1,
  ];
  expect(pageRequest.sid(w[0]!)).toBe(0x8001);
  expect([pageRequest.pasid(w[1]!), pageRequest.exec(w[1]!), pageRequest.priv(w[1]!)]).toEqual([5, true, true]);
  expect([pageRequest.group(w[2]!), pageRequest.last(w[2]!), pageRequest.write(w[2]!)]).toEqual([511, true, false]);
  expect(pageRequest.page(w[2]!, w[3]!)).toBe(2 ** 52 - 1);
});

test('widths and pointers', () => {
  expect([0, 1, 2, 3, 4].map((aw) => [awLevels(aw), awBits(aw)])).toEqual([
    [0, 0],
    [3, 39],
    [4, 48],
    [5, 57],
    [0, 0],
  ]);
  expect(pointer(-1, -1)).toBe(2 ** 52 - 4096);
  expect([32, 39, 48, 52, 64].map((n) => aboveWidth(n) >>> 0)).toEqual([
    0xffff_ffff, 0xffff_ff80, 0xffff_0000, 0xfff0_0000, 0,
  ]);
});
