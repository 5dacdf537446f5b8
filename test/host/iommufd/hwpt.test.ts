import { describe, expect, test } from 'vitest';
import { VfioFile } from '../../../src/host/iommufd/vfio-device.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { MOCK } from '../../../src/spec/iommufd/selftest.ts';
import { APERTURE, Host, must, user, words } from '../host.ts';

const PAGE = 0x1000n;

function graph(flags = 4) {
  const h = new Host();
  const io = h.ioas();
  const d = h.device(io, flags);
  const parent = h.hwpt(d.idev, io, 1);
  return { h, io, d, parent };
}

describe('HWPT_ALLOC', () => {
  test('every error of the fact sheet, in the order of the checks', () => {
    const { h, io, d, parent } = graph();
    const alloc = (o: object) =>
      h.fd.hwptAlloc({
        flags: 0,
        devId: d.idev,
        ptId: io,
        outHwptId: 0,
        reserved: 0,
        dataType: 0,
        data: null,
        faultId: 0,
        ...o,
      });
    const data = user(words(1, 0));
    const type = MOCK.HWPT_DATA;
    expect(alloc({ reserved: 1, data })).toBe(-E.OPNOTSUPP);
    expect(alloc({ data, devId: 99 })).toBe(-E.INVAL);
    expect(alloc({ dataType: type, devId: 99 })).toBe(-E.INVAL);
    expect(alloc({ devId: 99, ptId: 98 })).toBe(-E.NOENT);
    expect(alloc({ ptId: 98 })).toBe(-E.INVAL);
    expect(alloc({ ptId: d.idev })).toBe(-E.INVAL);
    expect(alloc({ flags: 16 })).toBe(-E.OPNOTSUPP);
    expect(alloc({ flags: 5 })).toBe(-E.OPNOTSUPP);
    expect(alloc({ dataType: 7, data })).toBe(-E.OPNOTSUPP);
    expect(alloc({ flags: 4, faultId: 77 })).toBe(-E.NOENT);
    const weak = h.device(io, 1);
    expect(alloc({ flags: 2, devId: weak.idev })).toBe(-E.OPNOTSUPP);

    expect(alloc({ ptId: parent })).toBe(-E.OPNOTSUPP);
    expect(alloc({ ptId: parent, flags: 1, dataType: type, data })).toBe(-E.OPNOTSUPP);
    expect(alloc({ ptId: parent, flags: 2, dataType: type, data })).toBe(-E.OPNOTSUPP);
    expect(alloc({ ptId: d.hwpt, dataType: type, data })).toBe(-E.INVAL);
    expect(alloc({ ptId: h.hwpt(d.idev, io), dataType: type, data })).toBe(-E.INVAL);
    expect(alloc({ ptId: parent, dataType: 5, data })).toBe(-E.OPNOTSUPP);
    expect(alloc({ ptId: parent, dataType: type, data: user(new Uint8Array(3)) })).toBe(-E.INVAL);
    expect(alloc({ ptId: parent, dataType: type, data: user(new Uint8Array(9)) })).toBe(-E.INVAL);
    expect(alloc({ ptId: parent, dataType: type, data: user(words(1, 0), 4) })).toBe(-E.FAULT);
    const nested = h.nested(d.idev, parent);
    expect(alloc({ ptId: nested, dataType: type, data })).toBe(-E.INVAL);
    expect(alloc({ ptId: h.viommu(d.idev, parent), flags: 2, dataType: type, data })).toBe(-E.OPNOTSUPP);
    // A failed allocation gives its id back.
    const before = h.ioas();
    must(h.fd.destroy(before));
    alloc({ flags: 4, faultId: 77 });
    expect(h.ioas()).toBe(before);
  });

  test('a device of another IOMMU cannot use the vIOMMU or the parent', async () => {
    const { MockDriver } = await import('../../../src/host/drivers/mock/driver.ts');
    const { h, parent, d } = graph();
    const second = new MockDriver(h.memory);
    h.kernel.addIommu(second);
    const description = second.describe(4);
    if (typeof description === 'number') throw new Error('flags');
    const f = new VfioFile(h.kernel.addDevice(description));
    must(f.bind(h.fd));
    const v = h.viommu(d.idev, parent);
    expect(h.nested(f.devId, v)).toBe(-E.INVAL);
    expect(h.vdevice(v, f.devId, 1n)).toBe(-E.INVAL);
  });

  test('references: the parent is held by nested HWPTs and vIOMMUs, the fault queue by its HWPTs and its file', () => {
    const { h, d, parent, io } = graph();
    const q = h.fault();
    const nested = h.nested(d.idev, parent, 4, q.id);
    expect(h.fd.destroy(parent)).toBe(-E.BUSY);
    expect(h.fd.destroy(q.id)).toBe(-E.BUSY);
    q.fd.close();
    expect(h.fd.destroy(q.id)).toBe(-E.BUSY);
    must(h.fd.destroy(nested));
    must(h.fd.destroy(q.id));
    const v = h.viommu(d.idev, parent);
    expect(h.fd.destroy(parent)).toBe(-E.BUSY);
    must(h.fd.destroy(v));
    must(h.fd.destroy(parent));
    expect(h.fd.destroy(io)).toBe(-E.BUSY);
  });
});

