import { expect, test } from 'vitest';
import { ACCESS, NO_PASID } from '../../../src/ports/dma.ts';
import { FAULT } from '../../../src/spec/vtd/faults.ts';
import { PAGE } from '../../../src/spec/vtd/registers.ts';
import { FIRST, Rig } from './rig.ts';

const RID = 0x10;
const [A, B] = [0x100_0000, 0x101_0000];

/** A function whose requests without PASID reach A at 0x5000, and those of PASID 3 reach B. */
function guest(profile: 'qemu-11.1' | 'arch') {
  const rig = new Rig({ props: { profile, scalableMode: true, fsts: true, pasidBits: 8 } });
  const { g } = rig;
  rig.plug(RID, 0, { maxPasids: 256 });
  const [plain, third] = [rig.page(), rig.page()];
  g.map(plain, 0x5000, A, 7n, rig.pools[0]!);
  g.map(third, 0x5000, B, 7n, rig.pools[0]!);
  rig.scalable(RID, 0, FIRST(5, plain));
  rig.scalable(RID, 3, FIRST(6, third));
  g.queueOn(true);
  g.translateOn(rig.root(1));
  const at = () => PAGE.FRCD_LO.at;
  return { rig, dma: (pasid: number) => rig.dma(RID, 0x5000, ACCESS.READ, pasid), record: () => g.r32(at() + 12) };
}

test('qemu-11.1: a request with PASID 0, which is RID_PASID, goes where requests without PASID go', () => {
  const { dma, record } = guest('qemu-11.1');
  expect([dma(0), dma(NO_PASID), dma(3), dma(0)]).toEqual([A, A, B, A]);
  expect(record() >>> 31).toBe(0);
});

test('arch: it is blocked and recorded, whatever else of the function translates', () => {
  const { dma, record } = guest('arch');
  expect([dma(NO_PASID), dma(0), dma(3)]).toEqual([A, 'ABORT', B]);
  expect([record() >>> 31, record() & 0xff]).toEqual([1, FAULT.SM_RID_PASID]);
});

test('qemu-11.1: what was seen of PASID 0 goes with the invalidation of requests without PASID', () => {
  const { rig, dma } = guest('qemu-11.1');
  expect([dma(0), dma(NO_PASID)]).toEqual([A, A]);
  const next = rig.page();
  rig.g.map(next, 0x5000, B, 7n, rig.pools[0]!);
  rig.scalable(RID, 0, FIRST(5, next));
  // PASID cache and PASID-based IOTLB, everything of domain 5 and PASID 0, then a wait.
  rig.g.submit(0x5_0007n | (1n << 4n));
  rig.g.submit(0x5_0026n);
  rig.g.submit(0x0000_0020n | 5n, 0x9000n);
  expect([dma(0), dma(NO_PASID)]).toEqual([B, B]);
});
