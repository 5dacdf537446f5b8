import { describe, expect, test } from 'vitest';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { HW_ERROR } from '../../../src/ports/hw.ts';
import type { UpcallHandlers } from '../../../src/ports/upcalls.ts';
import { OP } from '../../../src/spec/smmuv3/commands.ts';
import { EV3, PRI1 } from '../../../src/spec/smmuv3/events.ts';
import { fault, stand, VSID } from './stand.ts';

const EINVAL = -22;
const ENOENT = -2;

describe('first use of a stream (onStreamMiss)', () => {
  test('comes to whoever serves the device, with the stream of the device, and may attach inside', () => {
    const s = stand(false, [8, 9]);
    const asked: number[][] = [];
    const domain = s.nested(0x9n);
    s.upcalls!.serve([s.vfio.devId], {
      onStreamMiss(devId, stream, pasid) {
        asked.push([devId, stream, pasid]);
        return s.attach(domain) === 0;
      },
    });
    expect(s.ste(9)[0]).toBe(0);
    expect(s.driver.events.streamMiss(9, NO_PASID)).toBe(true);
    expect(asked).toEqual([[s.vfio.devId, 1, NO_PASID]]);
    expect(s.ste(9)[0]! & 0xf).toBe(0xd);
  });

  test('linux-only: the stream stays blocked until a command configures it', () => {
    const s = stand(true);
    expect(s.ste(8)[0]).toBe(1);
    expect(s.driver.events.streamMiss(8, NO_PASID)).toBe(false);
  });

  test('of a device nobody serves, or that does not exist, is not answered', () => {
    const s = stand(false);
    expect(s.driver.events.streamMiss(8, NO_PASID)).toBe(false);
    s.upcalls!.serve([s.vfio.devId, 999], { onStreamMiss: () => expect.unreachable() })();
    expect(s.driver.events.streamMiss(8, NO_PASID)).toBe(false);
    expect(s.driver.events.streamMiss(0x777, NO_PASID)).toBe(false);
  });
});

describe('stage-2 misses of a shadow (shadow, onStageTwoMiss)', () => {
  const missed = (s: ReturnType<typeof stand>) => s.driver.events.stageTwoMiss(8, 5, 0x1234_5000, 2, 0x1000, 0x2);

  test('come for a HWPT declared so, and for no other', () => {
    const s = stand(false);
    const seen: number[][] = [];
    s.upcalls!.serve([s.vfio.devId], {
      onStageTwoMiss(...args) {
        seen.push(args);
        return true;
      },
    });
    s.attach(s.parent);
    expect(missed(s)).toBe(false);
    expect(s.upcalls!.shadow(s.parent, true)).toBe(0);
    expect(missed(s)).toBe(true);
    expect(seen).toEqual([[s.vfio.devId, 0, 5, 0x1234_5000, 2, 0x1000, 0x2]]);
    expect(s.upcalls!.shadow(s.parent, false)).toBe(0);
    expect(missed(s)).toBe(false);
  });

  test('come through a nested domain from its parent', () => {
    const s = stand(false);
    s.upcalls!.serve([s.vfio.devId], { onStageTwoMiss: () => true });
    s.upcalls!.shadow(s.parent, true);
    s.vdevice();
    s.attach(s.nested(0xbn));
    expect(missed(s)).toBe(true);
  });

  test('need a paging HWPT', () => {
    const s = stand(false);
    for (const id of [0, 999, s.vfio.devId, s.viommu, s.nested(0x9n)]) expect(s.upcalls!.shadow(id, true)).toBe(ENOENT);
  });

  test('linux-only: they are faults', () => {
    const s = stand(true);
    s.attach(s.parent);
    expect(missed(s)).toBe(false);
  });
});

describe('faults Linux keeps to itself (onFault)', () => {
  const SILENT = [0x01, 0x02, 0x03, 0x05, 0x07, 0x09, 0x0b, 0x20, 0x21];

  test('arrive as the hardware wrote them, S2 and fetch errors included', () => {
    const s = stand(false);
    const seen: Int32Array[] = [];
    s.upcalls!.serve([s.vfio.devId], { onFault: (devId, stream, r) => seen.push(Int32Array.of(devId, stream, ...r)) });
    s.vdevice();
    s.attach(s.nested(0xbn));
    const records = [...SILENT.map((t) => fault(t, 8)), fault(0x10, 8, EV3.S2), fault(0x13, 8)];
    for (const r of records) s.driver.events.fault(r);
    expect(seen).toEqual(records.map((r) => Int32Array.of(s.vfio.devId, 0, ...r)));
  });

  test('linux-only: the guest sees none of them', () => {
    const s = stand(true);
    const q = { flags: 0, viommuId: s.viommu, type: 1, depth: 16, reserved: 0, outVeventqId: 0, outFd: null as never };
    expect(s.fd.veventqAlloc(q)).toBe(0);
    s.vdevice();
    s.attach(s.nested(0xbn));
    for (const t of SILENT) s.driver.events.fault(fault(t, 8));
    s.driver.events.fault(fault(0x10, 8, EV3.S2));
    const fd = q.outFd as unknown as { read(into: Uint8Array): number };
    expect(fd.read(new Uint8Array(4096))).toBe(0);
    s.driver.events.fault(fault(0x10, 8));
    const bytes = new Uint8Array(4096);
    expect(fd.read(bytes)).toBe(40);
    expect(new Int32Array(bytes.buffer)[3]).toBe(VSID);
  });
});