describe('HWPT_INVALIDATE', () => {
  const entries = (...list: readonly number[]) => Int32Array.from(list);

  test('what fails before the driver is asked has a count of 0', () => {
    const { h, d, parent } = graph();
    const nested = h.nested(d.idev, parent);
    const ask = (o: object) => {
      const c = {
        hwptId: nested,
        dataType: MOCK.INVALIDATE,
        entryLen: 8,
        entryNum: 1,
        reserved: 0,
        data: user(words(0, 0)),
        ...o,
      };
      const r = h.fd.hwptInvalidate(c);
      return [r, c.entryNum];
    };
    expect(ask({ reserved: 1, hwptId: 99 })).toEqual([-E.OPNOTSUPP, 0]);
    expect(ask({ data: null, hwptId: 99 })).toEqual([-E.INVAL, 0]);
    expect(ask({ entryLen: 0, hwptId: 99 })).toEqual([-E.INVAL, 0]);
    expect(ask({ entryLen: 4097, hwptId: 99 })).toEqual([-E.INVAL, 0]);
    expect(ask({ entryNum: (1 << 19) + 1, hwptId: 99 })).toEqual([-E.INVAL, 0]);
    expect(ask({ hwptId: 99 })).toEqual([-E.NOENT, 0]);
    expect(ask({ hwptId: parent })).toEqual([-E.INVAL, 0]);
    expect(ask({ dataType: 1 })).toEqual([-E.INVAL, 0]);
    expect(ask({ dataType: 1, entryNum: 0 })).toEqual([-E.INVAL, 0]);
    expect(ask({ entryNum: 0, data: null })).toEqual([0, 0]);
    expect(ask({ entryLen: 7 })).toEqual([-E.INVAL, 0]);
    expect(ask({ entryLen: 9 })).toEqual([-E.INVAL, 0]);
    expect(ask({ data: user(words(0, 0), 4) })).toEqual([-E.FAULT, 0]);
    // The second entry is not there: the first one was done.
    expect(ask({ entryNum: 2 })).toEqual([-E.FAULT, 1]);
    expect(h.mock.checkIotlb(nested, 0, 0)).toBe(0);
    expect(h.mock.checkIotlb(nested, 1, 0xbad)).toBe(0);
  });

  test('entries are done in order up to the first bad one', () => {
    const { h, d, parent } = graph();
    const nested = h.nested(d.idev, parent);
    const w = entries(0, 1, 0, 4, 0, 2);
    expect(h.fd.invalidate(nested, MOCK.INVALIDATE, w, 0, 8, 3)).toBe(-E.INVAL);
    expect(h.fd.invalidated).toBe(1);
    expect([0, 1, 2, 3].map((i) => h.mock.checkIotlb(nested, i, 0))).toEqual([-E.INVAL, 0, -E.INVAL, -E.INVAL]);
    expect(h.fd.invalidate(nested, MOCK.INVALIDATE, w, 4, 8, 1)).toBe(0);
    expect(h.mock.checkIotlb(nested, 2, 0)).toBe(0);
    expect(h.fd.invalidate(nested, MOCK.INVALIDATE, entries(1, 0), 0, 8, 1)).toBe(0);
    expect(h.mock.checkIotlb(nested, 3, 0)).toBe(0);
  });

  test('a vIOMMU takes shorter entries, and longer ones with a tail of zeroes', () => {
    const { h, d, parent } = graph();
    const v = h.viommu(d.idev, parent);
    h.vdevice(v, d.idev, 1n);
    const ask = (entryLen: number, bytes: Uint8Array, entryNum = 1) => {
      const c = { hwptId: v, dataType: MOCK.INVALIDATE, entryLen, entryNum, reserved: 0, data: user(bytes) };
      return [h.fd.hwptInvalidate(c), c.entryNum];
    };
    expect(ask(8, words(0, 1))).toEqual([0, 1]);
    expect(h.mock.checkCache(d.idev, 0, 0)).toBe(0);
    expect(ask(16, words(0, 1, 2, 0))).toEqual([0, 1]);
    expect(h.mock.checkCache(d.idev, 2, 0)).toBe(0);
    expect(ask(16, words(0, 1, 2, 7))).toEqual([-E.TOOBIG, 0]);
    expect(ask(16, words(0, 1, 2))).toEqual([-E.FAULT, 0]);
    expect(ask(12, words(0, 1, 1, 0, 9, 1), 2)).toEqual([-E.INVAL, 1]);
    expect(ask(12, words(2, 1, 1))).toEqual([-E.OPNOTSUPP, 0]);
    // The same rules for words in hand.
    expect(h.fd.invalidate(v, MOCK.INVALIDATE, entries(0, 1, 3, 0), 0, 16, 1)).toBe(0);
    expect(h.fd.invalidate(v, MOCK.INVALIDATE, entries(0, 1, 3, 1), 0, 16, 1)).toBe(-E.TOOBIG);
    expect(h.fd.invalidate(v, 3, entries(0, 1, 3), 0, 12, 1)).toBe(-E.INVAL);
    expect(h.fd.invalidate(d.hwpt, MOCK.INVALIDATE, entries(0, 1, 3), 0, 12, 1)).toBe(-E.INVAL);
  });
});

