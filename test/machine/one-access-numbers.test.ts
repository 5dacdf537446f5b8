import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Bridge } from '../../bus/bridge.ts';
import { DmaEngine } from '../../devices/endpoints/dma-engine.ts';
import { addAcs } from '../../src/lib/pci/standard.ts';
import { CAP, EXT, PCIE, SRIOV_CAP } from '../../src/spec/pcie/capabilities.ts';
import { KINDS, type Kind, probe, Rig } from './plugged/rig.ts';

/** Verbs one access of the guest may make its host execute. */
const MOST_VERBS = 400;
const FUNCTIONS = 200;

function verbs(rig: Rig): number {
  return rig.said.splice(0).filter((s) => s.what === 'host').length;
}

/** Does what `access` does, then what was put off. @returns verbs of each part. */
function parts(rig: Rig, access: () => void): number[] {
  verbs(rig);
  access();
  const list = [verbs(rig)];
  while (rig.soon()) list.push(verbs(rig));
  return list;
}

/** A machine with an engine of 200 virtual functions, and its SR-IOV capability as the guest writes it. */
function virtual(kind: Kind) {
  const rig = new Rig(kind);
  const engine = new DmaEngine({ virtualFunctions: FUNCTIONS });
  rig.plug(engine.fn, 8);
  const at = engine.fn.config.findExtended(EXT.SRIOV);
  const number = (n: number) => rig.config(0, 8, at + SRIOV_CAP.NUM, 2, n);
  const enable = (on: boolean) => rig.config(0, 8, at + SRIOV_CAP.CONTROL, 2, on ? SRIOV_CAP.ENABLE : 0);
  /** Virtual functions that answer. */
  const there = () => {
    let n = 0;
    for (let i = 0; i < FUNCTIONS; i++) if (rig.read(0, 9 + i, 8) !== 0xffff_ffff) n++;
    return n;
  };
  return { rig, engine, number, enable, there, held: () => rig.read(0, 8, at + SRIOV_CAP.NUM) & 0xffff };
}

