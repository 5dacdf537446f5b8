import { describe, expect, test } from 'vitest';
import { BAR, BELL, NOWHERE, OTHER, OWN, RAM, SCRATCH, World } from './dma-world.ts';
import { DATA, SMMUV3_WRITERS, VTD_WRITERS } from './dma-writers.ts';

const PAIRS = (['smmuv3', 'vtd'] as const).flatMap((kind) =>
  (['smmuv3', 'vtd'] as const).flatMap((other) =>
    (['qemu-11.1', 'arch'] as const).map((profile) => [kind, other, profile] as const),
  ),
);

describe.each(PAIRS)('what a %s writes and reads by itself, beside a %s (%s)', (kind, other, profile) => {
  const writers = kind === 'smmuv3' ? SMMUV3_WRITERS : VTD_WRITERS;
  const targets: readonly [string, number][] = [
    ['its own registers', OWN + SCRATCH[kind]],
    ['its own doorbell', OWN + BELL[kind]],
    ['registers of the other one', OTHER + SCRATCH[other]],
    ['the doorbell of the other one', OTHER + BELL[other]],
    ['registers of a function', BAR + 0x100],
    ['RAM', RAM + 0x80_0000],
    ['nothing', NOWHERE],
  ];

  test.each(writers.flatMap((w) => targets.map(([where, to]) => [w.name, where, w, to] as const)))(
    '%s, aimed at %s',
    (_, where, writer, to) => {
      const m = new World(kind, other, profile);
      const scratch = m.r(SCRATCH[kind]);
      writer.run(m, to);
      m.vm.clock.settle();
      // Nobody is left at work, both answer, and nothing went deep or round in circles.
      expect([m.vm.accesses.depth, m.vm.accesses.sealed]).toEqual([0, 0]);
      expect(m.vm.memory.guest.load32(OWN) && m.vm.memory.guest.load32(OTHER)).toBe(true);
      expect(m.reached).toBeLessThan(2000);
      expect(m.deepest).toBeLessThanOrEqual(4);
      const own = where.startsWith('its own');
      if (own && writer.how !== 'message') expect(m.r(SCRATCH[kind])).toBe(scratch);
      if (kind === 'vtd' && where === 'RAM' && writer.name === 'the page request queue') {
        // PQT, and the first of the requests: of function 0x10, PASID 1, page 9.
        expect([m.r(0xc8), m.load(to), m.load(to + 4), m.load(to + 8) & ~0xfff]).toEqual([0x280, 0x10_0101, 1, 0x9000]);
      }
      // QEMU's SMMUv3 has no messages (IDR0.MSI), and no page requests.
      if (writer.how !== 'message' || (kind === 'smmuv3' && profile !== 'arch')) return;
      const apicOnly = kind === 'vtd' && profile === 'qemu-11.1' && !writer.name.includes('wait');
      if (where === 'RAM' && !apicOnly) expect(m.load(to)).toBe(DATA);
      if (where === 'registers of a function' && !apicOnly && kind === 'smmuv3') expect(m.last).toBe(DATA);
      if (where === 'registers of the other one' && !apicOnly && kind === 'smmuv3') {
        expect(m.other.window.read(SCRATCH[other], 4)).toBe(DATA);
      }
      if (kind === 'smmuv3' && (own || where === 'nothing')) {
        // GERROR.MSI_*_ABT_ERR.
        expect(m.r(0x60) & writer.error!).toBe(writer.error!);
        if (where === 'its own doorbell') expect(m.r(0x98)).toBeLessThanOrEqual(1);
      }
      if (writer.name === 'the status of a wait') {
        const taken = where === 'RAM' || where.includes('other') || where.includes('function');
        // IQE at the wait that could not be written.
        expect([m.r(0x80), m.r(0x34) & 0x10]).toEqual(taken ? [0x20, 0] : [0, 0x10]);
      }
    },
  );
});