describe('GET_HW_INFO', () => {
  test('types, lengths, tails and capabilities', () => {
    const { h, io } = graph();
    const d = h.device(io, 1);
    const ask = (o: object, bytes = new Uint8Array(16).fill(0x55), writable = 16) => {
      const data = user(bytes, 16, writable);
      const c = {
        flags: 0,
        devId: d.idev,
        dataLen: 16,
        data,
        dataType: 0,
        outMaxPasidLog2: 0,
        outCapabilities: 0n,
        ...o,
      };
      return [h.fd.getHwInfo(c), c, bytes] as const;
    };
    expect(ask({ flags: 2 })[0]).toBe(-E.OPNOTSUPP);
    expect(ask({ devId: 99 })[0]).toBe(-E.NOENT);
    expect(ask({ flags: 1, dataType: 5 })[0]).toBe(-E.OPNOTSUPP);
    expect(ask({ flags: 0, dataType: 5 })[0]).toBe(0);
    const [r, c, bytes] = ask({ flags: 1, dataType: MOCK.HW_INFO });
    expect([r, c.dataLen, c.dataType, c.outMaxPasidLog2, c.outCapabilities]).toEqual([0, 8, MOCK.HW_INFO, 0, 8n]);
    expect([...bytes]).toEqual([...words(0, 0xdead_beef, 0, 0)]);
    expect([...ask({ dataLen: 5 })[2].subarray(0, 6)]).toEqual([0, 0, 0, 0, 0xef, 0x55]);
    expect(ask({ dataLen: 0 })[0]).toBe(0);
    expect(ask({}, new Uint8Array(16), 4)[0]).toBe(-E.FAULT);
    expect(ask({}, new Uint8Array(16), 9)[0]).toBe(-E.FAULT);
  });
});

