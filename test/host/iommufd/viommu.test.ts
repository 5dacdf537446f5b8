import { describe, expect, test } from 'vitest';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { MOCK } from '../../../src/spec/iommufd/selftest.ts';
import { APERTURE, Host, must, user, words } from '../host.ts';

const PAGE = 0x1000n;

function graph() {
  const h = new Host();
  const io = h.ioas();
  const d = h.device(io, 4);
  const parent = h.hwpt(d.idev, io, 1);
  const v = h.viommu(d.idev, parent);
  return { h, io, d, parent, v };
}

const read = (fd: { read(b: Uint8Array): number }, n: number) => {
  const b = new Uint8Array(n);
  const r = fd.read(b);
  return r < 0 ? r : [...new Uint32Array(b.buffer, 0, r >> 2)];
};

describe('VIOMMU_ALLOC', () => {
  test('every error, in order', () => {
    const { h, d, parent } = graph();
    expect(h.viommu(99, 98, MOCK.VIOMMU, 1)).toBe(-E.OPNOTSUPP);
    expect(h.viommu(99, 98, 0)).toBe(-E.OPNOTSUPP);
    expect(h.viommu(99, 98)).toBe(-E.NOENT);
    expect(h.viommu(d.idev, 98, 1)).toBe(-E.OPNOTSUPP);
    expect(h.viommu(d.idev, 98)).toBe(-E.NOENT);
    expect(h.viommu(d.idev, h.nested(d.idev, parent))).toBe(-E.NOENT);
    expect(h.viommu(d.idev, d.hwpt)).toBe(-E.INVAL);
  });

  test('driver data goes both ways, and its pages can be mapped', () => {
    const { h, d, parent } = graph();
    const blob = new Uint8Array(24);
    new DataView(blob.buffer).setUint32(0, 0xcafe, true);
    const c = { flags: 0, type: MOCK.VIOMMU, devId: d.idev, hwptId: parent, outViommuId: 0, data: user(blob) };
    must(h.fd.viommuAlloc(c));
    const view = new DataView(blob.buffer);
    expect(view.getUint32(4, true)).toBe(0xcafe);
    const offset = view.getBigUint64(8, true);
    const length = Number(view.getBigUint64(16, true));
    expect(offset).not.toBe(0n);
    const { mmaps } = h.fd.context;
    expect(mmaps.map(offset, 100, true, 0)).toBe(-E.INVAL);
    expect(mmaps.map(offset, 0, true, 0)).toBe(-E.INVAL);
    expect(mmaps.map(offset, length, false, 0)).toBe(-E.INVAL);
    expect(mmaps.map(offset, length, true, 4)).toBe(-E.PERM);
    expect(mmaps.map(offset + PAGE, length, true, 0)).toBe(-E.NXIO);
    expect(mmaps.map(offset, 4096, true, 0)).toBe(-E.NXIO);
    must(mmaps.map(offset, length, true, 0));
    expect(h.memory.space.load32(mmaps.mapped)).toBe(true);
    expect(h.memory.space.lo).toBe(0xcafe);
    expect(h.fd.destroy(c.outViommuId)).toBe(-E.BUSY);
    mmaps.unmap(offset);
    must(h.fd.destroy(c.outViommuId));
    expect(mmaps.map(offset, length, true, 0)).toBe(-E.NXIO);
    // A blob that cannot be written back takes everything with it.
    const bad = { ...c, data: user(new Uint8Array(24), 24, 8) };
    expect(h.fd.viommuAlloc(bad)).toBe(-E.FAULT);
    expect(h.memory.pagesUsed).toBe(0);
    expect(h.fd.viommuAlloc({ ...c, data: user(new Uint8Array(7)) })).toBe(-E.INVAL);
  });
});

