import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Atc } from '../../../devices/endpoints/atc.ts';
import { encodeDescriptor, WORK_OP, WORK_STATUS } from '../../../devices/endpoints/descriptor.ts';
import { DmaEngine, ENGINE } from '../../../devices/endpoints/dma-engine.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { EXT } from '../../../src/spec/pcie/capabilities.ts';
import { rangeHigh, rangeLow, rangeShift, WHOLE_SPACE } from '../../../src/spec/pcie/messages.ts';
import { config, harness } from '../../bus/harness.ts';

const RING = 0x10_0000;
const DONE = 0x10_1000;
const FROM = 0x10_2000;
const TO = 0x10_3000;

/** A driver of the DMA engine: IOVA = page << 12 | 0x40000000 maps to the page in memory. */
function driver(options: ConstructorParameters<typeof DmaEngine>[0] = {}, latency = {}) {
  const h = harness(latency);
  const engine = new DmaEngine(options);
  const slot = h.complex.plug(h.root.bus, 0x10, engine.fn);
  const c = config(h.complex, slot);
  c.master();
  const reg = (at: number, value: number) => engine.fn.barWrite(0, at, 4, value);
  let tail = 0;
  const map = (page: number, perm = 3, pasid = NO_PASID) =>
    h.iommu.map(slot.stream, pasid, 0x4000_0000 + page, page, perm);
  const start = () => {
    for (const page of [RING, DONE, FROM, TO]) map(page);
    reg(ENGINE.RING_LOW, 0x4000_0000 + RING);
    reg(ENGINE.RING_LOG2, 4);
    reg(ENGINE.CONTROL, 1 | 4);
  };
  const submit = (d: Parameters<typeof encodeDescriptor>[0]) => {
    h.memory.writeBytes(
      RING + tail * 64,
      new Uint8Array(encodeDescriptor({ doneLo: 0x4000_0000 + DONE, ...d }).buffer),
    );
    h.memory.store32(DONE, 0);
    tail = (tail + 1) & 15;
    reg(ENGINE.TAIL, tail);
    return status();
  };
  const status = () => {
    h.memory.load32(DONE);
    return h.memory.lo;
  };
  const invalidate = (va: number, shift: number, itag = 0, pasid = NO_PASID) =>
    h.root.endpoints.invalidate(slot.stream, pasid, itag, rangeLow(va | 0, shift), rangeHigh(0, shift), false);
  const copy = { op: WORK_OP.COPY, srcLo: 0x4000_0000 + FROM, dstLo: 0x4000_0000 + TO, bytes: 4096 } as const;
  return { ...h, engine, slot, c, reg, map, start, submit, status, invalidate, copy };
}

describe('an endpoint with ATS', () => {
  test('without ATS enabled every request goes untranslated', () => {
    const d = driver();
    d.start();
    d.memory.store32(FROM, 0x1234);
    expect(d.submit(d.copy)).toBe(WORK_STATUS.SUCCESS);
    expect([...d.bytes(TO, 2)]).toEqual([0x34, 0x12]);
    expect(d.iommu.seen.every((s) => s.startsWith('untranslated'))).toBe(true);
    expect(d.engine.fn.memory.atc.used).toBe(0);
  });

  test('with ATS it asks once per page and then uses what it was given', () => {
    const d = driver();
    d.start();
    d.c.ats(true);
    expect(d.submit(d.copy)).toBe(WORK_STATUS.SUCCESS);
    expect(d.submit(d.copy)).toBe(WORK_STATUS.SUCCESS);
    const requests = d.iommu.seen.filter((s) => s.startsWith('request'));
    expect(requests).toHaveLength(4);
    expect(d.iommu.seen.some((s) => s.startsWith('untranslated'))).toBe(false);
  });

  for (const [how, act] of [
    ['ATS Enable cleared', (d: ReturnType<typeof driver>) => d.c.ats(false)],
    ['function level reset', (d: ReturnType<typeof driver>) => d.c.write(d.engine.fn.config.find(0x10) + 8, 2, 0x8000)],
    ['hot unplug', (d: ReturnType<typeof driver>) => d.complex.unplug(d.slot)],
    ['an invalidation of everything', (d: ReturnType<typeof driver>) => void d.invalidate(0, WHOLE_SPACE)],
  ] as const) {
    test(`${how}: nothing cached survives`, () => {
      const d = driver();
      d.start();
      d.c.ats(true);
      d.submit(d.copy);
      expect(d.engine.fn.memory.atc.used).toBe(4);
      act(d);
      expect(d.engine.fn.memory.atc.used).toBe(0);
    });
  }

  test('an invalidation is completed with its ITag; with ATS off it is an unsupported request', () => {
    const d = driver();
    expect(d.invalidate(0, 12)).toBe(false);
    d.c.ats(true);
    expect(d.invalidate(0, 12, 17)).toBe(true);
    expect(d.iommu.completions).toEqual([{ rid: d.slot.stream, itags: 1 << 17, count: 1 }]);
  });

  test('a stale translation is used until the invalidation, and not after it', () => {
    const d = driver();
    d.start();
    d.c.ats(true);
    d.submit(d.copy);
    d.iommu.unmap(d.slot.stream, NO_PASID, 0x4000_0000 + TO);
    expect(d.submit(d.copy)).toBe(WORK_STATUS.SUCCESS);
    d.invalidate(0x4000_0000 + TO, 12);
    expect(d.submit(d.copy)).toBe(WORK_STATUS.FAULT);
  });

  test('a write on its way with an old translation arrives before the invalidation completes', () => {
    const d = driver();
    const timed = driver({ timing: { clock: d.clock, step: 0, flight: 100 } });
    timed.start();
    timed.c.ats(true);
    timed.memory.store32(FROM, 7);
    timed.submit(timed.copy);
    timed.invalidate(0x4000_0000 + TO, 12);
    expect(timed.iommu.completions).toEqual([]);
    d.clock.advance(100);
    expect(timed.bytes(TO, 1)[0]).toBe(7);
    expect(timed.iommu.completions).toHaveLength(1);
    expect(timed.status()).toBe(WORK_STATUS.SUCCESS);
  });

  test('with message latencies an invalidation is on its way, and a function that disappears never answers', () => {
    const d = driver({}, { invalidate: 50, completion: 30 });
    d.c.ats(true);
    expect(d.invalidate(0, 12, 3)).toBe(true);
    d.clock.advance(79);
    expect(d.iommu.completions).toEqual([]);
    d.clock.advance(1);
    expect(d.iommu.completions).toHaveLength(1);
    d.invalidate(0, 12, 4);
    d.complex.unplug(d.slot);
    d.clock.settle();
    expect(d.iommu.completions).toHaveLength(1);
  });
});

