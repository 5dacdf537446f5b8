import { describe, expect, test } from 'vitest';
import { Bridge } from '../../../bus/bridge.ts';
import { PasidSpace } from '../../../src/lib/pasid/pasid-space.ts';
import { PasidLayer } from '../../../src/machine/pasid/pasid-layer.ts';
import { DMA, NO_PASID } from '../../../src/ports/dma.ts';
import { KINDS, probe, Rig } from './rig.ts';

for (const kind of KINDS) {
  describe(`plugging a function in behind a ${kind}`, () => {
    test('whatever host allocation fails, nothing of the function stays, and it can be plugged in again', () => {
      let failed = 0;
      for (let k = 0; ; k++) {
        const rig = new Rig(kind);
        rig.space(0x100);
        const port = new Bridge({ kind: 'root' });
        rig.machine.plug(port, 0x08);
        rig.number(0, 0x08, 1);
        const { hostMemory } = rig.machine.vm;
        const allocate = hostMemory.allocate.bind(hostMemory);
        const fn = probe({ ats: {}, pasid: { width: 8 } });
        let n = 0;
        /** @returns whether it went in although allocation `k` failed. */
        const plug = () => {
          n = 0;
          hostMemory.allocate = (count) => (n++ === k ? -1 : allocate(count));
          try {
            rig.machine.plug(fn, 0, port);
            return true;
          } catch {
            expect([rig.machine.complex.slotOf(fn), rig.machine.unit.functionOf(0x100)]).toEqual([
              undefined,
              undefined,
            ]);
            expect(rig.read(1, 0, 0)).toBe(0xffff_ffff);
            expect(rig.machine.vm.kernel.devices(rig.driver)).toEqual([]);
            return false;
          } finally {
            hostMemory.allocate = allocate;
          }
        };
        let inside = plug();
        if (n <= k) break;
        // What the kernel keeps for streams of this bus (a second-level stream table) it keeps once.
        const kept = hostMemory.pagesUsed;
        for (let again = 0; again < 3 && !inside; again++) {
          inside = plug();
          if (inside) break;
          failed++;
          expect(hostMemory.pagesUsed, `allocation ${k}`).toBe(kept);
        }
        if (!inside) rig.machine.plug(fn, 0, port);
        rig.enable(1, 0, fn);
        const [pa] = rig.space(0x100);
        expect(rig.reaches(fn, pa!)).toBe(true);
      }
      expect(failed).toBeGreaterThan(0);
    });

    test('a function that throws when it is connected leaves no slot behind, on any side', () => {
      const rig = new Rig(kind);
      const fn = probe();
      const { connect } = fn;
      fn.connect = () => {
        throw new Error('not today');
      };
      expect(() => rig.machine.plug(fn, 0x08)).toThrow('not today');
      expect(rig.read(0, 0x08, 0)).toBe(0xffff_ffff);
      expect([rig.machine.complex.slotOf(fn), rig.machine.unit.functionOf(0x08)]).toEqual([undefined, undefined]);
      fn.connect = connect;
      rig.plug(fn, 0x08);
      const [pa] = rig.space(0x08);
      expect(rig.reaches(fn, pa!)).toBe(true);
    });

    test('a function that throws when it is taken out is gone all the same', () => {
      const rig = new Rig(kind);
      const fn = probe();
      const away = rig.plug(fn, 0x08);
      fn.connect = () => {
        throw new Error('never');
      };
      expect(away).toThrow('never');
      expect([rig.machine.complex.slotOf(fn), rig.machine.unit.functionOf(0x08)]).toEqual([undefined, undefined]);
      const next = probe();
      rig.plug(next, 0x08);
      const [pa] = rig.space(0x08);
      expect(rig.reaches(next, pa!)).toBe(true);
    });

    test('what cannot be plugged in is refused by name', () => {
      const rig = new Rig(kind);
      const fn = probe();
      rig.plug(fn, 0x08);
      const plug = (...a: Parameters<typeof rig.machine.plug>) => {
        return () => rig.machine.plug(...a);
      };
      expect(plug(fn, 0x10)).toThrow(/probe is plugged in already/);
      expect(plug(probe(), 0x08)).toThrow(/the slot is taken/);
      expect(plug(probe(), 256)).toThrow(/a devfn is 0 … 255/);
      expect(plug(probe(), 1.5)).toThrow(/a devfn is 0 … 255/);
      expect(plug(probe(), 0x10, new Bridge({ kind: 'root' }))).toThrow(/root is not plugged in/);
      expect(plug(probe(), 0x10, undefined, { slice: { of: probe(), pasid: 1 } })).toThrow(/probe is not plugged in/);
      expect(plug(new Bridge({ kind: 'root' }), 0x10, undefined, { aliases: [0x11] })).toThrow(/a bridge has one/);
      const other = kind === 'vtd' ? 'guest-table' : 'host-table';
      expect(plug(probe(), 0x10, undefined, { pasids: other })).toThrow(
        new RegExp(`${kind} manages PASIDs as '.*', not as '${other}'`),
      );
      expect(plug(probe(), 0x10, undefined, { pasids: 'global' })).toThrow(/not as 'global'/);
      expect(plug(probe(), 0x10, undefined, { slice: { of: fn, pasid: 7 } })).toThrow(`${kind} has no slices`);
      expect([...rig.machine.complex.slots()].length).toBe(1);
    });

    test('when a guest asks for a function the host refuses, it stays blocked and the guest goes on', () => {
      const rig = new Rig(kind);
      const port = new Bridge({ kind: 'root' });
      rig.machine.plug(port, 0x08);
      const fn = probe();
      rig.machine.plug(fn, 0, port);
      const [pa] = rig.space(0x100);
      const { kernel } = rig.machine.vm;
      const add = kernel.addDevice.bind(kernel);
      kernel.addDevice = () => {
        throw new Error('the host is full');
      };
      rig.number(0, 0x08, 1);
      rig.enable(1, 0, fn);
      expect(rig.errors.map((e) => (e as Error).message)).toContain('the host is full');
      expect(rig.write(fn, 1)).toBe(DMA.ABORT);
      kernel.addDevice = add;
      // The next time the guest touches the bridge, it is tried again.
      rig.number(0, 0x08, 1);
      expect(rig.reaches(fn, pa!)).toBe(true);
    });
  });
}