describe('VDEVICE_ALLOC', () => {
  test('every error; all 64 bits of a virt_id count', () => {
    const { h, io, d, v } = graph();
    const other = h.device(io);
    expect(h.vdevice(99, 98, 1n)).toBe(-E.NOENT);
    expect(h.vdevice(v, 98, 1n)).toBe(-E.NOENT);
    const big = 0xffff_ffff_ffff_ffffn;
    const first = h.vdevice(v, d.idev, big);
    expect(first).toBeGreaterThan(0);
    expect(h.vdevice(v, d.idev, 2n)).toBe(-E.EXIST);
    expect(h.vdevice(v, other.idev, big)).toBe(-E.EXIST);
    const second = h.vdevice(v, other.idev, big - 1n);
    expect(second).toBeGreaterThan(0);
    expect(h.fd.destroy(v)).toBe(-E.BUSY);
    must(h.fd.destroy(first));
    expect(h.vdevice(v, d.idev, big)).toBe(first);
  });

  test('a nested HWPT on a vIOMMU wants the vDEVICE at attach, and not afterwards', () => {
    const { h, d, v } = graph();
    const nested = h.nested(d.idev, v);
    expect(h.mock.replace(d.stdev, nested)).toBe(-E.NOENT);
    const vdevice = h.vdevice(v, d.idev, 5n);
    must(h.mock.replace(d.stdev, nested));
    must(h.fd.destroy(vdevice));
    const entry = Int32Array.of(0, 5, 0);
    expect(h.fd.invalidate(v, MOCK.INVALIDATE, entry, 0, 12, 1)).toBe(-E.INVAL);
    expect(h.vdevice(v, d.idev, 5n)).toBeGreaterThan(0);
    expect(h.fd.invalidate(v, MOCK.INVALIDATE, entry, 0, 12, 1)).toBe(0);
  });
});

describe('vEVENTQ', () => {
  test('every error', () => {
    const { h, v } = graph();
    const alloc = (o: object) =>
      h.fd.veventqAlloc({
        flags: 0,
        viommuId: v,
        type: MOCK.VEVENTQ,
        depth: 2,
        reserved: 0,
        outVeventqId: 0,
        outFd: null,
        ...o,
      });
    expect(alloc({ flags: 1, depth: 0 })).toBe(-E.OPNOTSUPP);
    expect(alloc({ reserved: 1, depth: 0 })).toBe(-E.OPNOTSUPP);
    expect(alloc({ type: 0, depth: 0 })).toBe(-E.OPNOTSUPP);
    expect(alloc({ depth: 0, viommuId: 99 })).toBe(-E.INVAL);
    expect(alloc({ depth: (1 << 19) + 1, viommuId: 99 })).toBe(-E.INVAL);
    expect(alloc({ viommuId: 99 })).toBe(-E.NOENT);
    expect(alloc({ depth: 1 << 19 })).toBe(0);
    expect(alloc({})).toBe(-E.EXIST);
    expect(alloc({ type: 0x1234 })).toBe(0);
  });

  test('events carry a sequence that counts lost ones too; LOST stands at the tail until there is room again', () => {
    const { h, d, v } = graph();
    h.vdevice(v, d.idev, 0x99n);
    must(h.mock.replace(d.stdev, h.nested(d.idev, v)));
    const fire = () => h.mock.triggerVevent(d.idev);
    expect(fire()).toBe(-E.OPNOTSUPP);
    const q = h.veventq(v, 2);
    let woken = 0;
    q.fd.onReadable = () => woken++;
    expect(q.fd.poll()).toBe(0);
    for (let i = 0; i < 4; i++) must(fire());
    expect(woken).toBe(1);
    expect(q.fd.poll()).toBe(1);
    expect(q.fd.read(new Uint8Array(7))).toBe(-E.INVAL);
    expect(q.fd.read(new Uint8Array(8))).toBe(-E.INVAL);
    expect(read(q.fd, 12)).toEqual([0, 0, 0x99]);
    // Room for one: the LOST header goes, the gap in the sequence stays.
    must(fire());
    expect(read(q.fd, 64)).toEqual([0, 1, 0x99, 0, 4, 0x99]);
    for (let i = 0; i < 4; i++) must(fire());
    expect(read(q.fd, 64)).toEqual([0, 5, 0x99, 0, 6, 0x99, 1, 8]);
    expect(read(q.fd, 64)).toEqual([]);
    expect(q.fd.write(new Uint8Array(8))).toBe(-E.INVAL);
    expect(h.fd.destroy(q.id)).toBe(-E.BUSY);
    q.fd.close();
    must(h.fd.destroy(q.id));
  });

  test('after 2^31 events the sequence begins at 0 again', () => {
    const { h, d, v } = graph();
    h.vdevice(v, d.idev, 1n);
    must(h.mock.replace(d.stdev, h.nested(d.idev, v)));
    const q = h.veventq(v, 4);
    h.fd.context.objects.get(q.id, 'veventq')!.startSequenceAt(0x7fff_ffff);
    for (let i = 0; i < 2; i++) must(h.mock.triggerVevent(d.idev));
    expect(read(q.fd, 24)).toEqual([0, 0x7fff_ffff, 1, 0, 0, 1]);
  });
});