describe('page requests', () => {
  test('a missing page is asked for, and the work goes on when it is granted', () => {
    const d = driver();
    d.start();
    d.c.ats(true);
    d.c.pri(true);
    d.iommu.unmap(d.slot.stream, NO_PASID, 0x4000_0000 + TO);
    expect(d.submit({ ...d.copy, ask: true })).toBe(WORK_STATUS.NONE);
    expect(d.iommu.asked).toEqual([
      { rid: d.slot.stream, pasid: NO_PASID, page: 0x4000_0000 + TO, access: 2, group: 0 },
    ]);
    d.map(TO);
    d.root.endpoints.pageResponse(d.slot.stream, NO_PASID, 0, 0);
    expect(d.status()).toBe(WORK_STATUS.SUCCESS);
  });

  test('an invalid-request answer fails the descriptor; a failure stops the function asking', () => {
    const d = driver();
    d.start();
    d.c.ats(true);
    d.c.pri(true);
    d.iommu.unmap(d.slot.stream, NO_PASID, 0x4000_0000 + TO);
    d.submit({ ...d.copy, ask: true });
    d.root.endpoints.pageResponse(d.slot.stream, NO_PASID, 0, 1);
    expect(d.status()).toBe(WORK_STATUS.FAULT);
    d.submit({ ...d.copy, ask: true });
    d.root.endpoints.pageResponse(d.slot.stream, NO_PASID, 1, 15);
    expect(d.status()).toBe(WORK_STATUS.FAULT);
    const at = d.c.extended(EXT.PRI);
    expect(d.c.read(at + 6, 2)).toBe(0x101);
    expect(d.c.read(at + 4, 2)).toBe(0);
    d.c.pri(true);
    expect(d.c.read(at + 6, 2)).toBe(0);
  });

  test('a response nobody asked for sets Unexpected PRG Index', () => {
    const d = driver();
    d.c.pri(true);
    d.root.endpoints.pageResponse(d.slot.stream, NO_PASID, 9, 0);
    expect(d.c.read(d.c.extended(EXT.PRI) + 6, 2) & 2).toBe(2);
  });

  test('a page that never comes is asked for a bounded number of times', () => {
    const d = driver();
    d.start();
    d.c.ats(true);
    d.c.pri(true);
    d.iommu.unmap(d.slot.stream, NO_PASID, 0x4000_0000 + TO);
    d.submit({ ...d.copy, ask: true });
    for (let i = 0; i < 20 && d.status() === WORK_STATUS.NONE; i++) {
      d.root.endpoints.pageResponse(d.slot.stream, NO_PASID, d.iommu.asked.at(-1)!.group, 0);
    }
    expect(d.status()).toBe(WORK_STATUS.FAULT);
    expect(d.iommu.asked.length).toBeLessThan(20);
  });
});

