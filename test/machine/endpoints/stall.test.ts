import { describe, expect, test } from 'vitest';
import { WORK_STATUS } from '../../../devices/endpoints/descriptor.ts';
import type { Smmuv3Program } from '../../../guest-fixtures/programs/smmuv3.ts';
import { DATA, EngineDriver, rig } from './rig.ts';

const VA = 0x2000_0000;

describe('stalled accesses of a device without ATS (SMMUv3)', () => {
  function stalling() {
    const m = rig('smmuv3', { stall: true, stallers: true });
    const d = new EngineDriver(m, 0x10, [], { ats: null });
    return { m, d, guest: m.guest as Smmuv3Program };
  }

  test('the access waits, the event names it, and after RESUME it finds the page the guest put there', () => {
    const { m, d, guest } = stalling();
    expect(d.fill(VA + 0x10)).toBe(WORK_STATUS.NONE);
    const [event] = guest.events();
    expect(event).toMatchObject({ type: 0x10, sid: 0x10, address: VA + 0x10 });
    guest.map(0x10, -1, VA, DATA);
    guest.resume(0x10, event!.stag, true);
    expect(d.status).toBe(WORK_STATUS.SUCCESS);
    m.vm.memory.guest.load32(DATA + 0x10);
    expect(m.vm.memory.guest.lo).toBe(0x5a5a_5a5a);
  });

  test('resumed without a page it stalls again, under a record of its own', () => {
    const { d, guest } = stalling();
    d.fill(VA);
    const [first] = guest.events();
    guest.resume(0x10, first!.stag, true);
    expect(d.status).toBe(WORK_STATUS.NONE);
    expect(guest.events()).toHaveLength(1);
  });

  test('aborted it fails, and the next descriptor runs', () => {
    const { d, guest } = stalling();
    d.fill(VA);
    const [event] = guest.events();
    guest.resume(0x10, event!.stag, false);
    expect(d.status).toBe(WORK_STATUS.FAULT);
    guest.map(0x10, -1, VA, DATA);
    expect(d.fill(VA)).toBe(WORK_STATUS.SUCCESS);
  });

  test('a RESUME with a tag nobody has, or for another stream, changes nothing', () => {
    const { d, guest } = stalling();
    d.fill(VA);
    const [event] = guest.events();
    guest.resume(0x10, event!.stag + 1, true);
    guest.resume(0x18, event!.stag, true);
    expect(d.status).toBe(WORK_STATUS.NONE);
  });
});
