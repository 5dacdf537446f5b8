import { expect, test } from 'vitest';
import { PhysicalVtd } from '../../../src/piommu/vtd/device.ts';
import { ACCESS, AT, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import { HW_ERROR } from '../../../src/ports/hw.ts';
import { GCMD, PAGE } from '../../../src/spec/vtd/registers.ts';
import { CAP_ALL, ECAP_ALL, INVALIDATE, Rig } from './rig.ts';

const IOVA = 0x5000n;

test('before a driver has set TE, requests without PASID pass', () => {
  const rig = new Rig();
  const hw = new PhysicalVtd({ memory: rig.memory, cap: CAP_ALL, ecap: ECAP_ALL });
  const dma = (pasid: number) => hw.translate(0x10, pasid, 0x1234, 0, ACCESS.WRITE, AT.UNTRANSLATED);
  expect([dma(NO_PASID), hw.out]).toEqual([DMA.OK, 0x1234]);
  expect(dma(5)).toBe(DMA.ABORT);
});

/** PASID 0 of the requester under test translates one page. */
function running() {
  const rig = new Rig();
  const table = rig.page();
  const leaf = rig.map(table, IOVA, 0x20_0000n, 3n);
  rig.scalable().second(0, 7, table).enable(1);
  return { rig, leaf };
}

test('an invalidation queue that is off takes nothing; switched off it forgets nothing', () => {
  const { rig, leaf } = running();
  expect(rig.dma(IOVA)).toBe(0x20_0000);
  rig.set(leaf, 0x30_0000n | 3n);
  rig.hw.writeRegister(PAGE.GCMD.at, BigInt(GCMD.TE >>> 0));
  expect(rig.inv(INVALIDATE.iotlbDomain(7))).toEqual({ done: 0, error: HW_ERROR.ABORT, pending: 0 });
  expect(rig.dma(IOVA)).toBe(0x20_0000);
  rig.hw.writeRegister(PAGE.GCMD.at, BigInt((GCMD.TE | GCMD.QIE) >>> 0));
  expect(rig.inv(INVALIDATE.iotlbDomain(7)).error).toBe(HW_ERROR.NONE);
  expect(rig.dma(IOVA)).toBe(0x30_0000);
});

test('faults are reported while FECTL does not mask them', () => {
  const { rig } = running();
  expect(rig.dma(0x9000n)).toBe(-0x79);
  rig.hw.writeRegister(PAGE.FECTL.at, 0x8000_0000n);
  expect(rig.dma(0x9000n)).toBe(-1000);
  rig.hw.writeRegister(PAGE.FECTL.at, 0n);
  expect(rig.dma(0x9000n)).toBe(-0x79);
});

test('GSTS shows what GCMD has switched', () => {
  const { rig } = running();
  const status = () => Number(rig.hw.readRegister(PAGE.GSTS.at)) | 0;
  expect(status()).toBe(GCMD.TE | GCMD.SRTP | GCMD.QIE);
  rig.hw.writeRegister(PAGE.GCMD.at, BigInt(GCMD.QIE));
  expect(status()).toBe(GCMD.SRTP | GCMD.QIE);
});