describe.each(KINDS)('one access in front of a %s', (kind) => {
  test('that enables hundreds of virtual functions, or disables them, has them come and go in parts', () => {
    const { rig, number, enable, there } = virtual(kind);
    number(FUNCTIONS);
    const on = parts(rig, () => enable(true));
    expect(there()).toBe(FUNCTIONS);
    const off = parts(rig, () => enable(false));
    expect(there()).toBe(0);
    for (const list of [on, off]) {
      expect(list.length).toBeGreaterThan(3);
      expect(Math.max(...list)).toBeLessThan(MOST_VERBS);
      expect(list.reduce((a, b) => a + b)).toBeGreaterThan(FUNCTIONS);
    }
    expect(rig.errors).toEqual([]);
  });

  test('whatever is enabled, disabled, reset, taken out and saved in the middle of it, those are there that were asked for last', () => {
    const steps = fc.array(
      fc.oneof(
        fc.record({ what: fc.constant('number' as const), n: fc.integer({ min: 0, max: FUNCTIONS }) }),
        fc.record({ what: fc.constantFrom('on', 'off', 'soon', 'reset', 'away', 'saved') }),
      ),
      { minLength: 4, maxLength: 24 },
    );
    fc.assert(
      fc.property(steps, (list) => {
        const { rig, engine, number, enable, there, held } = virtual(kind);
        let asked = 0;
        let on = false;
        for (const s of list) {
          if ('n' in s) {
            number(s.n);
            if (!on) asked = s.n;
          } else if (s.what === 'on') {
            enable(true);
            on = true;
          } else if (s.what === 'off') {
            enable(false);
            on = false;
          } else if (s.what === 'soon') rig.soon();
          else if (s.what === 'saved') {
            const state = rig.machine.save();
            expect(there()).toBe(on ? asked : 0);
            rig.machine.load(JSON.parse(JSON.stringify(state)) as typeof state);
            expect(there()).toBe(on ? asked : 0);
          } else if (s.what === 'reset') {
            rig.machine.reset();
            rig.enable(0, 8, engine.fn);
            asked = 0;
            on = false;
          } else {
            rig.machine.complex.unplug(rig.machine.complex.slotOf(engine.fn)!);
            expect(there()).toBe(0);
            engine.fn.reset();
            rig.plug(engine.fn, 8);
            asked = 0;
            on = false;
          }
          if (on) expect(held()).toBe(asked);
        }
        while (rig.soon());
        expect(there()).toBe(on ? asked : 0);
        expect(rig.errors).toEqual([]);
      }),
      { numRuns: Number(process.env.VIOMMU_RUNS ?? 12) },
    );
  });

  test('that renames hundreds of functions behind a bridge has their names follow in parts, and saved in the middle all have', () => {
    const rig = new Rig(kind);
    const bridge = new Bridge({ kind: 'root' });
    rig.machine.plug(bridge, 0x10);
    rig.number(0, 0x10, 1, 4);
    const pcie = bridge.config.find(CAP.PCIE);
    rig.config(0, 0x10, pcie + PCIE.DEVCTL2, 2, PCIE.DEVCTL2_ARI);
    const functions = Array.from({ length: FUNCTIONS }, (_, i) => probe({ name: `f${i}` }));
    for (const [i, fn] of functions.entries()) {
      // Each is a group of its own.
      addAcs(fn.config, 0);
      rig.plug(fn, i, bridge, 1);
    }
    const [page] = rig.space(0x2c7);
    for (const bus of [2, 1]) {
      const renamed = parts(rig, () => rig.config(0, 0x10, 0x19, 1, bus));
      expect(renamed.length).toBeGreaterThan(3);
      expect(Math.max(...renamed)).toBeLessThan(MOST_VERBS);
      // The guest has set up 02:18.7 alone: the same function under another number is nobody.
      expect(rig.reaches(functions[0xc7]!, page!)).toBe(bus === 2);
      expect(rig.reaches(functions[0xc6]!, page!)).toBe(false);
    }
    rig.config(0, 0x10, 0x19, 1, 2);
    expect(rig.soon()).toBe(true);
    rig.machine.save();
    verbs(rig);
    while (rig.soon());
    expect(verbs(rig)).toBe(0);
    expect(rig.reaches(functions[0xc7]!, page!)).toBe(true);
    expect(rig.errors).toEqual([]);
  });

  test('a function that comes while others lose the name that is to be its own gets it', () => {
    const rig = new Rig(kind);
    const [a, b] = [0x10, 0x18].map((devfn, i) => {
      const bridge = new Bridge({ kind: 'root' });
      rig.machine.plug(bridge, devfn);
      rig.number(0, devfn, 1 + 2 * i);
      rig.config(0, devfn, bridge.config.find(CAP.PCIE) + PCIE.DEVCTL2, 2, PCIE.DEVCTL2_ARI);
      return bridge;
    });
    const functions = Array.from({ length: FUNCTIONS }, (_, i) => probe({ name: `f${i}` }));
    for (const [i, fn] of functions.entries()) {
      addAcs(fn.config, 0);
      rig.plug(fn, i, a, 1);
    }
    const [page] = rig.space(0x1c7);
    while (rig.soon());
    expect(rig.reaches(functions[0xc7]!, page!)).toBe(true);
    // The first bridge goes from bus 1 to 2, in parts; the second, empty one takes its number.
    for (const [devfn, bus] of [
      [0x10, 2],
      [0x18, 1],
    ] as const) {
      rig.config(0, devfn, 0x1a, 1, bus);
      rig.config(0, devfn, 0x19, 1, bus);
    }
    const late = probe({ name: 'late' });
    addAcs(late.config, 0);
    rig.plug(late, 0xc7, b, 1);
    expect(rig.soon()).toBe(true);
    while (rig.soon());
    expect(rig.reaches(late, page!)).toBe(true);
    expect(rig.reaches(functions[0xc7]!, page!)).toBe(false);
    expect(rig.errors).toEqual([]);
  });
});
