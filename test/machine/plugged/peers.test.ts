import { describe, expect, test } from 'vitest';
import { IommuTestdev, TESTDEV } from '../../../devices/endpoints/iommu-testdev.ts';
import { DMA, NO_PASID } from '../../../src/ports/dma.ts';
import { KINDS, PCI, probe, Rig, VA } from './rig.ts';

for (const kind of KINDS) {
  describe(`registers as targets of DMA behind a ${kind}`, () => {
    const make = () => {
      const rig = new Rig(kind);
      const fn = probe();
      rig.plug(fn, 0x08);
      const target = new IommuTestdev(rig.machine.vm.memory.guest);
      rig.machine.plug(target, 0x10);
      rig.config(0, 0x10, 0x10, 4, PCI + 0x2000);
      rig.config(0, 0x10, 4, 2, 6);
      rig.guest.function(0x08, [NO_PASID]);
      return { rig, fn, target };
    };
    const register = (target: IommuTestdev) => target.barRead(0, TESTDEV.LEN, 4);

    test('a function writes and reads a register of another one where the guest has mapped its BAR', () => {
      const { rig, fn, target } = make();
      rig.guest.map(0x08, NO_PASID, VA, PCI + 0x2000);
      expect(rig.write(fn, 77, NO_PASID, VA + TESTDEV.LEN)).toBe(DMA.OK);
      expect(register(target)).toBe(77);
      const into = new Uint8Array(4);
      expect(fn.memory.read(NO_PASID, VA + TESTDEV.LEN, 0, into, 0, 4)).toBe(DMA.OK);
      expect(into[0]).toBe(77);
      // A BAR that moves is found where it is now.
      rig.config(0, 0x10, 0x10, 4, PCI + 0x8000);
      expect(rig.write(fn, 78, NO_PASID, VA + TESTDEV.LEN)).toBe(DMA.ABORT);
      expect(register(target)).toBe(77);
    });

    test('without a mapping, or without write permission, it does not', () => {
      const { rig, fn, target } = make();
      expect(rig.write(fn, 77, NO_PASID, VA + TESTDEV.LEN)).toBe(DMA.ABORT);
      rig.guest.map(0x08, NO_PASID, VA, PCI + 0x2000, false);
      expect(rig.write(fn, 77, NO_PASID, VA + TESTDEV.LEN)).toBe(DMA.ABORT);
      expect(register(target)).toBe(0);
    });
  });
}