describe('PASIDs', () => {
  test('translations of one PASID are not used by another, nor by requests without', () => {
    const d = driver();
    d.start();
    d.c.ats(true);
    d.c.pasid(true);
    for (const page of [DONE, FROM, TO]) d.map(page, 3, 5);
    expect(d.submit({ ...d.copy, pasid: 5 })).toBe(WORK_STATUS.SUCCESS);
    for (const page of [DONE, FROM, TO]) d.iommu.unmap(d.slot.stream, 5, 0x4000_0000 + page);
    d.iommu.seen.length = 0;
    d.map(DONE, 3, 6);
    expect(d.submit({ ...d.copy, pasid: 6 })).toBe(WORK_STATUS.FAULT);
    expect(d.submit({ ...d.copy, pasid: 5 })).toBe(WORK_STATUS.SUCCESS);
    d.invalidate(0, WHOLE_SPACE, 0, 5);
    d.map(DONE, 3, 5);
    expect(d.submit({ ...d.copy, pasid: 5 })).toBe(WORK_STATUS.FAULT);
  });
});

describe('the ATC', () => {
  test('the size encoding of ranges is its own inverse for every size', () => {
    for (let shift = 12; shift <= 64; shift++) {
      if (shift === 64) expect(rangeShift(rangeLow(0, 64), rangeHigh(0, 64))).toBe(WHOLE_SPACE);
      else expect(rangeShift(rangeLow(0x1234_5000, shift), rangeHigh(0x00ab_cdef, shift))).toBe(shift);
    }
    // Linux in lazy mode: everything, written as 0x7fffffffff_fff in the address bits.
    expect(rangeShift(0xffff_f800 | 0, 0x7fff_ffff)).toBe(WHOLE_SPACE);
  });

  test('after any sequence of insertions and invalidations a hit is what a plain list says', () => {
    const op = fc.record({
      insert: fc.boolean(),
      page: fc.nat(63),
      high: fc.nat(1),
      size: fc.nat(4),
      pasid: fc.constantFrom(NO_PASID, 0, 7),
    });
    fc.assert(
      fc.property(fc.array(op, { maxLength: 40 }), (ops) => {
        const atc = new Atc(1024);
        const list: { pasid: number; first: number; count: number; out: number }[] = [];
        ops.forEach((o, n) => {
          const shift = 12 + o.size;
          const count = 2 ** o.size;
          const first = o.high * 0x10_0000 + Math.floor(o.page / count) * count;
          const lo = (first * 4096) | 0;
          if (o.insert) {
            // Two entries for one page never exist in a real device: drop first.
            atc.invalidate(o.pasid, lo, o.high, shift, false);
            atc.insert(o.pasid, lo, o.high, (n + 1) * 2 ** 30, shift, 3, false);
          } else atc.invalidate(o.pasid, lo, o.high, shift, false);
          for (let i = list.length - 1; i >= 0; i--) {
            const e = list[i]!;
            if (e.pasid === o.pasid && e.first < first + count && first < e.first + e.count) list.splice(i, 1);
          }
          if (o.insert) list.push({ pasid: o.pasid, first, count, out: (n + 1) * 2 ** 30 });
        });
        for (const pasid of [NO_PASID, 0, 7]) {
          for (let high = 0; high < 2; high++) {
            for (let page = 0; page < 64; page++) {
              const at = high * 0x10_0000 + page;
              const want = list.find((e) => e.pasid === pasid && at >= e.first && at < e.first + e.count);
              const hit = atc.lookup(pasid, (page * 4096 + 5) | 0, high);
              expect(hit).toBe(want !== undefined);
              if (want !== undefined) expect(atc.out).toBe(want.out + (at - want.first) * 4096 + 5);
            }
          }
        }
      }),
      { numRuns: 60 },
    );
  });
});

describe('an ATC whose function is asked to forget large ranges, again and again', () => {
  test.each([16, 65_536])(
    'of %d entries: what is asked for goes, and the rest when there is no end to it',
    (entries) => {
      const atc = new Atc(entries);
      const fill = (): number => {
        for (let page = 0; page < entries; page++) atc.insert(NO_PASID, page << 12, 0, page * 4096, 12, 3, false);
        return atc.used;
      };
      const full = fill();
      // A few of them keep what they do not name.
      for (let n = 0; n < 3; n++) atc.invalidate(NO_PASID, 0, 1 + n, 30, false);
      expect(atc.used).toBe(full);
      expect(atc.lookup(NO_PASID, 5 << 12, 0)).toBe(true);
      // A queue full of them is one access: all goes before they have gone through 65,536 entries each.
      for (let n = 0; n < 20_000; n++) atc.invalidate(NO_PASID, 0, 16, 30, false);
      expect(atc.used).toBe(entries === 16 ? full : 0);
      // A use in between is what real functions do: then nothing else goes.
      fill();
      for (let n = 0; n < 40; n++) {
        atc.lookup(NO_PASID, 0, 0);
        atc.invalidate(NO_PASID, 0, 16, 30, false);
      }
      expect(atc.used).toBe(full);
      atc.invalidate(NO_PASID, 0, 0, 30, false);
      expect(atc.lookup(NO_PASID, 5 << 12, 0)).toBe(false);
    },
  );
});
