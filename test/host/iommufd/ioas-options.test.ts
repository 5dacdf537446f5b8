import { describe, expect, test } from 'vitest';
import { AccessObject } from '../../../src/host/iommufd/access.ts';
import type { PageFile } from '../../../src/ports/iommufd.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { ALL, APERTURE, FIXED_RW, Host, must } from '../host.ts';

const PAGE = 0x1000n;

function allow(h: Host, ioasId: number, ...ranges: [bigint, bigint][]): number {
  return h.fd.ioasAllowIovas({ ioasId, reserved: 0, allowed: ranges.map(([start, last]) => ({ start, last })) });
}

describe('the other IOAS verbs', () => {
  test('ranges: what is not reserved; EMSGSIZE tells how many there are', () => {
    const h = new Host();
    const io = h.ioas();
    const ask = (numIovas: number, ioasId = io, reserved = 0) => {
      const c = { ioasId, numIovas, reserved, allowed: [] as { start: bigint; last: bigint }[], outIovaAlignment: 0n };
      return [h.fd.ioasIovaRanges(c), c] as const;
    };
    expect(ask(1, io, 1)[0]).toBe(-E.OPNOTSUPP);
    expect(ask(1, 99)[0]).toBe(-E.NOENT);
    must(h.mock.addReserved(io, 0x1000n, PAGE));
    const [r, c] = ask(1);
    expect(r).toBe(-E.MSGSIZE);
    expect(c.numIovas).toBe(2);
    expect(c.allowed).toEqual([{ start: 0n, last: 0xfffn }]);
    must(allow(h, io, [0x10_000n, 0x20_000n]));
    expect(ask(2)[1].allowed[1]).toEqual({ start: 0x2000n, last: ALL });
  });

  test('the allow-list: reserved field, unknown id, empty, overlapping and reserved ranges', () => {
    const h = new Host();
    const io = h.ioas();
    expect(h.fd.ioasAllowIovas({ ioasId: io, reserved: 1, allowed: [] })).toBe(-E.OPNOTSUPP);
    expect(allow(h, 99)).toBe(-E.NOENT);
    expect(allow(h, io, [5n, 5n])).toBe(-E.INVAL);
    expect(allow(h, io, [6n, 5n])).toBe(-E.INVAL);
    expect(allow(h, io, [0n, 9n], [9n, 20n])).toBe(-E.INVAL);
    must(allow(h, io, [0x1000n, 0x1fffn]));
    expect(h.mock.addReserved(io, 0x1fffn, 1n)).toBe(-E.ADDRINUSE);
    must(h.mock.addReserved(io, 0x5000n, PAGE));
    expect(allow(h, io, [0x5000n, 0x6000n])).toBe(-E.ADDRINUSE);
    // The old list is kept.
    expect(h.mapAny(io, PAGE)).toBe(0x1000n);
    expect(h.mock.addReserved(io, 0x1000n, 1n)).toBe(-E.ADDRINUSE);
    must(allow(h, io));
    // A domain's aperture and the list exclude each other.
    const io2 = h.ioas();
    must(allow(h, io2, [0n, 0xfffn]));
    expect(h.mock.mockDevice(io2, 0, { stdevId: 0, hwptId: 0, idevId: 0 })).toBe(-E.ADDRINUSE);
  });

  test('options: reserved fields, unknown ones, rlimit mode and page sizes', () => {
    const h = new Host();
    const opt = (optionId: number, op: number, objectId: number, val64 = 0n, reserved = 0) => {
      const c = { optionId, op, reserved, objectId, val64 };
      const r = h.fd.option(c);
      return r === 0 && op === 1 ? c.val64 : r;
    };
    expect(opt(0, 1, 0, 0n, 1)).toBe(-E.OPNOTSUPP);
    expect(opt(2, 1, 0)).toBe(-E.OPNOTSUPP);
    expect(opt(0, 2, 0)).toBe(-E.OPNOTSUPP);
    expect(opt(0, 1, 5)).toBe(-E.OPNOTSUPP);
    expect(opt(0, 0, 0, 2n)).toBe(-E.INVAL);
    expect(opt(0, 0, 0, 1n)).toBe(0);
    expect(opt(0, 1, 0)).toBe(1n);
    expect(opt(1, 1, 7)).toBe(-E.NOENT);
    const io = h.ioas();
    expect(opt(0, 0, 0, 0n)).toBe(-E.BUSY);
    expect(opt(1, 2, io)).toBe(-E.OPNOTSUPP);
    expect(opt(1, 0, io, 2n)).toBe(-E.INVAL);
    must(h.map(io, 0x800n, 0x800n));
    expect(opt(1, 0, io, 0n)).toBe(-E.ADDRINUSE);
    h.unmap(io, 0n, ALL);
    expect(opt(1, 0, io, 0n)).toBe(0);
    expect(opt(1, 1, io)).toBe(0n);
    expect(opt(1, 0, io, 1n)).toBe(0);
    h.device(io);
    must(h.map(io, APERTURE, PAGE));
    expect(opt(1, 0, io, 0n)).toBe(-E.INVAL);
    expect(new Host(false).fd.option({ optionId: 0, op: 0, reserved: 0, objectId: 0, val64: 1n })).toBe(-E.PERM);
  });

  test('the compatibility IOAS: set, get, clear; it is not a reference', () => {
    const h = new Host();
    const vfio = (op: number, ioasId = 0, reserved = 0) => {
      const c = { op, ioasId, reserved };
      const r = h.fd.vfioIoas(c);
      return r === 0 ? c.ioasId : r;
    };
    expect(vfio(0)).toBe(-E.NODEV);
    expect(vfio(0, 0, 1)).toBe(-E.OPNOTSUPP);
    expect(vfio(3)).toBe(-E.OPNOTSUPP);
    expect(vfio(1, 5)).toBe(-E.NOENT);
    const io = h.ioas();
    expect(vfio(1, io)).toBe(io);
    expect(vfio(0)).toBe(io);
    must(h.fd.destroy(io));
    expect(vfio(0)).toBe(-E.NODEV);
  });

  test('files: descriptors that are none, sizes, dma-bufs that are revoked; only files may change their process', () => {
    const h = new Host();
    const io = h.ioas();
    const memfd: PageFile = {
      kind: 'memfd',
      size: 0x2000n,
      hpa: 0,
      run: 0,
      pin(offset, bytes) {
        if (offset + bytes > 0x2000n) return false;
        Object.assign(memfd, { hpa: 0x123_4000 + Number(offset), run: Number(bytes) });
        return true;
      },
    };
    const file = (f: PageFile | null, start = 0n, length = PAGE, flags = FIXED_RW, iova = APERTURE) =>
      h.fd.ioasMapFile({ flags, ioasId: io, file: f, start, length, iova });
    expect(file(memfd, 0n, PAGE, 16 | FIXED_RW)).toBe(-E.OPNOTSUPP);
    expect(file(memfd, 0n, ALL)).toBe(-E.OVERFLOW);
    expect(file(memfd, 0n, PAGE, 1)).toBe(-E.INVAL);
    expect(h.fd.ioasMapFile({ flags: 7, ioasId: 99, file: memfd, start: 0n, length: 1n, iova: 0n })).toBe(-E.NOENT);
    expect(file(memfd, 0n, 0n)).toBe(-E.INVAL);
    expect(file(memfd, ALL, 2n)).toBe(-E.OVERFLOW);
    expect(file(null)).toBe(-E.BADF);
    expect(file({ ...memfd, kind: 'dmabuf', size: 0x1000n }, 0x1000n)).toBe(-E.INVAL);
    expect(file({ ...memfd, kind: 'dmabuf' })).toBe(-E.OPNOTSUPP);
    const exported = { ...memfd, kind: 'dmabuf' as const, onRevoke: () => () => {} };
    expect(file({ ...exported, revoked: true })).toBe(-E.NODEV);
    // Device memory is mapped as one piece: no access pins it, and nothing cuts it.
    const device = h.ioas();
    must(h.fd.ioasMapFile({ flags: 7, ioasId: device, file: exported, start: 0n, length: 2n * PAGE, iova: 0n }));
    const space = h.fd.context.objects.get(device, 'ioas')!;
    expect(space.cut(0xfffn)).toBe(-E.OPNOTSUPP);
    const access = new AccessObject(h.memory.space, true, () => {});
    must(access.change(space));
    expect(access.pin(0n, PAGE, false, [])).toBe(-E.INVAL);
    expect(access.copy(0n, new Uint8Array(8), false)).toBe(-E.INVAL);
    must(access.change(null));
    expect(h.fd.ioasChangeProcess(0)).toBe(-E.INVAL);
    must(h.fd.destroy(device));
    h.device(io);
    expect(file(memfd, 0x1000n, 2n * PAGE)).toBe(-E.INVAL);
    expect(file(memfd)).toBe(0);
    expect(h.fd.ioasChangeProcess(1)).toBe(-E.OPNOTSUPP);
    expect(h.fd.ioasChangeProcess(0)).toBe(0);
    must(h.map(io, APERTURE + 0x10_000n, PAGE));
    expect(h.fd.ioasChangeProcess(0)).toBe(-E.INVAL);
  });

  test('flags of IOAS_ALLOC', () => {
    expect(new Host().fd.ioasAlloc({ flags: 1, outIoasId: 0 })).toBe(-E.OPNOTSUPP);
  });
});
