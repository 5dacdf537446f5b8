import { describe, expect, test } from 'vitest';
import { Bridge } from '../../../bus/bridge.ts';
import { isolationGroup } from '../../../bus/isolation.ts';
import { WORK_STATUS } from '../../../devices/endpoints/descriptor.ts';
import { DATA, EngineDriver, KINDS, type Machine, rig } from './rig.ts';

const VA = 0x2000_0000;
const PLAIN = { ats: null, pri: null, pasid: null, integrated: false } as const;

/** A bridge at 04.0 with bus 1 behind it, as firmware sets it up. */
function bridge(m: Machine, options: ConstructorParameters<typeof Bridge>[0]) {
  const slot = m.complex.plug(m.root.bus, 0x20, new Bridge(options));
  m.complex.configWrite(0, 0x20, 0x18, 4, 0x0001_0100);
  m.complex.configWrite(0, 0x20, 4, 2, 6);
  return slot;
}

for (const kind of KINDS) {
  describe(`groups of endpoints behind a ${kind}`, () => {
    test('conventional devices behind one bridge are one requester to guest and hardware: one address space for both', () => {
      const m = rig(kind);
      const { behind } = bridge(m, { kind: 'pcie-pci' });
      const a = new EngineDriver(m, 0x10, [], PLAIN, { bus: behind!, sid: 0x100 });
      const b = new EngineDriver(m, 0x18, [], PLAIN, { bus: behind!, sid: 0x100, shared: true });
      expect(a.slot.stream).toBe(b.slot.stream);
      m.guest.map(0x100, -1, VA, DATA);
      expect([a.fill(VA), b.fill(VA)]).toEqual([WORK_STATUS.SUCCESS, WORK_STATUS.SUCCESS]);
      m.guest.unmap(0x100, -1, VA);
      m.guest.invalidate(0x100, -1, VA);
      m.guest.sync();
      expect([a.fill(VA), b.fill(VA)]).toEqual([WORK_STATUS.FAULT, WORK_STATUS.FAULT]);
      // Pulling one leaves the other its address space.
      m.complex.unplug(a.slot);
      m.guest.map(0x100, -1, VA, DATA);
      expect(b.fill(VA)).toBe(WORK_STATUS.SUCCESS);
    });

    test('functions below a port without ACS are one group of the host; each keeps its own requester id', () => {
      const m = rig(kind);
      const { behind } = bridge(m, { kind: 'root', acs: false });
      const a = new EngineDriver(m, 0, [], PLAIN, { bus: behind!, sid: 0x100 });
      const b = new EngineDriver(m, 1, [], PLAIN, { bus: behind!, sid: 0x101, like: 0x100 });
      expect(isolationGroup(a.slot)).toEqual(isolationGroup(b.slot));
      expect(a.slot.stream).not.toBe(b.slot.stream);
      m.guest.map(0x100, -1, VA, DATA);
      expect([a.fill(VA), b.fill(VA)]).toEqual([WORK_STATUS.SUCCESS, WORK_STATUS.SUCCESS]);
    });
  });
}