describe('HW_QUEUE_ALLOC', () => {
  test('every error, in order', () => {
    const { h, v, io } = graph();
    must(h.map(io, APERTURE, 4n * PAGE));
    must(h.map(io, APERTURE + 0x10_000n, PAGE, undefined, 3));
    const flags = {
      flags: 1,
      viommuId: v,
      type: MOCK.HW_QUEUE,
      index: 0,
      outHwQueueId: 0,
      nestingParentIova: 0n,
      length: 0n,
    };
    expect(h.fd.hwQueueAlloc(flags)).toBe(-E.OPNOTSUPP);
    expect(h.hwQueue(99, 0, 0n, 0n, 0)).toBe(-E.OPNOTSUPP);
    expect(h.hwQueue(99, 0, 0n, 0n)).toBe(-E.INVAL);
    expect(h.hwQueue(99, 0, 0xffff_ffff_ffff_f000n, 0x2000n)).toBe(-E.OVERFLOW);
    expect(h.hwQueue(99, 0, APERTURE)).toBe(-E.NOENT);
    expect(h.hwQueue(v, 0, APERTURE, PAGE, 3)).toBe(-E.OPNOTSUPP);
    expect(h.hwQueue(v, 0, 0x800n, 0xffff_ffff_ffff_f000n)).toBe(-E.RANGE);
    expect(h.hwQueue(v, 0, APERTURE + 4n * PAGE)).toBe(-E.NOENT);
    expect(h.hwQueue(v, 9, APERTURE + 0x10_000n)).toBe(-E.PERM);
    expect(h.hwQueue(v, 2, APERTURE)).toBe(-E.INVAL);
    expect(h.hwQueue(v, 1, APERTURE)).toBe(-E.IO);
    const q = h.hwQueue(v, 0, APERTURE);
    expect(q).toBeGreaterThan(0);
    expect(h.hwQueue(v, 0, APERTURE)).toBe(-E.EXIST);
    // The hidden access took the next id, and cannot be destroyed.
    expect(h.fd.destroy(q + 1)).toBe(-E.BUSY);
    expect(h.unmap(io, APERTURE, 4n * PAGE)).toBe(-E.BUSY);
    const next = h.hwQueue(v, 1, APERTURE + PAGE);
    expect(h.fd.destroy(q)).toBe(-E.BUSY);
    must(h.fd.destroy(next));
    must(h.fd.destroy(q));
    expect(h.unmap(io, APERTURE, 4n * PAGE)).toBe(4n * PAGE);
  });

  test('its memory must be one piece, and page aligned in the IOAS', () => {
    const { h, v, io } = graph();
    h.process.longest = 4096;
    must(h.map(io, APERTURE, PAGE, 0x2000_3000n));
    must(h.map(io, APERTURE + PAGE, PAGE, 0x2000_0000n));
    expect(h.hwQueue(v, 0, APERTURE, 2n * PAGE)).toBe(-E.FAULT);
    must(h.map(io, APERTURE + 0x10_800n, 2048n, 0x2000_0800n));
    expect(h.hwQueue(v, 0, APERTURE)).toBe(-E.ADDRINUSE);
    expect([...h.process.pins.values()].sort()).toEqual([1, 2]);
  });
});

