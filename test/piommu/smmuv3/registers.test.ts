import { expect, test } from 'vitest';
import { PhysicalSmmuv3 } from '../../../src/piommu/smmuv3/device.ts';
import { ACCESS, AT, ATS, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import { HW_ERROR } from '../../../src/ports/hw.ts';
import { CR0, GBPA, PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { cfgiSte, FULL_IDRS, Rig, STRTAB } from './rig.ts';

const SID = 8;

/** An SMMU that no driver has touched yet. */
function untouched() {
  const rig = new Rig(FULL_IDRS);
  const hw = new PhysicalSmmuv3({ memory: rig.memory, clock: rig.clock, ...FULL_IDRS });
  const dma = (iova: number) => hw.translate(SID, NO_PASID, iova, 0, ACCESS.WRITE, AT.UNTRANSLATED);
  return { rig, hw, dma };
}

test('before a driver has set SMMUEN, transactions pass or abort as GBPA says', () => {
  const { rig, hw, dma } = untouched();
  rig.ste(SID, 1n);
  expect([dma(0x1234), hw.out]).toEqual([DMA.OK, 0x1234]);
  // Without UPDATE the write does not count.
  hw.writeRegister(PAGE0.GBPA.at, BigInt(GBPA.ABORT));
  expect(dma(0x1234)).toBe(DMA.OK);
  hw.writeRegister(PAGE0.GBPA.at, BigInt((GBPA.ABORT | GBPA.UPDATE) >>> 0));
  expect(dma(0x1234)).toBe(DMA.ABORT);
  expect(hw.readRegister(PAGE0.GBPA.at) & BigInt(GBPA.UPDATE >>> 0)).toBe(0n);
  expect(hw.translationRequest(SID, NO_PASID, 0x1000, 0, ACCESS.READ)).toBe(ATS.UR);
});

test('the identification is what the unit was made with', () => {
  const { hw } = untouched();
  const { IDR0, IDR1, IDR3, IDR5 } = PAGE0;
  const { idr0, idr1, idr3, idr5 } = FULL_IDRS;
  const read = [IDR0, IDR1, IDR3, IDR5].map((r) => Number(hw.readRegister(r.at)) | 0);
  expect(read).toEqual([idr0 | 0, idr1 | 0, idr3 | 0, idr5 | 0]);
});

test('a command queue that is off takes nothing; switched off it forgets nothing', () => {
  const rig = new Rig();
  rig.ste(SID, 9n);
  expect(rig.dma(SID, 0x1000n)).toBe(DMA.OK);
  rig.ste(SID, 1n);
  const on = rig.hw.readRegister(PAGE0.CR0.at);
  rig.hw.writeRegister(PAGE0.CR0.at, on & ~BigInt(CR0.CMDQEN));
  expect([rig.submit(cfgiSte(SID)), rig.hw.done]).toEqual([HW_ERROR.ABORT, 0]);
  expect(rig.dma(SID, 0x1000n)).toBe(DMA.OK);
  rig.hw.writeRegister(PAGE0.CR0.at, on);
  expect([rig.submit(cfgiSte(SID)), rig.hw.done]).toEqual([HW_ERROR.NONE, 1]);
  expect(rig.dma(SID, 0x1000n)).toBe(DMA.ABORT);
});

test('faults are recorded while the event queue and its interrupt are on', () => {
  const rig = new Rig();
  const faults = () => {
    rig.dma(SID, 0x1000n);
    return rig.takeFaults().length;
  };
  expect(faults()).toBe(1);
  const on = rig.hw.readRegister(PAGE0.CR0.at);
  rig.hw.writeRegister(PAGE0.CR0.at, on & ~BigInt(CR0.EVENTQEN));
  expect(faults()).toBe(0);
  rig.hw.writeRegister(PAGE0.CR0.at, on);
  rig.hw.writeRegister(PAGE0.IRQ_CTRL.at, 0n);
  expect(faults()).toBe(0);
  rig.hw.writeRegister(PAGE0.IRQ_CTRL.at, 4n);
  expect(faults()).toBe(1);
});

test('what translation needs cannot be changed under it, and the cached configuration stays until it is invalidated', () => {
  const rig = new Rig();
  rig.ste(SID, 9n);
  expect(rig.dma(SID, 0x1000n)).toBe(DMA.OK);
  for (const r of [PAGE0.STRTAB_BASE, PAGE0.STRTAB_BASE_CFG, PAGE0.CR2, PAGE0.CMDQ_BASE, PAGE0.EVENTQ_BASE]) {
    const before = rig.hw.readRegister(r.at);
    rig.hw.writeRegister(r.at, 0x40n);
    expect(rig.hw.readRegister(r.at)).toBe(before);
  }
  rig.control({ smmuen: false });
  rig.hw.writeRegister(PAGE0.STRTAB_BASE.at, BigInt(STRTAB + 0x1000));
  rig.control({ smmuen: true });
  expect(rig.dma(SID, 0x1000n)).toBe(DMA.OK);
  rig.submit(cfgiSte(SID));
  expect(rig.dma(SID, 0x1000n)).toBe(DMA.ABORT);
});
