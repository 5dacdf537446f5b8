import { describe, expect, test } from 'vitest';
import { AccessObject } from '../../../src/host/iommufd/access.ts';
import type { PageFile, PinAccount } from '../../../src/ports/iommufd.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { APERTURE, FIXED_RW, Host, must, VA } from '../host.ts';

const PAGE = 0x1000n;
const FAR = 0x10_0000n;

interface Account extends PinAccount {
  limit: number;
  unlimited: boolean;
}

function account(limit: number, user = { locked: 0 }): Account {
  return { unlimited: false, limit, pinned: 0, locked: 0, user };
}

/** An IOAS with a domain: what is mapped is pinned at once. */
function host(a: PinAccount, perProcess = false) {
  const h = new Host();
  h.process.account = a;
  if (perProcess) must(h.fd.option({ optionId: 0, op: 0, reserved: 0, objectId: 0, val64: 1n }));
  const io = h.ioas();
  const d = h.device(io);
  return { h, io, d };
}

/** A memfd of the process: it is pinned, and others may pay for it. */
function memfd(h: Host): PageFile {
  return {
    kind: 'memfd',
    size: 0x10_0000n,
    hpa: 0,
    run: 0,
    pin(offset, bytes) {
      Object.assign(this, { hpa: h.process.base + Number(offset), run: Number(bytes) });
      return true;
    },
  };
}

function mapFile(h: Host, ioasId: number, file: PageFile, iova: bigint, pages: bigint): number {
  return h.fd.ioasMapFile({ flags: FIXED_RW, ioasId, file, start: 0n, length: pages * PAGE, iova });
}

describe('pinned pages are counted', () => {
  test('once per page, however many domains and accesses use it, from the first pin to the last', () => {
    const a = account(100);
    const { h, io, d } = host(a);
    must(h.map(io, APERTURE, 4n * PAGE));
    expect([a.pinned, a.user.locked, a.locked]).toEqual([4, 4, 0]);
    h.hwpt(d.idev, io, 1);
    const access = new AccessObject(h.memory.space, true, () => {});
    must(access.change(h.fd.context.objects.get(io, 'ioas')!));
    must(access.pin(APERTURE, 2n * PAGE, false, []));
    expect(a.pinned).toBe(4);
    // A copy is the same memory.
    const copy = { flags: FIXED_RW, srcIoasId: io, dstIoasId: io, srcIova: APERTURE, dstIova: APERTURE + FAR };
    must(h.fd.ioasCopy({ ...copy, length: 2n * PAGE }));
    expect(a.pinned).toBe(4);
    // A second map of it is another account of the same pages, as in the kernel.
    must(h.map(io, APERTURE + 2n * FAR, PAGE));
    expect(a.pinned).toBe(5);
    expect(h.unmap(io, APERTURE + 2n * FAR, PAGE)).toBe(PAGE);
    access.unpin(APERTURE, 2n * PAGE);
    expect(h.unmap(io, APERTURE, 4n * PAGE)).toBe(4n * PAGE);
    expect([a.pinned, a.user.locked]).toEqual([2, 2]);
    access.change(null);
    h.fd.close();
    expect([a.pinned, a.user.locked]).toEqual([0, 0]);
  });

  test('not before something is attached', () => {
    const a = account(3);
    const h = new Host();
    h.process.account = a;
    const io = h.ioas();
    must(h.map(io, APERTURE, 4n * PAGE));
    expect(a.pinned).toBe(0);
    expect(h.mock.mockDevice(io, 0, { stdevId: 0, hwptId: 0, idevId: 0 })).toBe(-E.NOMEM);
    expect([a.pinned, a.user.locked, h.process.pins.size]).toEqual([0, 0, 0]);
    a.limit = 4;
    h.device(io);
    expect(a.pinned).toBe(4);
  });
});

