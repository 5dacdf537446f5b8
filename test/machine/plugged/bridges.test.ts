import { describe, expect, test } from 'vitest';
import { Bridge } from '../../../bus/bridge.ts';
import { DMA } from '../../../src/ports/dma.ts';
import { KINDS, probe, Rig } from './rig.ts';

for (const kind of KINDS) {
  describe(`functions behind bridges and a ${kind}`, () => {
    test('a function behind a bridge without a bus number is blocked, and known as soon as the guest gives it one', () => {
      const rig = new Rig(kind);
      const port = new Bridge({ kind: 'root' });
      rig.machine.plug(port, 0x08);
      const fn = probe();
      rig.machine.plug(fn, 0, port);
      expect(rig.read(1, 0, 0)).toBe(0xffff_ffff);
      const [pa] = rig.space(0x100);
      fn.configWrite(4, 2, 6);
      expect(rig.write(fn, 1)).toBe(DMA.ABORT);

      rig.number(0, 0x08, 1);
      rig.enable(1, 0, fn);
      expect(rig.reaches(fn, pa!)).toBe(true);
      expect(rig.errors).toEqual([]);
    });

    test('functions behind a PCIe-to-PCI bridge are one requester: one entry of the guest decides for all of them', () => {
      const rig = new Rig(kind);
      const bridge = new Bridge({ kind: 'pcie-pci' });
      rig.machine.plug(bridge, 0x10);
      const [a, b] = [probe(), probe()];
      const away = rig.machine.plug(a, 0x08, bridge);
      rig.machine.plug(b, 0x18, bridge);
      rig.number(0, 0x10, 2);
      for (const [fn, devfn] of [
        [a, 0x08],
        [b, 0x18],
      ] as const) {
        rig.enable(2, devfn, fn);
      }
      // Behind the bridge both are (secondary bus, 00.0).
      const [pa] = rig.space(0x200);
      expect([rig.reaches(a, pa!), rig.reaches(b, pa!)]).toEqual([true, true]);
      away();
      expect([rig.reaches(a, pa!), rig.reaches(b, pa!)]).toEqual([false, true]);
      const late = probe();
      rig.plug(late, 0x28, bridge, 2);
      expect(rig.reaches(late, pa!)).toBe(true);
    });

    test('functions behind a conventional bridge send as the bridge itself', () => {
      const rig = new Rig(kind);
      const bridge = new Bridge({ kind: 'pci-pci' });
      rig.machine.plug(bridge, 0x30);
      rig.number(0, 0x30, 3);
      const fn = probe();
      rig.plug(fn, 0x08, bridge, 3);
      const [pa] = rig.space(0x30);
      expect(rig.reaches(fn, pa!)).toBe(true);
    });

    test('a guest that renumbers its buses moves the functions to other entries of its tables, also when two swap', () => {
      const rig = new Rig(kind);
      const ports = [new Bridge({ kind: 'root' }), new Bridge({ kind: 'root' })];
      const fns = [probe(), probe()];
      ports.forEach((port, i) => {
        rig.machine.plug(port, 0x08 * (i + 1));
        rig.number(0, 0x08 * (i + 1), i + 1);
        rig.plug(fns[i]!, 0, port, i + 1);
      });
      const [one] = rig.space(0x100);
      const [two] = rig.space(0x200, [-1], 1);
      expect([rig.reaches(fns[0]!, one!), rig.reaches(fns[1]!, two!)]).toEqual([true, true]);

      // For a moment both have bus 2: nobody can tell which is meant, and the one that came later waits.
      rig.number(0, 0x08, 2);
      rig.number(0, 0x10, 1);
      expect([rig.reaches(fns[0]!, two!), rig.reaches(fns[1]!, one!)]).toEqual([true, true]);
      expect([rig.reaches(fns[0]!, one!), rig.reaches(fns[1]!, two!)]).toEqual([false, false]);
      expect(rig.errors).toEqual([]);
    });

    test('bridges come and go with what is behind them, more often than there are bus numbers', () => {
      const rig = new Rig(kind);
      const [pa] = rig.space(0x100);
      let pages = 0;
      for (let round = 0; round < 300; round++) {
        const port = new Bridge({ kind: 'root', hotplug: true });
        const away = rig.machine.plug(port, 0x08);
        rig.number(0, 0x08, 1);
        const fn = probe();
        rig.plug(fn, 0, port, 1);
        if (round % 50 === 0) expect(rig.reaches(fn, pa!)).toBe(true);
        away();
        expect(rig.write(fn, 1)).toBe(DMA.ABORT);
        if (round === 50) pages = rig.machine.vm.hostMemory.pagesUsed;
        if (round > 50) expect(rig.machine.vm.hostMemory.pagesUsed).toBe(pages);
      }
      expect(rig.errors).toEqual([]);
    });

    test('switches of several levels: a function deep below is known by the number of its own bus', () => {
      const rig = new Rig(kind);
      const kinds = ['root', 'upstream', 'downstream'] as const;
      const bridges = kinds.map((k) => new Bridge({ kind: k }));
      bridges.forEach((b, i) => {
        rig.machine.plug(b, i === 0 ? 0x08 : 0, i === 0 ? undefined : bridges[i - 1]);
      });
      const fn = probe();
      rig.machine.plug(fn, 0, bridges[2]);
      const [pa] = rig.space(0x300);
      // The middle of the path last: until then the function has no way to be named.
      rig.number(0, 0x08, 1, 3);
      rig.number(1, 0, 2, 3);
      rig.number(2, 0, 3);
      rig.enable(3, 0, fn);
      expect(rig.reaches(fn, pa!)).toBe(true);
    });
  });
}
