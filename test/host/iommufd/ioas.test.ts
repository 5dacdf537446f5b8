import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { AccessObject } from '../../../src/host/iommufd/access.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { ALL, APERTURE, BUFFER, FIXED_RW, Host, must, RW, VA } from '../host.ts';

const PAGE = 0x1000n;

function copy(h: Host, from: number, to: number, srcIova: bigint, length: bigint, dstIova: bigint, flags = FIXED_RW) {
  return h.fd.ioasCopy({ flags, srcIoasId: from, dstIoasId: to, length, srcIova, dstIova });
}

function allow(h: Host, ioasId: number, ...ranges: [bigint, bigint][]): number {
  return h.fd.ioasAllowIovas({ ioasId, reserved: 0, allowed: ranges.map(([start, last]) => ({ start, last })) });
}

describe('IOAS_MAP', () => {
  test('every error of the fact sheet, in the order of the checks', () => {
    const h = new Host();
    const io = h.ioas();
    const map = (o: Partial<Parameters<typeof h.fd.ioasMap>[0]>) =>
      h.fd.ioasMap({ flags: FIXED_RW, ioasId: io, reserved: 0, userVa: VA, length: PAGE, iova: PAGE, ...o });

    expect(map({ flags: 8 | FIXED_RW, ioasId: 99 })).toBe(-E.OPNOTSUPP);
    expect(map({ reserved: 1, iova: ALL })).toBe(-E.OPNOTSUPP);
    expect(map({ iova: ALL, flags: 1 })).toBe(-E.OVERFLOW);
    expect(map({ length: ALL, flags: 1 })).toBe(-E.OVERFLOW);
    expect(map({ flags: 1, ioasId: 99 })).toBe(-E.INVAL);
    expect(map({ ioasId: 99, userVa: ALL })).toBe(-E.NOENT);
    expect(map({ userVa: ALL - 0xffn })).toBe(-E.OVERFLOW);
    expect(map({ length: 0n })).toBe(-E.INVAL);
    expect(map({ userVa: 0n, length: ALL - 0xffen })).toBe(-E.INVAL);
    expect(map({ iova: ALL - 1n })).toBe(-E.OVERFLOW);
    expect(map({ flags: RW, length: 1n << 63n, userVa: 0n })).toBe(-E.OVERFLOW);
    expect(map({})).toBe(0);
    expect(map({ iova: PAGE + 0xfffn, length: 1n })).toBe(-E.EXIST);
    must(h.mock.addReserved(io, 0x10_000n, PAGE));
    expect(map({ iova: 0x10_fffn, length: 1n })).toBe(-E.INVAL);
  });

  test('with a domain, lengths, addresses and memory are judged at once', () => {
    const h = new Host();
    const io = h.ioas();
    h.device(io);
    expect(h.map(io, APERTURE, 1024n)).toBe(-E.INVAL);
    expect(h.map(io, APERTURE + 1024n, PAGE)).toBe(-E.INVAL);
    expect(h.map(io, APERTURE, PAGE, VA + 512n)).toBe(-E.INVAL);
    expect(h.map(io, 0n, PAGE)).toBe(-E.INVAL);
    expect(h.map(io, APERTURE, PAGE, VA - PAGE)).toBe(-E.FAULT);
    // Half of it is there: nothing stays mapped, nothing stays pinned.
    expect(h.map(io, APERTURE, 2n * PAGE, VA + BigInt(BUFFER) - PAGE)).toBe(-E.FAULT);
    expect(h.process.pins.size).toBe(0);
    h.process.readOnly = true;
    expect(h.map(io, APERTURE, PAGE)).toBe(-E.FAULT);
    expect(h.map(io, APERTURE, PAGE, VA, 5)).toBe(0);
  });

  test('more than may be pinned is ENOMEM', () => {
    const h = new Host();
    const io = h.ioas();
    h.device(io);
    h.process.longest = 4096;
    h.process.limit = 3;
    expect(h.map(io, APERTURE, 4n * PAGE)).toBe(-E.NOMEM);
    expect(h.process.pins.size).toBe(0);
    expect(h.map(io, APERTURE, 3n * PAGE)).toBe(0);
  });

  test('a domain whose smallest page is larger than the host page cannot join', () => {
    const h = new Host();
    const io = h.ioas();
    const d = h.device(io);
    const alloc = h.driver.allocPaging.bind(h.driver);
    h.driver.allocPaging = (...args) => {
      const made = alloc(...args);
      if (typeof made !== 'number') Object.defineProperty(made, 'pageBytes', { value: 65536 });
      return made;
    };
    expect(h.hwpt(d.idev, io)).toBe(-E.INVAL);
  });

  test('without a domain nothing is pinned: memory that is not there shows at attach', () => {
    const h = new Host();
    const io = h.ioas();
    expect(h.map(io, APERTURE, PAGE, VA - PAGE)).toBe(0);
    expect(h.process.asked).toBe(0);
    const out = { stdevId: 0, hwptId: 0, idevId: 0 };
    expect(h.mock.mockDevice(io, 0, out)).toBe(-E.FAULT);
    expect(h.fd.context.objects.size).toBe(1);
  });

  test('automatic IOVAs keep the alignment of the address, avoid page 0 and what is reserved, and end with ENOSPC', () => {
    const h = new Host();
    const io = h.ioas();
    // Page 0 is never chosen, and the offset in the page is kept.
    expect(h.mapAny(io, 1n, VA + 3n)).toBe(PAGE + 3n);
    expect(h.mapAny(io, 4n * PAGE, VA)).toBe(4n * PAGE);
    expect(h.mapAny(io, 0x20_0000n, VA)).toBe(0x20_0000n);
    const full = h.ioas();
    must(h.mock.addReserved(full, 0x1_0000n, ALL - 0x2_0000n));
    const c = { flags: RW, ioasId: full, reserved: 0, userVa: VA, length: 0x4_0000n, iova: 0n };
    expect(h.fd.ioasMap(c)).toBe(-E.NOSPC);
    // With 4 KiB pages forced an address that is not page aligned cannot be kept.
    const io2 = h.ioas();
    const option = { optionId: 1, op: 0, reserved: 0, objectId: io2, val64: 0n };
    must(h.fd.option(option));
    expect(h.fd.ioasMap({ ...c, ioasId: io2, userVa: VA + 2048n, length: PAGE })).toBe(-E.INVAL);
  });

  test('an automatic IOVA lies in the allow-list, in its order', () => {
    const h = new Host();
    const io = h.ioas();
    must(allow(h, io, [0x50_0000n, 0x50_1fffn], [0x40_0000n, 0x40_0fffn]));
    expect(h.mapAny(io, PAGE)).toBe(0x40_0000n);
    expect(h.mapAny(io, PAGE)).toBe(0x50_0000n);
    expect(h.mapAny(io, PAGE, VA + PAGE)).toBe(0x50_1000n);
    expect(h.fd.ioasMap({ flags: RW, ioasId: io, reserved: 0, userVa: VA, length: PAGE, iova: 0n })).toBe(-E.NOSPC);
    // A fixed one does not.
    expect(h.map(io, 0x60_0000n, PAGE)).toBe(0);
  });
});

