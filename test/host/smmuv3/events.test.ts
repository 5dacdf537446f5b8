import { describe, expect, test } from 'vitest';
import { RESUME_AB, RESUME_AC } from '../../../src/spec/smmuv3/commands.ts';
import { EV2_STALL, EV3, encodeEvent, PRI1 } from '../../../src/spec/smmuv3/events.ts';
import { bench, identity, ok } from './bench.ts';

const SID = 8;
const VSID = 0x1234;

function stand(options: Parameters<typeof bench>[0] = { withUpcalls: false }) {
  const b = bench(options);
  const dev = b.device('nic', [SID]);
  const vsmmu = b.viommu(dev, b.parent(dev), new Map([[VSID, dev]]));
  const attach = (w0: bigint) => b.attach(dev, ok(vsmmu.nested(w0, 0n)));
  return { ...b, dev, vsmmu, attach };
}

function record(type: number, { sid = SID, ssid = -1, w3 = 0, stall = false, stag = 0 } = {}): Int32Array {
  const e = new Int32Array(8);
  encodeEvent(e, 0, type, sid, ssid, w3, 0x5678_9000, 0x12, 0x4000_0000, 0x1);
  e[2] = stag | (stall ? EV2_STALL : 0);
  return e;
}

/** The record types Linux hands to a guest. */
const FORWARDED = [0x04, 0x06, 0x08, 0x0a, 0x10, 0x11, 0x12, 0x13];

describe('an event record', () => {
  test('of every type × Stall × S2: only the guest-owned ones reach the vEVENTQ', () => {
    const { vsmmu, attach, driver } = stand();
    attach(0xbn);
    for (let type = 0; type < 256; type++) {
      for (const stall of [false, true]) {
        for (const s2 of [false, true]) {
          vsmmu.events.length = 0;
          driver.events.fault(record(type, { stall, w3: s2 ? EV3.S2 : 0 }));
          const want = FORWARDED.includes(type) && !stall && !s2 ? 1 : 0;
          expect([type, stall, s2, vsmmu.events.length]).toEqual([type, stall, s2, want]);
        }
      }
    }
  });

  test('has only its StreamID rewritten', () => {
    const { vsmmu, attach, driver } = stand();
    attach(0xbn);
    const r = record(0x10, { ssid: 77, w3: EV3.RNW | (2 << 8) });
    driver.events.fault(r);
    const want = r.slice();
    want[1] = VSID;
    expect(vsmmu.events).toEqual([want]);
    expect(r[1]).toBe(SID);
  });

  test('of a stream without a vDEVICE goes nowhere, also when one is made after the attach', () => {
    const { vsmmu, attach, driver, dev } = stand();
    vsmmu.names.clear();
    attach(0x9n);
    driver.events.fault(record(0x10));
    vsmmu.names.set(VSID, dev);
    driver.events.fault(record(0x10));
    expect(vsmmu.events).toEqual([]);

    attach(0x9n);
    driver.events.fault(record(0x10));
    expect(vsmmu.events).toHaveLength(1);
  });

  test('keeps the name the stream had at the attach', () => {
    const { vsmmu, attach, driver, dev } = stand();
    attach(0xbn);
    vsmmu.names.clear();
    vsmmu.names.set(0x4321, dev);
    driver.events.fault(record(0x10));
    expect(vsmmu.events[0]![1]).toBe(VSID);
    attach(0x4bn);
    driver.events.fault(record(0x10));
    expect(vsmmu.events[1]![1]).toBe(0x4321);
  });

  test('of a stream on the parent, of a detached one, or of nobody goes nowhere', () => {
    const { vsmmu, attach, driver, detach, dev } = stand();
    attach(0xbn);
    detach(dev);
    driver.events.fault(record(0x10));
    driver.events.fault(record(0x10, { sid: 0xffff_ffff | 0 }));
    driver.events.fault(record(0x10, { sid: 9 }));
    expect(vsmmu.events).toEqual([]);
  });
});