describe('fault queues', () => {
  test('FAULT_QUEUE_ALLOC flags', () => {
    expect(new Host().fd.faultQueueAlloc({ flags: 1, outFaultId: 0, outFd: null })).toBe(-E.OPNOTSUPP);
  });

  function faulting() {
    const g = graph();
    const q = g.h.fault();
    const hwpt = g.h.nested(g.d.idev, g.parent, 4 | 8, q.id);
    must(g.h.mock.replace(g.d.stdev, hwpt));
    return { ...g, q, hwpt };
  }

  test('groups are read whole, cookies are the lowest free number, answers free them', () => {
    const { h, d, q } = faulting();
    for (const grp of [7, 8]) must(h.mock.triggerIopf(d.idev, 0, grp, 3, 0x1_2345_6000n));
    expect(q.fd.poll()).toBe(5);
    expect(q.fd.read(new Uint8Array(41))).toBe(-E.SPIPE);
    expect(q.fd.read(new Uint8Array(0))).toBe(-E.INVAL);
    expect(read(q.fd, 40)).toEqual([2, d.idev, 0, 7, 3, 0, 0x2345_6000, 1, 0, 1]);
    expect(read(q.fd, 80)).toEqual([2, d.idev, 0, 8, 3, 0, 0x2345_6000, 1, 0, 2]);
    expect(q.fd.read(new Uint8Array(40))).toBe(0);
    expect(q.fd.poll()).toBe(4);
    expect(q.fd.write(new Uint8Array(9))).toBe(-E.SPIPE);
    expect(q.fd.write(words(1, 2))).toBe(-E.INVAL);
    expect(q.fd.write(words(3, 0))).toBe(-E.INVAL);
    // The first answer counts, the second is unknown: bytes of the first.
    expect(q.fd.write(words(1, 0, 9, 0))).toBe(8);
    must(h.mock.triggerIopf(d.idev, 3, 1, 1, 0n));
    expect(read(q.fd, 40)).toEqual([3, d.idev, 3, 1, 1, 0, 0, 0, 0, 1]);
  });

  test('requests wait for the last of their group', () => {
    const { h, d, q } = faulting();
    const dev = h.fd.context.objects.get(d.idev, 'device')!.dev;
    const report = (grpid: number, last: boolean, addrLo: number) =>
      h.kernel.reportFault(dev, { pasid: 4, grpid, perm: 1, last, addrLo, addrHi: 0 });
    report(1, false, 0x1000);
    report(2, false, 0x9000);
    report(1, false, 0x2000);
    expect(q.fd.poll()).toBe(4);
    report(1, true, 0x3000);
    expect(q.fd.read(new Uint8Array(80))).toBe(-E.INVAL);
    const got = read(q.fd, 120) as number[];
    expect([0, 1, 2].map((i) => [got[i * 10], got[i * 10 + 6], got[i * 10 + 9]])).toEqual([
      [1, 0x1000, 1],
      [1, 0x2000, 1],
      [3, 0x3000, 1],
    ]);
  });

  test('what nobody handles is answered INVALID, and so is everything of an attachment that ends', () => {
    const { h, d, q, hwpt, parent } = faulting();
    const answers: [number, number][] = [];
    h.driver.pageResponse = ((_dev: unknown, fault: { grpid: number }, code: number) => {
      answers.push([fault.grpid, code]);
    }) as never;
    must(h.mock.triggerIopf(d.idev, 0, 1, 1, 0n));
    must(h.mock.triggerIopf(d.idev, 0, 2, 1, 0n));
    expect((read(q.fd, 40) as number[]).length).toBe(10);
    must(h.mock.replace(d.stdev, parent));
    expect(answers.sort()).toEqual([
      [1, 1],
      [2, 1],
    ]);
    expect(q.fd.write(words(1, 0))).toBe(-E.INVAL);
    must(h.mock.triggerIopf(d.idev, 0, 3, 1, 0n));
    expect(answers.at(-1)).toEqual([3, 1]);
    // A PASID's fault without an attachment goes to the nested HWPT on the RID.
    must(h.mock.replace(d.stdev, hwpt));
    must(h.mock.triggerIopf(d.idev, 9, 4, 1, 0n));
    expect((read(q.fd, 40) as number[])[2]).toBe(9);
    expect(q.fd.write(words(1, 0))).toBe(8);
    expect(answers.at(-1)).toEqual([4, 0]);
    // The queue's end answers what it still holds.
    must(h.mock.triggerIopf(d.idev, 0, 5, 1, 0n));
    must(h.fd.destroy(d.stdev));
    expect(answers.at(-1)).toEqual([5, 1]);
  });
});