describe('IOAS_UNMAP', () => {
  test('every error, and what was removed before one is found stays removed', () => {
    const h = new Host();
    const io = h.ioas();
    expect(h.unmap(99, 0n, ALL)).toBe(-E.NOENT);
    expect(h.unmap(io, 0n, ALL)).toBe(0n);
    expect(h.unmap(io, PAGE, ALL)).toBe(-E.OVERFLOW);
    expect(h.unmap(io, ALL, PAGE)).toBe(-E.OVERFLOW);
    expect(h.unmap(io, 0n, 0n)).toBe(-E.INVAL);
    expect(h.unmap(io, ALL - 1n, 0x10n)).toBe(-E.OVERFLOW);
    expect(h.unmap(io, 0n, PAGE)).toBe(-E.NOENT);
    must(h.map(io, 0x1000n, PAGE));
    must(h.map(io, 0x2000n, 2n * PAGE));
    expect(h.unmap(io, 0x1000n, 2n * PAGE)).toBe(-E.NOENT);
    expect(h.unmap(io, 0x1000n, PAGE)).toBe(-E.NOENT);
    expect(h.unmap(io, 0n, 0x10_000n)).toBe(2n * PAGE);
  });

  test('an access that does not let go ends in EDEADLOCK', () => {
    const h = new Host();
    const io = h.ioas();
    const deaf = new AccessObject(h.memory.space, true, () => {});
    must(deaf.change(h.fd.context.objects.get(io, 'ioas')));
    must(h.map(io, PAGE, PAGE));
    const pages: number[] = [];
    must(deaf.pin(PAGE, PAGE, true, pages));
    expect(pages).toEqual([h.process.base]);
    expect(h.unmap(io, PAGE, PAGE)).toBe(-E.DEADLK);
    deaf.unpin(PAGE, PAGE);
    expect(h.unmap(io, PAGE, PAGE)).toBe(PAGE);
    expect(h.process.pins.size).toBe(0);
  });
});

