import { describe, expect, test } from 'vitest';
import {
  ACCEL,
  Accelerator,
  type AcceleratorOptions,
  DRAIN,
  QUEUE_MODE,
} from '../../../devices/endpoints/accelerator.ts';
import { encodeDescriptor, WORK_OP, WORK_STATUS } from '../../../devices/endpoints/descriptor.ts';
import { VirtualClock } from '../../../src/lib/clock/virtual-clock.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { config, harness } from '../../bus/harness.ts';

const DONE = 0x10_1000;
const TO = 0x10_3000;
const IOVA = 0x4000_0000;

/** An accelerator with queue 0 shared and queue 1 dedicated to PASID 9, and its driver. */
function machine(options: AcceleratorOptions = {}) {
  const h = harness();
  const accel = new Accelerator(options);
  const slot = h.complex.plug(h.root.bus, 0x20, accel.fn);
  const c = config(h.complex, slot);
  c.master();
  c.ats(true);
  c.pasid(true);
  c.pri(true);
  const reg = (at: number, value: number) => accel.fn.barWrite(0, at, 4, value);
  const read = (at: number) => accel.fn.barRead(0, at, 4);
  const queue = (n: number, mode: number, pasid: number, depth: number) => {
    const at = ACCEL.QUEUE + n * ACCEL.QUEUE_BYTES;
    reg(at + ACCEL.QUEUE_PASID, pasid);
    reg(at + ACCEL.DEPTH, depth);
    reg(at + ACCEL.MODE, mode);
  };
  queue(0, QUEUE_MODE.ENABLE, 0, 2);
  queue(1, QUEUE_MODE.ENABLE | QUEUE_MODE.DEDICATED | QUEUE_MODE.HAS_PASID, 9, 2);
  reg(ACCEL.CONTROL, 1);
  const map = (pasid: number) => {
    h.iommu.map(slot.stream, pasid, IOVA + DONE, DONE);
    h.iommu.map(slot.stream, pasid, IOVA + TO, TO);
  };
  const work = (more: object = {}) =>
    encodeDescriptor({ op: WORK_OP.FILL, dstLo: IOVA + TO, doneLo: IOVA + DONE, bytes: 64, pattern: 7, ...more });
  const portal = (n: number, words: Int32Array) => {
    words.forEach((w, i) => {
      accel.fn.barWrite(1, n * ACCEL.PORTAL_BYTES + i * 4, 4, w >>> 0);
    });
  };
  const status = () => {
    h.memory.load32(DONE);
    return h.memory.lo;
  };
  return { ...h, accel, slot, c, reg, read, map, work, portal, status };
}

describe('shared work queues', () => {
  test('an enqueue carries the PASID the processor put in, whatever the descriptor says', () => {
    const m = machine();
    m.map(5);
    expect(m.accel.enqcmd(0, m.work({ pasid: 9 }), 5)).toBe(true);
    expect(m.status()).toBe(WORK_STATUS.SUCCESS);
    expect(m.bytes(TO, 1)[0]).toBe(7);
    m.memory.store32(DONE, 0);
    expect(m.accel.enqcmd(0, m.work({ pasid: 5 }), 6)).toBe(true);
    expect(m.status()).toBe(WORK_STATUS.NONE);
  });

  test('a full, a disabled and a dedicated queue say retry', () => {
    const clock = new VirtualClock();
    const m = machine({ timing: { clock, step: 10, flight: 0 } });
    m.map(5);
    const offers = [0, 1, 2, 3].map(() => m.accel.enqcmd(0, m.work(), 5));
    // One is in work, two wait.
    expect(offers).toEqual([true, true, true, false]);
    expect(m.read(ACCEL.QUEUE + ACCEL.USED)).toBe(2);
    clock.advance(10);
    expect(m.accel.enqcmd(0, m.work(), 5)).toBe(true);
    expect(m.accel.enqcmd(1, m.work(), 5)).toBe(false);
    expect(m.accel.enqcmd(2, m.work(), 5)).toBe(false);
    m.c.pasid(false);
    clock.settle();
    expect(m.accel.enqcmd(0, m.work(), 5)).toBe(false);
  });
});

describe('dedicated work queues', () => {
  test("a 64-byte write submits under the PASID of the queue's register", () => {
    const m = machine();
    m.map(9);
    m.portal(1, m.work({ pasid: 5 }));
    expect(m.status()).toBe(WORK_STATUS.SUCCESS);
  });

  test('what does not fit is lost and counted, as a posted write must be', () => {
    const clock = new VirtualClock();
    const m = machine({ timing: { clock, step: 10, flight: 0 } });
    m.map(9);
    for (let i = 0; i < 5; i++) m.portal(1, m.work());
    expect(m.read(ACCEL.DROPPED)).toBe(2);
    m.portal(0, m.work());
    expect(m.read(ACCEL.DROPPED)).toBe(3);
  });
});

