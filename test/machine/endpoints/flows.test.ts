import { describe, expect, test } from 'vitest';
import { WORK_STATUS } from '../../../devices/endpoints/descriptor.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { DATA, EngineDriver, KINDS, rig } from './rig.ts';

const VA = 0x2000_0000;

for (const kind of KINDS) {
  const options = { ssidBits: 20, twoLevel: true };
  describe(`endpoints behind a ${kind}`, () => {
    const word = (m: ReturnType<typeof rig>, at: number) => {
      m.vm.memory.guest.load32(at);
      return m.vm.memory.guest.lo >>> 0;
    };

    test('a function with ATS asks once, is answered with host addresses, and reaches the guest page', () => {
      const m = rig(kind, options);
      const d = new EngineDriver(m, 0x10);
      m.guest.map(0x10, -1, VA, DATA);
      expect(d.fill(VA + 0x10)).toBe(WORK_STATUS.SUCCESS);
      expect(word(m, DATA + 0x10)).toBe(0x5a5a_5a5a);
      const { requests } = d.engine.fn.memory;
      expect(d.fill(VA + 0x20)).toBe(WORK_STATUS.SUCCESS);
      expect(d.engine.fn.memory.requests).toBe(requests);
      expect(d.engine.fn.memory.atc.used).toBeGreaterThan(0);
      expect(m.guest.faults()).toEqual([]);
    });

    test('PASIDs at both ends of 20 bits are address spaces of their own', () => {
      const m = rig(kind, options);
      const pasids = [1, 1023, 1024, 2 ** 20 - 1];
      const d = new EngineDriver(m, 0x10, pasids);
      for (const [i, pasid] of pasids.entries()) m.guest.map(0x10, pasid, VA, DATA + i * 0x1_0000);
      for (const [i, pasid] of pasids.entries()) {
        expect(d.fill(VA, pasid, i + 1), `pasid ${pasid}`).toBe(WORK_STATUS.SUCCESS);
      }
      for (const i of pasids.keys()) expect(word(m, DATA + i * 0x1_0000)).toBe(i + 1);
      expect(d.fill(VA)).toBe(WORK_STATUS.FAULT);
    });

    test('after unmap, invalidate and sync no cache has the page: not the IOMMU, not the device', () => {
      const m = rig(kind, options);
      const d = new EngineDriver(m, 0x10, [7]);
      for (const pasid of [NO_PASID, 7]) m.guest.map(0x10, pasid, VA, DATA + (pasid + 1) * 4096);
      for (const pasid of [NO_PASID, 7]) {
        expect(d.fill(VA, pasid)).toBe(WORK_STATUS.SUCCESS);
        m.guest.unmap(0x10, pasid, VA);
        expect(d.fill(VA, pasid), 'the device may still use what it has').toBe(WORK_STATUS.SUCCESS);
        m.guest.invalidate(0x10, pasid, VA);
        expect(m.guest.sync()).toBe(true);
        expect(d.fill(VA, pasid)).toBe(WORK_STATUS.FAULT);
      }
    });

    // On VT-d the host flushes the device with every nested invalidation; on Arm that is the guest's to ask for.
    test('withholding the device invalidation leaves the stale page in use on Arm: the check above bites', () => {
      const m = rig(kind, options);
      const d = new EngineDriver(m, 0x10);
      m.guest.map(0x10, -1, VA, DATA);
      d.fill(VA);
      m.guest.unmap(0x10, -1, VA);
      m.guest.invalidate(0x10, -1, VA, false);
      m.guest.sync();
      expect(d.fill(VA)).toBe(kind === 'smmuv3' ? WORK_STATUS.SUCCESS : WORK_STATUS.FAULT);
    });

    test("a page request goes to the guest's queue under its own ids; granted, the device goes on", () => {
      const m = rig(kind, options);
      const d = new EngineDriver(m, 0x10, [7]);
      expect(d.fill(VA + 0x123_4000, 7, 9, true)).toBe(WORK_STATUS.NONE);
      const asked = m.guest.requests();
      expect(asked).toEqual([
        { sid: 0x10, pasid: 7, address: VA + 0x123_4000, group: asked[0]!.group, write: true, last: true },
      ]);
      m.guest.map(0x10, 7, VA + 0x123_4000, DATA + 0x3000);
      m.guest.respond(asked[0]!, true);
      expect(d.status).toBe(WORK_STATUS.SUCCESS);
      expect(word(m, DATA + 0x3000)).toBe(9);
    });

    test('a page request the guest refuses ends the work with a fault', () => {
      const m = rig(kind, options);
      const d = new EngineDriver(m, 0x10, [7]);
      d.fill(VA, 7, 9, true);
      m.guest.respond(m.guest.requests()[0]!, false);
      expect(d.status).toBe(WORK_STATUS.FAULT);
    });

    test('a device that never completes an invalidation holds the sync back, and times out as the architecture says', () => {
      const m = rig(kind, { ...options, timeout: 1000, latency: { invalidate: 10 } });
      const d = new EngineDriver(m, 0x10);
      m.guest.map(0x10, -1, VA, DATA);
      d.fill(VA);
      m.vm.clock.settle();
      d.engine.fn.invalidate = () => true;
      m.guest.invalidate(0x10, -1, VA);
      expect(m.guest.sync()).toBe(false);
      m.vm.clock.advance(999);
      expect(m.guest.synced()).toBe(false);
      m.vm.clock.advance(2);
      const r = (at: number) => m.unit.window.read(at, 4) >>> 0;
      // CERROR_ATC_INV_SYNC at the sync; Invalidation Time-out Error.
      if (kind === 'smmuv3') expect([(r(0x9c) >>> 24) & 0x7f, r(0x60) & 1]).toEqual([3, 1]);
      else expect(r(0x34) & 0x40).toBe(0x40);
      expect(m.guest.synced()).toBe(false);
    });

    test('with latencies the sync completes when the device has, not before', () => {
      const m = rig(kind, { ...options, latency: { invalidate: 100, completion: 50 } });
      const d = new EngineDriver(m, 0x10);
      m.guest.map(0x10, -1, VA, DATA);
      d.fill(VA);
      m.vm.clock.settle();
      m.guest.unmap(0x10, -1, VA);
      m.guest.invalidate(0x10, -1, VA);
      expect(m.guest.sync()).toBe(false);
      // VT-d: once with the host's own flush, then, behind the fence, once for the guest's descriptor.
      m.vm.clock.advance(kind === 'smmuv3' ? 149 : 299);
      expect(m.guest.synced()).toBe(false);
      m.vm.clock.advance(1);
      expect(m.guest.synced()).toBe(true);
      expect(d.fill(VA)).toBe(WORK_STATUS.FAULT);
    });
  });
}

test('whoever listens on the bus sees the life of a translation in the words of the specification', () => {
  const m = rig('smmuv3', { ssidBits: 20, twoLevel: true });
  const d = new EngineDriver(m, 0x10, [7]);
  const seen: string[] = [];
  m.complex.onMessage = (message) => {
    seen.push(message.pasid < 0 ? message.kind : `${message.kind} (pasid ${message.pasid})`);
  };
  expect(d.fill(VA, 7, 1, true)).toBe(WORK_STATUS.NONE);
  m.guest.map(0x10, 7, VA, DATA);
  m.guest.respond(m.guest.requests()[0]!, true);
  m.guest.invalidate(0x10, 7, VA);
  m.guest.sync();
  expect(seen).toEqual([
    // The ring entry: translated once, then read with the translated address.
    'translation request',
    'memory read',
    'translation request (pasid 7)',
    'page request (pasid 7)',
    'page group response (pasid 7)',
    'translation request (pasid 7)',
    'memory write',
    // The completion record.
    'translation request (pasid 7)',
    'memory write',
    'invalidate request (pasid 7)',
    'invalidate completion',
  ]);
});