describe('page requests and stalls (onPageRequest, respond)', () => {
  const request = Int32Array.of(8, PRI1.READ | PRI1.LAST | PRI1.SSV | 3, 0x1000 | 7, 0);

  test('are answered by the listener', () => {
    const s = stand(false);
    s.upcalls!.serve([s.vfio.devId], { onPageRequest: () => true });
    s.hw.take();
    s.driver.events.pageRequest(request);
    expect(s.hw.take()).toEqual([]);
    expect(s.upcalls!.respond(s.vfio.devId, 3, 7, 0, false)).toBe(0);
    expect(s.hw.take()[0]).toMatchObject({ command: { op: 'PRI_RESP', resp: 2 } });
    expect(s.upcalls!.respond(s.vfio.devId, 3, 7, 0, false)).toBe(EINVAL);
    expect(s.upcalls!.respond(999, 3, 7, 0, false)).toBe(ENOENT);
  });

  test('linux-only: Linux denies them all', () => {
    const s = stand(true);
    s.hw.take();
    s.driver.events.pageRequest(request);
    expect(s.hw.take()[0]).toMatchObject({ command: { op: 'PRI_RESP', resp: 0 } });
  });
});

describe('invalidations that are not finished when the call returns (outstanding, onInvalidateError)', () => {
  function served(linux: boolean) {
    const s = stand(linux);
    const heard: string[] = [];
    const handlers: UpcallHandlers = {
      onInvalidateError: (_d, error) => heard.push(`error ${error}`),
      onDrained: () => heard.push('drained'),
    };
    s.upcalls?.serve([s.vfio.devId], handlers);
    s.vdevice();
    s.attach(s.nested(0xbn, 1n << 28n));
    return { ...s, heard, handlers };
  }

  test('are counted until their completion comes, a late error before it', () => {
    const s = served(false);
    s.hw.token = 41;
    expect(s.invalidate([OP.ATC_INV, VSID, 52, 0])).toBe(0);
    s.hw.token = 42;
    expect(s.invalidate([OP.ATC_INV, VSID, 52, 0])).toBe(0);
    expect(s.upcalls!.outstanding(s.handlers)).toBe(2);
    s.driver.events.completed(41, HW_ERROR.NONE, 8);
    expect(s.heard).toEqual([]);
    s.driver.events.completed(42, HW_ERROR.ATC_TIMEOUT, 8);
    expect(s.heard).toEqual([`error ${HW_ERROR.ATC_TIMEOUT}`, 'drained']);
    expect(s.upcalls!.outstanding(s.handlers)).toBe(0);
    s.driver.events.completed(42, HW_ERROR.NONE, 8);
    expect(s.heard).toHaveLength(2);
  });

  test('are waited for also when the kernel itself asked, but then their errors are not the guest’s', () => {
    const s = served(false);
    s.hw.token = 43;
    s.attach(s.nested(0x4bn, 1n << 28n));
    expect(s.upcalls!.outstanding(s.handlers)).toBe(1);
    s.driver.events.completed(43, HW_ERROR.ATC_TIMEOUT, 8);
    expect(s.heard).toEqual(['drained']);
  });

  test('a timeout within the call is told as well, and the call succeeds', () => {
    const s = served(false);
    let failures = 1;
    s.hw.refuseSync = () => (failures-- > 0 ? HW_ERROR.ATC_TIMEOUT : HW_ERROR.NONE);
    expect(s.invalidate([OP.ATC_INV, VSID, 52, 0])).toBe(0);
    expect(s.heard).toEqual([`error ${HW_ERROR.ATC_TIMEOUT}`]);
  });

  test('linux-only: neither is known to the guest', () => {
    const s = served(true);
    s.hw.token = 41;
    let failures = 1;
    s.hw.refuseSync = () => (failures-- > 0 ? HW_ERROR.ATC_TIMEOUT : HW_ERROR.NONE);
    expect(s.invalidate([OP.ATC_INV, VSID, 52, 0])).toBe(0);
    s.driver.events.completed(41, HW_ERROR.ATC_TIMEOUT, 8);
    expect(s.heard).toEqual([]);
  });
});
