import { describe, expect, test } from 'vitest';
import { ENGINE } from '../../devices/endpoints/dma-engine.ts';
import { MACHINES, MachineGuest } from './dma-machines.ts';
import { SCRATCH } from './dma-world.ts';
import { DATA, SMMUV3_WRITERS, VTD_WRITERS } from './dma-writers.ts';

// What the table of `dma-targets.test.ts` tries with two IOMMUs alone, with everything that is in a machine.

describe.each(MACHINES)('what the IOMMU of $name writes and reads by itself', (machine) => {
  const { kind, speaks } = machine;
  const writers = kind === 'smmuv3' ? SMMUV3_WRITERS : VTD_WRITERS;
  const targets = Object.entries(new MachineGuest(machine).targets);

  test.each(writers.flatMap((w) => targets.map(([where, to]) => [w.name, where, w, to] as const)))(
    '%s, aimed at %s',
    (_, where, writer, to) => {
      const m = new MachineGuest(machine);
      const { vm, errors } = m.reached;
      const scratch = m.r(SCRATCH[kind]);
      writer.run(m, to);
      vm.clock.settle();
      expect(errors).toEqual([]);
      expect([vm.accesses.depth, vm.accesses.sealed]).toEqual([0, 0]);
      // The IOMMU and the engine go on as before.
      if (writer.how !== 'message' && where.startsWith('its own')) expect(m.r(SCRATCH[kind])).toBe(scratch);
      // IRQ_CTRL: an SMMUv3 keeps the addresses of its messages while the queues are on.
      const kept = kind === 'smmuv3' ? 0x50 : SCRATCH.vtd;
      m.w(kept, 5);
      expect(m.r(kept)).toBe(5);
      m.reached.write(machine.bar + ENGINE.RING_LOW, 4, 0x40, 0);
      if (where !== 'configuration space') expect(m.reached.read(machine.bar + ENGINE.RING_LOW)).toBe(0x40);
      if (writer.how !== 'message' || !speaks) return;
      const apicOnly = kind === 'vtd' && machine.name.includes('qemu') && !writer.name.includes('wait');
      if (where === 'RAM' && !apicOnly) expect(m.load(to)).toBe(DATA);
      if (where === 'the ITS' || where === 'the doorbell') {
        if (kind === 'smmuv3') expect(m.reached.messages).toContain(to);
      }
      if (where === 'the window of messages' && !writer.name.includes('wait')) expect(m.reached.messages).toContain(to);
      if (kind === 'smmuv3' && where === 'its own registers') expect(m.r(0x60) & writer.error!).toBe(writer.error!);
      if (writer.name === 'the status of a wait' && where.startsWith('its own')) {
        expect([m.r(0x80), m.r(0x34) & 0x10]).toEqual([0, 0x10]);
      }
    },
  );
});
