import { describe, expect, test } from 'vitest';
import { Bridge } from '../../../bus/bridge.ts';
import { DmaEngine } from '../../../devices/endpoints/dma-engine.ts';
import type { MachineState } from '../../../src/machine/plugged-machine.ts';
import { EXT, SRIOV_CAP } from '../../../src/spec/pcie/capabilities.ts';
import { DATA, KINDS, probe, RAM, RAM_BYTES, Rig, VA } from './rig.ts';

/** The state as it comes out of a file, and the guest's memory of the same moment. */
function saved(rig: Rig): { state: MachineState; ram: Uint8Array } {
  const state = JSON.parse(JSON.stringify(rig.machine.save())) as MachineState;
  const ram = new Uint8Array(RAM_BYTES);
  rig.machine.vm.memory.guest.readBytes(RAM, ram);
  return { state, ram };
}

function loaded(rig: Rig, { state, ram }: ReturnType<typeof saved>): void {
  rig.machine.vm.memory.guest.writeBytes(RAM, ram);
  rig.machine.load(state);
}

for (const kind of KINDS) {
  describe(`a machine with a ${kind} that is saved`, () => {
    const make = () => {
      const rig = new Rig(kind);
      const port = new Bridge({ kind: 'root' });
      const toPci = new Bridge({ kind: 'pcie-pci' });
      rig.machine.plug(port, 0x08);
      rig.machine.plug(toPci, 0x10);
      const fns = [probe({ ats: {} }), probe(), probe()];
      rig.machine.plug(fns[0]!, 0, port);
      rig.machine.plug(fns[1]!, 0x08, toPci);
      rig.machine.plug(fns[2]!, 0x18, toPci);
      return { rig, fns };
    };

    test('goes on elsewhere with the bus numbers the guest gave, translations cached nowhere', () => {
      const a = make();
      a.rig.number(0, 0x08, 3);
      a.rig.number(0, 0x10, 1);
      a.rig.enable(3, 0, a.fns[0]!);
      for (const [i, devfn] of [0x08, 0x18].entries()) a.rig.enable(1, devfn, a.fns[1 + i]!);
      const pages = [a.rig.space(0x300)[0]!, a.rig.space(0x100, [-1], 1)[0]!];
      const reach = (m: typeof a) => m.fns.map((fn, i) => m.rig.reaches(fn, pages[i === 0 ? 0 : 1]!));
      expect(reach(a)).toEqual([true, true, true]);
      const state = saved(a.rig);

      const b = make();
      expect(b.rig.machine.unit.functionOf(0x300)).toBeUndefined();
      loaded(b.rig, state);
      expect(b.fns[0]!.memory.atc.used).toBe(0);
      expect(reach(b)).toEqual([true, true, true]);

      // Back in time on the same machine: the guest had renumbered its buses and moved a page.
      a.rig.number(0, 0x08, 2);
      a.rig.guest.map(0x300, -1, VA, DATA + 0x8000);
      loaded(a.rig, state);
      expect(reach(a)).toEqual([true, true, true]);
      expect([a.rig.errors, b.rig.errors]).toEqual([[], []]);
    });

    test('has its virtual functions again', () => {
      const card = () => {
        const rig = new Rig(kind);
        const engine = new DmaEngine({ ats: null, pri: null, pasid: null, virtualFunctions: 2, integrated: true });
        rig.machine.plug(engine.fn, 0x08);
        return { rig, engine };
      };
      const a = card();
      const at = a.engine.fn.config.findExtended(EXT.SRIOV);
      a.rig.config(0, 0x08, at + SRIOV_CAP.NUM, 2, 2);
      a.rig.config(0, 0x08, at + SRIOV_CAP.CONTROL, 2, SRIOV_CAP.ENABLE);
      for (const devfn of [0x08, 0x09, 0x0a]) a.rig.config(0, devfn, 4, 2, 6);
      expect([0x09, 0x0a, 0x0b].map((rid) => a.rig.machine.unit.functionOf(rid) !== undefined)).toEqual([
        true,
        true,
        false,
      ]);
      const b = card();
      loaded(b.rig, saved(a.rig));
      expect([0x09, 0x0a, 0x0b].map((rid) => b.rig.machine.unit.functionOf(rid) !== undefined)).toEqual([
        true,
        true,
        false,
      ]);
      expect([0x09, 0x0a].map((devfn) => b.rig.read(0, devfn, 4) & 6)).toEqual([6, 6]);
      expect(b.rig.machine.save().bus).toEqual(a.rig.machine.save().bus);
    });

    test('does not load a state whose bus is damaged, and stays as it is', () => {
      const { rig } = make();
      const { state } = saved(rig);
      const [first, ...others] = state.bus.functions;
      const bus = (part: object) => ({ ...state, bus: { ...state.bus, ...part } });
      const fn = (part: object) => bus({ functions: [{ ...first!, ...part }, ...others] });
      const damaged: [string, unknown][] = [
        ['machine', null],
        ['machine.unit', {}],
        ['machine.more', { ...state, more: 1 }],
        ['bus', { ...state, bus: 7 }],
        ['bus.functions', bus({ functions: {} })],
        ['bus.functions.0', bus({ functions: [null] })],
        ['bus.functions.0.place', fn({ place: 8 })],
        ['bus.functions.0.pins.length', fn({ pins: [] })],
        ['bus.functions.0.pins.2', fn({ pins: [false, false, 1, false] })],
        ['bus.functions.0.spawned', fn({ spawned: null })],
        ['bus.lines.length', bus({ lines: [0] })],
        ['bus.lines.1', bus({ lines: [0, 0.5, 0, 0] })],
        ['bus.lines.3', bus({ lines: [0, 0, 0, -1] })],
      ];
      for (const [at, given] of damaged) {
        expect(() => rig.machine.load(given as MachineState), at).toThrow(
          expect.objectContaining({ code: 'EINVAL', at: expect.objectContaining({ at }) }),
        );
        expect(JSON.parse(JSON.stringify(rig.machine.save()))).toEqual(state);
      }
    });

    test('does not load the state of a machine with other functions, and stays as it is', () => {
      const a = make();
      const state = saved(a.rig);
      const b = make();
      b.rig.plug(probe(), 0x20);
      const [pa] = b.rig.space(0x20);
      const fn = b.rig.machine.complex.byRid(0x20)!.fn as ReturnType<typeof probe>;
      expect(b.rig.reaches(fn, pa!)).toBe(true);
      expect(() => b.rig.machine.load(state.state)).toThrow(
        /has functions at \[01\.0 01\.0\/00\.0 02\.0 02\.0\/01\.0 02\.0\/03\.0\], this machine at \[.* 04\.0\]/,
      );
      expect(b.rig.reaches(fn, pa!)).toBe(true);
    });
  });
}