describe('a stalled transaction', () => {
  const STALLING = identity([0, 3 << 24, 0]);

  test('without a fault handler is aborted at once', () => {
    const { attach, driver, hw } = stand({ withUpcalls: false, identity: STALLING });
    attach(0xbn);
    hw.take();
    driver.events.fault(record(0x10, { stall: true, stag: 0x55 }));
    const [command] = hw.take();
    expect(command).toMatchObject({ command: { op: 'RESUME', sid: SID, stag: 0x55, resp: RESUME_AB >> 12 } });
  });

  test('of a type nobody can repair is aborted too', () => {
    const { attach, driver, hw } = stand({ withUpcalls: false, identity: STALLING });
    attach(0xbn);
    hw.take();
    driver.events.fault(record(0x0b, { stall: true, stag: 1 }));
    expect(hw.ops()).toBe('RESUME |');
  });

  test('waits for a listener of upcalls, who retries, terminates or aborts it once', () => {
    const { attach, driver, hw, hub, dev } = stand({ identity: STALLING });
    const seen: number[] = [];
    hub.listen([dev], { onFault: (_d, _s, r) => seen.push(r[2]! & 0xffff) });
    attach(0xbn);
    hw.take();
    for (const [code, resp] of [
      [0, RESUME_AC >> 12],
      [1, 0],
      [15, RESUME_AB >> 12],
    ] as const) {
      driver.events.fault(record(0x10, { stall: true, stag: 9, ssid: 3 }));
      expect(hw.take()).toEqual([]);
      expect(driver.respond(dev, 3, 9, code, true)).toBe(0);
      expect(hw.take()[0]).toMatchObject({ command: { op: 'RESUME', sid: SID, stag: 9, resp } });
      expect(driver.respond(dev, 3, 9, code, true)).toBe(-22);
    }
    expect(seen).toEqual([9, 9, 9]);
  });

  test('on a device with several streams cannot go to a fault queue', () => {
    const { driver, device, attach: _, ...b } = stand({ identity: STALLING, canStall: () => true });
    const dev = device('many', [32, 33]);
    const p = b.parent(dev);
    const d = ok(b.viommu(dev, p, new Map([[1, dev]])).nested(0xbn, 0n));
    d.iopf = true;
    expect(dev.group.setDomain(d)).toBe(-95);
    expect(driver.name).toBe('smmuv3.0');
  });
});

describe('a page request', () => {
  const REQUEST = PRI1.READ | PRI1.WRITE;
  const request = (flags: number, ssid = 0, group = 5) => Int32Array.from([SID, flags | ssid, 0x1000 | group, 0]);

  test('is denied by Linux, at the last of its group only', () => {
    const { driver, hw } = stand();
    hw.take();
    driver.events.pageRequest(request(REQUEST));
    expect(hw.take()).toEqual([]);
    driver.events.pageRequest(request(REQUEST | PRI1.LAST | PRI1.SSV, 0x4321));
    expect(hw.take()[0]).toMatchObject({ command: { op: 'PRI_RESP', sid: SID, ssid: 0x4321, group: 5, resp: 0 } });
  });

  test('that is a stop marker is never answered; the same without a PASID is a request', () => {
    const { driver, hw } = stand();
    hw.take();
    driver.events.pageRequest(request(PRI1.LAST | PRI1.SSV, 1));
    expect(hw.take()).toEqual([]);
    driver.events.pageRequest(request(PRI1.LAST));
    expect(hw.ops()).toBe('PRI_RESP |');
  });

  test('that a listener of upcalls takes is answered by it, with its code', () => {
    const { driver, hw, hub, dev } = stand({});
    hub.listen([dev], { onPageRequest: () => true });
    hw.take();
    for (const [code, resp] of [
      [0, 2],
      [1, 1],
      [15, 0],
    ] as const) {
      driver.events.pageRequest(request(REQUEST | PRI1.LAST | PRI1.SSV, 7));
      expect(hw.take()).toEqual([]);
      expect(driver.respond(dev, 7, 5, code, false)).toBe(0);
      expect(hw.take()[0]).toMatchObject({ command: { op: 'PRI_RESP', ssid: 7, group: 5, resp } });
      expect(driver.respond(dev, 7, 5, code, false)).toBe(-22);
    }
  });

  test('of nobody is denied as well', () => {
    const { driver, hw } = stand();
    driver.events.pageRequest(Int32Array.from([0x999, REQUEST | PRI1.LAST, 0, 0]));
    expect(hw.ops()).toMatch(/PRI_RESP \|$/);
  });
});