describe('dirty tracking', () => {
  test('errors, in order', () => {
    const { h, d, io, parent } = graph();
    const set = (hwptId: number, flags = 1) => h.fd.setDirtyTracking({ hwptId, flags });
    const nested = h.nested(d.idev, parent);
    expect(set(99, 2)).toBe(-E.OPNOTSUPP);
    expect(set(99)).toBe(-E.NOENT);
    expect(set(nested)).toBe(-E.NOENT);
    expect(set(parent)).toBe(-E.OPNOTSUPP);
    const dirty = h.hwpt(d.idev, io, 2);
    expect(set(dirty)).toBe(0);
    const get = (o: object) =>
      h.fd.getDirtyBitmap({
        hwptId: dirty,
        flags: 0,
        reserved: 0,
        iova: APERTURE,
        length: PAGE,
        pageSize: 2048n,
        data: user(new Uint8Array(8)),
        ...o,
      });
    expect(get({ flags: 2, hwptId: 99 })).toBe(-E.OPNOTSUPP);
    expect(get({ reserved: 1, hwptId: 99 })).toBe(-E.OPNOTSUPP);
    expect(get({ hwptId: 99 })).toBe(-E.NOENT);
    expect(get({ length: 0n })).toBe(-E.OVERFLOW);
    expect(get({ iova: 0xffff_ffff_ffff_f800n, length: PAGE })).toBe(-E.OVERFLOW);
    expect(get({ iova: APERTURE + 1n })).toBe(-E.INVAL);
    expect(get({ length: PAGE + 1n })).toBe(-E.INVAL);
    expect(get({ pageSize: 0n })).toBe(-E.INVAL);
    expect(get({ pageSize: 8192n })).toBe(-E.INVAL);
    expect(get({ hwptId: parent })).toBe(-E.OPNOTSUPP);
    expect(get({})).toBe(0);
  });

  test('a mapped page has one dirty bit in 7.3, one for each half in 7.2', () => {
    for (const [unit, bits] of [
      [2048, 0b01],
      [4096, 0b11],
    ] as const) {
      const h = new Host(true, unit);
      const io = h.ioas();
      const d = h.device(io);
      const id = h.hwpt(d.idev, io, 2);
      must(h.map(io, APERTURE, PAGE));
      must(h.fd.setDirtyTracking({ hwptId: id, flags: 1 }));
      const domain = h.mock.pagingDomain(id);
      if (typeof domain === 'number') throw new Error('no domain');
      domain.mapping.setDirty(Number(APERTURE));
      const bytes = new Uint8Array(1);
      const ask = {
        hwptId: id,
        flags: 0,
        reserved: 0,
        iova: APERTURE,
        length: PAGE,
        pageSize: 2048n,
        data: user(bytes),
      };
      must(h.fd.getDirtyBitmap(ask));
      expect(bytes[0]).toBe(bits);
    }
  });

  test('bits are or-ed in; NO_CLEAR leaves them; switching on clears; a hole ends the walk quietly', () => {
    const { h, d, io } = graph();
    const id = h.hwpt(d.idev, io, 2);
    must(h.map(io, APERTURE, 4n * PAGE));
    must(h.map(io, APERTURE + 8n * PAGE, PAGE));
    const domain = h.mock.pagingDomain(id);
    if (typeof domain === 'number') throw new Error('no domain');
    const touch = (...pages: number[]) => {
      for (const p of pages) domain.mapping.setDirty(Number(APERTURE) + p * 4096);
    };
    const get = (flags = 0, pageSize = PAGE, length = 16n * PAGE, bytes = new Uint8Array(4)) => {
      const data = user(bytes);
      must(h.fd.getDirtyBitmap({ hwptId: id, flags, reserved: 0, iova: APERTURE, length, pageSize, data }));
      return [...bytes];
    };
    touch(1);
    must(h.fd.setDirtyTracking({ hwptId: id, flags: 1 }));
    touch(0, 3, 8);
    expect(get(1)).toEqual([0b1001, 0, 0, 0]);
    expect(get(1, 2048n)).toEqual([0b0100_0001, 0, 0, 0]);
    expect(get(0, PAGE, 16n * PAGE, Uint8Array.of(0x80, 0, 0, 0))).toEqual([0x89, 0, 0, 0]);
    expect(get()).toEqual([0, 0, 0, 0]);
    // The bitmap is only partly there: what fits is written, and the call succeeds.
    touch(2);
    must(
      h.fd.getDirtyBitmap({
        hwptId: id,
        flags: 0,
        reserved: 0,
        iova: APERTURE,
        length: PAGE * 4n,
        pageSize: PAGE,
        data: null,
      }),
    );
  });
});