describe('faults and draining', () => {
  test('a descriptor that faults may ask for its page while other queues wait their turn', () => {
    const m = machine();
    m.map(9);
    m.iommu.map(m.slot.stream, 5, IOVA + DONE, DONE);
    m.accel.enqcmd(0, m.work({ ask: true }), 5);
    m.portal(1, m.work());
    expect(m.status()).toBe(WORK_STATUS.NONE);
    expect(m.iommu.asked).toHaveLength(1);
    m.map(5);
    m.root.endpoints.pageResponse(m.slot.stream, 5, m.iommu.asked[0]!.group, 0);
    expect(m.status()).toBe(WORK_STATUS.SUCCESS);
    expect(m.read(ACCEL.QUEUE + ACCEL.QUEUE_BYTES + ACCEL.USED)).toBe(0);
  });

  test('a PASID reads busy until its last descriptor is done: only then may it be used again', () => {
    const clock = new VirtualClock();
    const m = machine({ timing: { clock, step: 10, flight: 0 } });
    m.map(5);
    m.map(6);
    m.accel.enqcmd(0, m.work(), 6);
    m.accel.enqcmd(0, m.work(), 5);
    m.reg(ACCEL.DRAIN, 5);
    expect(m.read(ACCEL.DRAIN) >>> 31).toBe(1);
    clock.advance(10);
    expect(m.read(ACCEL.DRAIN) >>> 31).toBe(1);
    clock.settle();
    expect(m.read(ACCEL.DRAIN) >>> 31).toBe(0);
    m.reg(ACCEL.DRAIN, DRAIN.NONE);
    expect(m.read(ACCEL.DRAIN)).toBe(DRAIN.NONE);
  });

  test('a reset forgets queued work and outstanding page requests', () => {
    const m = machine();
    m.accel.enqcmd(0, m.work({ ask: true }), 5);
    m.accel.enqcmd(0, m.work(), 5);
    m.reg(ACCEL.CONTROL, 2);
    expect(m.read(ACCEL.QUEUE + ACCEL.USED)).toBe(0);
    expect(m.read(ACCEL.CONTROL)).toBe(0);
    m.map(5);
    m.root.endpoints.pageResponse(m.slot.stream, 5, m.iommu.asked[0]!.group, 0);
    expect(m.status()).toBe(WORK_STATUS.NONE);
  });

  test('queued work is saved and loaded, and runs on the other side', () => {
    const clock = new VirtualClock();
    const m = machine({ timing: { clock, step: 10, flight: 0 } });
    m.map(9);
    m.portal(1, m.work({ pattern: 1 }));
    m.portal(1, m.work({ pattern: 2 }));
    m.portal(1, m.work({ pattern: 3 }));
    expect(m.bytes(TO, 1)[0]).toBe(0);
    const state = JSON.parse(JSON.stringify(m.accel.fn.save()));
    const n = machine();
    n.map(9);
    n.accel.fn.load(state);
    expect(n.bytes(TO, 1)[0]).toBe(3);
    expect(n.status()).toBe(WORK_STATUS.SUCCESS);
  });

  test('a descriptor that waits for a page is saved and loaded: the answer reaches it on the other side', () => {
    const m = machine();
    m.accel.enqcmd(0, m.work({ ask: true, doneLo: 0 }), 5);
    const { group } = m.iommu.asked[0]!;
    const state = JSON.parse(JSON.stringify(m.accel.fn.save()));
    const n = machine();
    n.map(5);
    n.accel.fn.load(state);
    expect(n.bytes(TO, 1)[0]).toBe(0);
    n.root.endpoints.pageResponse(n.slot.stream, 5, group, 0);
    expect(n.bytes(TO, 1)[0]).toBe(7);
  });

  test('one million page requests are served without growth', () => {
    const m = machine();
    const { memory } = m.accel.fn;
    m.iommu.pageRequest = () => {};
    let served = 0;
    for (let i = 0; i < 1_000_000; i++) {
      memory.pageRequest(5, i << 12, 0, 1, () => served++);
      memory.pageResponse(NO_PASID, i & 511, 0);
    }
    expect(served).toBe(1_000_000);
    expect(memory.outstanding).toBe(0);
  });
});