describe.each(KINDS)('a PASID of more than 20 bits behind a %s', (kind) => {
  test('does not leave the function: it is not taken for the PASID in its low bits', () => {
    const rig = new Rig(kind);
    const fn = probe({ pasid: { width: 8 } });
    rig.machine.plug(fn, 0x08);
    rig.config(0, 0x08, 4, 2, 6);
    const [pa] = rig.space(0x08, [3]);
    expect(rig.reaches(fn, pa!, 3)).toBe(true);
    rig.machine.complex.onMessage = () => {};
    for (const pasid of [0x10_0003, 0x7fff_ffff, -3]) {
      rig.said.length = 0;
      expect(rig.write(fn, 1, pasid)).toBe(DMA.ABORT);
      expect(rig.said.filter((s) => s.what === 'record')).toEqual([]);
    }
  });
});

describe('PASIDs of a function behind a vtd', () => {
  test('a slice takes a PASID that its function can send', () => {
    const rig = new Rig('vtd', { pasids: new PasidLayer(new PasidSpace(0x1000, 0x1100)) });
    const parent = probe({ pasid: { width: 6 } });
    rig.plug(parent, 0x08);
    const plug = (pasid: number) => () => rig.machine.plug(probe(), 0x10, undefined, { slice: { of: parent, pasid } });
    expect(plug(0x40)).toThrow(/has 64 PASIDs: a slice takes one of those .*pasid=0x40/);
    expect(rig.machine.unit.functionOf(0x10)).toBeUndefined();
    expect(plug(0x3f)).not.toThrow();
  });

  test('global: what a guest sets up under its PASID is reached under the twin from the host as well', () => {
    const layer = new PasidLayer(new PasidSpace(0x1000, 0x1100));
    const rig = new Rig('vtd', { pasids: layer });
    const [shared, own] = [probe({ pasid: { width: 20 } }), probe({ pasid: { width: 20 } })];
    rig.machine.plug(shared, 0x08, undefined, { pasids: 'global' });
    rig.machine.plug(own, 0x10, undefined, { pasids: 'host-table' });
    rig.enable(0, 0x08, shared);
    rig.enable(0, 0x10, own);
    const pages = [0x08, 0x10].map((rid, i) => rig.space(rid, [3], i)[0]!);
    expect([rig.reaches(shared, pages[0]!, 3), rig.reaches(own, pages[1]!, 3)]).toEqual([true, true]);
    const twin = layer.cpu.translate(3);
    expect(twin).toBeGreaterThanOrEqual(0x1000);
    expect([rig.reaches(shared, pages[0]!, twin), rig.reaches(own, pages[1]!, twin)]).toEqual([true, false]);
  });

  test('a slice is a device of its own for the guest, and sends as its parent under PASIDs of the host', () => {
    const rig = new Rig('vtd', { pasids: new PasidLayer(new PasidSpace(0x1000, 0x1100)) });
    const parent = probe({ pasid: { width: 20 } });
    const away = rig.plug(parent, 0x08);
    const slices = [0, 1].map((i) => {
      const fn = probe({ pasid: { width: 8 } });
      const rid = 0x10 + 8 * i;
      rig.machine.plug(fn, rid, undefined, { slice: { of: parent, pasid: 0x40 + i } });
      rig.enable(0, rid, fn);
      return { fn, rid };
    });
    expect(() => rig.machine.plug(probe(), 0x30, undefined, { slice: { of: parent, pasid: 0x40 } })).toThrow(
      /another slice has the PASID/,
    );
    const seen: string[] = [];
    rig.machine.complex.onMessage = (m) => {
      if (m.kind === 'memory write') seen.push(`${m.stream.toString(16)} ${m.pasid}`);
    };
    // Each has its own address spaces: without a PASID, and under the guest's PASID 3.
    const pages = slices.map(({ rid }, i) => rig.space(rid, [NO_PASID, 3], 2 * i));
    slices.forEach(({ fn }, i) => {
      expect([rig.reaches(fn, pages[i]![0]!), rig.reaches(fn, pages[i]![1]!, 3)]).toEqual([true, true]);
      expect(rig.reaches(fn, pages[1 - i]![0]!)).toBe(false);
    });
    const stream = rig.machine.complex.slotOf(parent)!.stream.toString(16);
    expect(new Set(seen.map((s) => s.split(' ')[0]))).toEqual(new Set([stream]));
    expect(new Set(seen.map((s) => s.split(' ')[1]))).toEqual(new Set(['64', '65', '4096', '4097']));
    // What the guest has not set up does not leave the function.
    expect(rig.write(slices[0]!.fn, 1, 9)).toBe(DMA.ABORT);
    // A slice cannot be without its function.
    away();
    expect([...rig.machine.complex.slots()].length).toBe(0);
    expect(rig.write(slices[0]!.fn, 1)).toBe(DMA.ABORT);
  });

  test('virtual functions are managed as their physical function', () => {
    const layer = new PasidLayer(new PasidSpace(0x1000, 0x1100));
    const rig = new Rig('vtd', { pasids: layer });
    const fn = probe();
    const slot = rig.machine.complex.plug(rig.machine.root.bus, 0x08, fn, { pasids: 'global' });
    const virtual = probe({ pasid: { width: 20 } });
    const gone = rig.machine.complex.link(slot)!.spawn(1, virtual);
    expect(gone).not.toBeNull();
    rig.enable(0, 0x09, virtual);
    const [pa] = rig.space(0x09, [3]);
    expect(rig.reaches(virtual, pa!, 3)).toBe(true);
    expect(rig.reaches(virtual, pa!, layer.cpu.translate(3))).toBe(true);
    rig.machine.complex.unplug(slot);
    expect(rig.machine.complex.slotOf(virtual)).toBeUndefined();
  });
});
