import { describe, expect, test } from 'vitest';
import { DmaEngine } from '../../../devices/endpoints/dma-engine.ts';
import type { PluggedMachine } from '../../../src/machine/plugged-machine.ts';
import { KINDS, probe, Rig } from '../plugged/rig.ts';
import { Nth } from '../refused/nth.ts';

/** A guest with two functions that translate. */
function running(kind: (typeof KINDS)[number], page: number) {
  const rig = new Rig(kind);
  const fns = [probe(), probe()];
  for (const [i, fn] of fns.entries()) rig.plug(fn, 0x10 + 8 * i);
  rig.machine.plug(new DmaEngine({ integrated: true }).fn, 0x40);
  const pages = fns.map((_, i) => rig.space(0x10 + 8 * i, [-1], page + i)[0]!);
  for (const [i, fn] of fns.entries()) expect(rig.reaches(fn, pages[i]!)).toBe(true);
  return { rig, fns, pages };
}

/** What of a machine counts after a load that was refused: all but what functions had cached. */
function seen(machine: PluggedMachine): unknown {
  return JSON.parse(JSON.stringify(machine.save(), (k, v) => (k === 'atc' ? null : v)));
}

describe.each(KINDS)('a machine with a %s whose host refuses the n-th verb of a load', (kind) => {
  test.each([false, true])('is as it was before, and loads when the host can again (lasting %s)', (lasting) => {
    const { rig, fns, pages } = running(kind, 0);
    const { machine } = rig;
    const state = machine.save();
    // Another guest's worth of state: the functions have been moved to other pages since.
    for (const [i, pa] of pages.entries()) rig.guest.map(0x10 + 8 * i, -1, 0x7000_0000, pa);
    let refused = 0;
    for (let n = 1; n < 60; n++) {
      const nth = new Nth('verb', lasting);
      const { unit } = machine as unknown as { unit: { device: { streams: readonly { device: { vfio: object } }[] } } };
      nth.verbs(machine.vm.iommufd, [...new Set(unit.device.streams.map((s) => s.device.vfio))], machine.vm.upcalls);
      const before = seen(machine);
      nth.arm(n);
      let threw = false;
      try {
        machine.load(state);
      } catch (e) {
        threw = true;
        expect((e as { code?: string }).code).toBe('EIO');
      }
      const { hits } = nth;
      nth.mend();
      if (threw && !lasting) expect(seen(machine)).toEqual(before);
      if (threw) refused++;
      machine.load(state);
      for (const [i, fn] of fns.entries()) expect(rig.reaches(fn, pages[i]!)).toBe(true);
      if (hits === 0) break;
    }
    if (kind === 'smmuv3') expect(refused).toBeGreaterThan(0);
    expect(rig.errors).toEqual([]);
  });
});