describe('IOAS_COPY', () => {
  test('every error', () => {
    const h = new Host();
    const a = h.ioas();
    const b = h.ioas();
    must(h.map(a, 0x1000n, 2n * PAGE));
    must(h.map(a, 0x8000n, PAGE, VA, 5));
    expect(copy(h, a, b, 0x1000n, PAGE, 0n, 8 | FIXED_RW)).toBe(-E.OPNOTSUPP);
    expect(copy(h, a, b, 0x1000n, PAGE, ALL)).toBe(-E.OVERFLOW);
    // The source is judged as the destination is, before anything else is looked at.
    expect(copy(h, a, b, ALL, PAGE, 0n)).toBe(-E.OVERFLOW);
    expect(copy(h, a, b, ALL, PAGE, 0n, 1)).toBe(-E.OVERFLOW);
    expect(copy(h, 99, b, ALL, 0n, 0n)).toBe(-E.OVERFLOW);
    expect(copy(h, a, b, ALL, PAGE, 0n, 8 | FIXED_RW)).toBe(-E.OPNOTSUPP);
    expect(copy(h, a, b, 0x1000n, PAGE, 0n, 1)).toBe(-E.INVAL);
    expect(copy(h, 99, b, 0x1000n, PAGE, 0n)).toBe(-E.NOENT);
    expect(copy(h, a, b, 0x1000n, 0n, 0n)).toBe(-E.INVAL);
    expect(copy(h, a, b, ALL - 1n, PAGE, 0n)).toBe(-E.OVERFLOW);
    expect(copy(h, a, b, 0x1000n, 3n * PAGE, 0n)).toBe(-E.NOENT);
    expect(copy(h, a, b, 0n, 2n * PAGE, 0n)).toBe(-E.NOENT);
    expect(copy(h, a, 99, 0x1000n, PAGE, 0n)).toBe(-E.NOENT);
    expect(copy(h, a, b, 0x8000n, PAGE, 0n)).toBe(-E.PERM);
    expect(copy(h, a, b, 0x8000n, PAGE, 0n, 5)).toBe(0);
    // From the middle of one area to the middle of it.
    expect(copy(h, a, b, 0x1800n, PAGE, 0x10_000n)).toBe(0);
    expect(copy(h, a, b, 0x1800n, PAGE, 0x10_800n)).toBe(-E.EXIST);
  });

  test('a copy shares the pages: they are pinned once, by whoever needs them', () => {
    const h = new Host();
    const a = h.ioas();
    const b = h.ioas();
    h.device(a);
    h.device(b);
    must(h.map(a, APERTURE, 4n * PAGE));
    must(copy(h, a, b, APERTURE + PAGE, 2n * PAGE, APERTURE));
    expect([...h.process.pins.values()]).toEqual([1, 1, 1, 1]);
    h.process.gone = true;
    expect(h.unmap(a, 0n, ALL)).toBe(4n * PAGE);
    expect([...h.process.pins.keys()].sort()).toEqual([h.process.base + 0x1000, h.process.base + 0x2000]);
    expect(h.unmap(b, 0n, ALL)).toBe(2n * PAGE);
    expect(h.process.pins.size).toBe(0);
  });
});

describe('accesses', () => {
  test('copy through IOVAs: every error, and bytes across areas that are apart in memory', () => {
    const h = new Host();
    const io = h.ioas();
    const a = new AccessObject(h.memory.space, false, () => {});
    const bytes = Uint8Array.from({ length: 100 }, (_, i) => i + 1);
    expect(a.copy(0n, bytes, true)).toBe(-E.NOENT);
    must(a.change(h.fd.context.objects.get(io, 'ioas')));
    expect(h.fd.destroy(io)).toBe(-E.BUSY);
    must(h.map(io, 0x1000n, PAGE, VA + 8n * PAGE));
    must(h.map(io, 0x2000n, PAGE, VA));
    must(h.map(io, 0x3000n, PAGE, VA + PAGE, 5));
    expect(a.copy(0x1fd0n, new Uint8Array(0), true)).toBe(-E.INVAL);
    expect(a.copy(ALL, bytes, true)).toBe(-E.OVERFLOW);
    expect(a.copy(0x3ff0n, bytes, false)).toBe(-E.NOENT);
    expect(a.copy(0x3000n, bytes, true)).toBe(-E.PERM);
    expect(a.copy(0x1fd0n, bytes, true)).toBe(0);
    const back = new Uint8Array(100);
    expect(a.copy(0x1fd0n, back, false)).toBe(0);
    expect(back).toEqual(bytes);
    expect(h.memory.space.load32(h.process.base)).toBe(true);
    expect(h.memory.space.lo & 0xff).toBe(49);
    h.process.gone = true;
    expect(a.copy(0x1000n, back, false)).toBe(-E.FAULT);
    expect(h.process.pins.size).toBe(0);
  });

  test('pinning wants whole pages; unmapping asks for them back', () => {
    const h = new Host();
    const io = h.ioas();
    const released: [bigint, bigint][] = [];
    const a: AccessObject = new AccessObject(h.memory.space, true, (start, last) => {
      released.push([start, last]);
      a.unpin(0x1000n, PAGE);
    });
    must(h.map(io, 0x1800n, 2048n));
    expect(a.change(h.fd.context.objects.get(io, 'ioas'))).toBe(-E.ADDRINUSE);
    h.unmap(io, 0n, ALL);
    must(a.change(h.fd.context.objects.get(io, 'ioas')));
    expect(h.map(io, 0x1800n, 2048n)).toBe(-E.INVAL);
    must(h.map(io, 0x1000n, PAGE));
    const pages: number[] = [];
    expect(a.pin(0x1000n, 0n, true, pages)).toBe(-E.INVAL);
    expect(a.pin(ALL, 2n, true, pages)).toBe(-E.OVERFLOW);
    expect(a.pin(0x1800n, 2048n, true, pages)).toBe(-E.INVAL);
    expect(a.pin(0x1000n, 2n * PAGE, true, pages)).toBe(-E.NOENT);
    expect(h.process.pins.size).toBe(0);
    pages.length = 0;
    must(a.pin(0x1000n, PAGE, true, pages));
    expect(pages).toEqual([h.process.base]);
    expect(h.unmap(io, 0x1000n, PAGE)).toBe(PAGE);
    expect(released).toEqual([[0x1000n, 0x1fffn]]);
  });
});