describe('RLIMIT_MEMLOCK', () => {
  test('holds for all processes of a user together, or for each alone, or not at all', () => {
    const user = { locked: 6 };
    const shared = host(account(8, user));
    expect(shared.h.map(shared.io, APERTURE, 3n * PAGE)).toBe(-E.NOMEM);
    expect([user.locked, shared.h.process.pins.size]).toEqual([6, 0]);
    must(shared.h.map(shared.io, APERTURE, 2n * PAGE));
    expect(user.locked).toBe(8);

    const own = account(8, { locked: 100 });
    const alone = host(own, true);
    must(alone.h.map(alone.io, APERTURE, 8n * PAGE));
    expect([own.pinned, own.locked, own.user.locked]).toEqual([8, 8, 100]);
    expect(alone.h.map(alone.io, APERTURE + FAR, PAGE)).toBe(-E.NOMEM);
    expect(own.pinned).toBe(8);

    const root = account(0);
    root.unlimited = true;
    const free = host(root, true);
    must(free.h.map(free.io, APERTURE, 8n * PAGE));
    expect([root.pinned, root.locked, root.user.locked]).toEqual([8, 0, 0]);
  });

  test('pages with a hole in what is pinned already are counted for the hole only', () => {
    const a = account(100);
    const h = new Host();
    h.process.account = a;
    const io = h.ioas();
    must(h.map(io, APERTURE, 6n * PAGE));
    const access = new AccessObject(h.memory.space, true, () => {});
    must(access.change(h.fd.context.objects.get(io, 'ioas')!));
    must(access.pin(APERTURE + 2n * PAGE, PAGE, false, []));
    expect(a.pinned).toBe(1);
    a.limit = 5;
    expect(access.pin(APERTURE, 6n * PAGE, false, [])).toBe(-E.NOMEM);
    expect([a.pinned, [...h.process.pins.values()]]).toEqual([1, [1]]);
    a.limit = 6;
    must(access.pin(APERTURE, 6n * PAGE, false, []));
    expect(a.pinned).toBe(6);
    access.unpin(APERTURE, 6n * PAGE);
    access.unpin(APERTURE + 2n * PAGE, PAGE);
    access.change(null);
    expect([a.pinned, h.process.pins.size]).toEqual([0, 0]);
  });
});

describe('IOAS_CHANGE_PROCESS', () => {
  test('moves everything that is backed by files to the caller, or nothing', () => {
    const parent = account(100);
    const child = account(100);
    const { h, io } = host(parent);
    must(mapFile(h, io, memfd(h), APERTURE, 3n));
    must(mapFile(h, io, memfd(h), APERTURE + FAR, 2n));
    must(h.fd.ioasChangeProcess(0));
    expect(parent.pinned).toBe(5);
    h.process.account = child;
    child.limit = 4;
    expect(h.fd.ioasChangeProcess(0)).toBe(-E.NOMEM);
    expect([parent.pinned, parent.user.locked, child.pinned, child.user.locked]).toEqual([5, 5, 0, 0]);
    child.limit = 5;
    must(h.fd.ioasChangeProcess(0));
    expect([parent.pinned, parent.user.locked, child.pinned, child.user.locked]).toEqual([0, 0, 5, 5]);
    // From now on the child pays for what it maps, and for the end of what it took over.
    expect(h.unmap(io, APERTURE, 3n * PAGE)).toBe(3n * PAGE);
    expect([parent.pinned, child.pinned]).toEqual([0, 2]);
    must(h.map(io, APERTURE, PAGE, VA));
    expect(child.pinned).toBe(3);
    // One area of process memory, and nothing moves.
    h.process.account = parent;
    expect(h.fd.ioasChangeProcess(0)).toBe(-E.INVAL);
    expect([parent.pinned, child.pinned]).toEqual([0, 3]);
    h.fd.close();
    expect([parent.pinned, child.pinned, child.user.locked]).toEqual([0, 0, 0]);
  });

  test('between processes of one user what the user has locked stays the same', () => {
    const user = { locked: 0 };
    const parent = account(10, user);
    const child = account(10, user);
    const { h, io } = host(parent);
    must(mapFile(h, io, memfd(h), APERTURE, 4n));
    h.process.account = child;
    must(h.fd.ioasChangeProcess(0));
    expect([parent.pinned, child.pinned, user.locked]).toEqual([0, 4, 4]);
  });

  test('with limits per process the locked pages move as well', () => {
    const parent = account(10);
    const child = account(10);
    const { h, io } = host(parent, true);
    must(mapFile(h, io, memfd(h), APERTURE, 4n));
    h.process.account = child;
    must(h.fd.ioasChangeProcess(0));
    expect([parent.pinned, parent.locked, child.pinned, child.locked]).toEqual([0, 0, 4, 4]);
  });
});