describe('what a domain sees', () => {
  test('any mix of maps, copies, unmaps and domains leaves each domain with exactly the mapped pages', () => {
    const slot = fc.nat(15);
    const step = fc.tuple(fc.nat(4), slot, slot, fc.integer({ min: 1, max: 4 }), fc.boolean());
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), fc.integer({ min: 1, max: 3 }), (steps, longest) => {
        const h = new Host();
        h.process.longest = longest * 4096;
        const io = h.ioas();
        const model = new Map<bigint, number>();
        const starts = new Map<bigint, bigint>();
        const devices: { stdev: number; idev: number; hwpt: number }[] = [];
        const hwpts = new Set<number>();
        for (const [what, i, j, n, flag] of steps) {
          const iova = APERTURE + BigInt(i) * PAGE;
          const length = BigInt(n) * PAGE;
          if (what === 0) {
            if (h.map(io, iova, length, VA + BigInt(j) * PAGE) === 0) {
              starts.set(iova, length);
              for (let k = 0; k < n; k++) model.set(iova + BigInt(k) * PAGE, h.process.base + (j + k) * 4096);
            }
          } else if (what === 1) {
            const target = APERTURE + BigInt(j + 20) * PAGE;
            if (copy(h, io, io, iova, length, target) === 0) {
              starts.set(target, length);
              for (let k = 0n; k < BigInt(n); k++) model.set(target + k * PAGE, model.get(iova + k * PAGE)!);
            }
          } else if (what === 2) {
            const r = h.unmap(io, iova, length);
            for (const [s, l] of [...starts].sort((x, y) => (x[0] < y[0] ? -1 : 1))) {
              if (s + l <= iova || s >= iova + length) continue;
              if (s < iova || s + l > iova + length) {
                expect(r).toBe(-E.NOENT);
                break;
              }
              starts.delete(s);
              for (let k = 0n; k < l; k += PAGE) model.delete(s + k);
            }
          } else if (what === 3) {
            devices.push(h.device(io));
            if (flag) hwpts.add(h.hwpt(devices[0]!.idev, io, 2));
          } else if (devices.length > 0) {
            must(h.fd.destroy(devices.pop()!.stdev));
          }
          for (const id of [...hwpts, ...devices.map((d) => d.hwpt)]) {
            const domain = h.mock.pagingDomain(id);
            if (typeof domain === 'number') throw new Error(`no domain ${id}`);
            for (let p = APERTURE; p < APERTURE + 40n * PAGE; p += PAGE) {
              expect(domain.iovaToPhys(p)).toBe(model.get(p) ?? -1);
            }
          }
        }
        for (const id of hwpts) must(h.fd.destroy(id));
        for (const d of devices) must(h.fd.destroy(d.stdev));
        expect(h.process.pins.size).toBe(0);
      }),
      { numRuns: 60 },
    );
  });

  test('pages are read from a domain that has them: the process may be gone when a second domain joins', () => {
    const h = new Host();
    const io = h.ioas();
    const d = h.device(io);
    must(h.map(io, APERTURE, 4n * PAGE));
    h.process.gone = true;
    const second = h.hwpt(d.idev, io, 1);
    const domain = h.mock.pagingDomain(second);
    if (typeof domain === 'number') throw new Error('no domain');
    expect(domain.iovaToPhys(APERTURE + 3n * PAGE)).toBe(h.process.base + 0x3000);
  });
});
