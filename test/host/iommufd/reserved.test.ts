import { describe, expect, test } from 'vitest';
import { VfioFile } from '../../../src/host/iommufd/vfio-device.ts';
import type { ReservedRegion } from '../../../src/host/kernel/driver.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { APERTURE, Host, must } from '../host.ts';

const PAGE = 0x1000n;
const MSI: ReservedRegion = { start: 0x1800_0000n, last: 0x180f_ffffn, kind: 'sw-msi' };

function withRegions(regions: readonly ReservedRegion[], devices = 1, doorbell = -1) {
  const h = new Host();
  h.driver.reservedRegions = () => regions;
  const files = Array.from({ length: devices }, (_, i) => {
    const f = new VfioFile(h.function(`f${i}`, doorbell < 0 ? {} : { msiDoorbell: doorbell + i * 4096 }));
    must(f.bind(h.fd));
    return f;
  });
  return { h, files, f: files[0]! };
}

function holes(h: Host, ioasId: number): string[] {
  const c = {
    ioasId,
    numIovas: 9,
    reserved: 0,
    allowed: [] as { start: bigint; last: bigint }[],
    outIovaAlignment: 0n,
  };
  must(h.fd.ioasIovaRanges(c));
  return c.allowed.map((r) => `${r.start.toString(16)}-${r.last.toString(16)}`);
}

describe('reserved regions of a device', () => {
  test('are kept out of the IOAS while it is attached, and only then', () => {
    const { h, f, files } = withRegions([{ start: 0x2000_0000n, last: 0x2fff_ffffn, kind: 'direct' }], 2);
    const io = h.ioas();
    must(f.attach(io, NO_PASID));
    expect(holes(h, io)).toEqual(['1000000-1fffffff', '30000000-7fffffff']);
    expect(h.map(io, 0x2000_0000n, PAGE)).toBe(-E.INVAL);
    must(files[1]!.attach(io, NO_PASID));
    f.detach(NO_PASID);
    expect(holes(h, io)).toHaveLength(2);
    files[1]!.detach(NO_PASID);
    expect(holes(h, io)).toEqual(['0-ffffffffffffffff']);
  });

  test('an area or the allow-list in the way is EADDRINUSE, and a replace leaves what was', () => {
    const { h, f } = withRegions([{ start: 0x2000_0000n, last: 0x2fff_ffffn, kind: 'reserved' }]);
    const io = h.ioas();
    const other = h.ioas();
    must(h.map(other, 0x2000_0000n, PAGE));
    expect(f.attach(other, NO_PASID)).toBe(-E.ADDRINUSE);
    must(f.attach(io, NO_PASID));
    const before = f.ptId;
    expect(f.attach(other, NO_PASID)).toBe(-E.ADDRINUSE);
    expect(f.device?.attachedTo(0)?.id).toBe(before);
    expect(holes(h, io)).toEqual(['1000000-1fffffff', '30000000-7fffffff']);
    h.unmap(other, 0x2000_0000n, PAGE);
    must(f.attach(other, NO_PASID));
    expect(holes(h, io)).toEqual(['0-ffffffffffffffff']);
    expect(holes(h, other)).toHaveLength(2);
  });

  test('relaxable ones are not enforced; two kinds of interrupt windows exclude each other', () => {
    const relaxed = withRegions([{ start: 0x2000_0000n, last: 0x2fff_ffffn, kind: 'direct-relaxable' }]);
    const io = relaxed.h.ioas();
    must(relaxed.f.attach(io, NO_PASID));
    expect(holes(relaxed.h, io)).toHaveLength(1);
    const hard: ReservedRegion = { start: 0x3000_0000n, last: 0x300f_ffffn, kind: 'msi' };
    for (const regions of [
      [hard, MSI],
      [MSI, { ...MSI, start: MSI.last + 1n, last: MSI.last + PAGE }],
    ]) {
      const { h, f } = withRegions(regions);
      const space = h.ioas();
      expect(f.attach(space, NO_PASID)).toBe(-E.INVAL);
      expect(holes(h, space)).toEqual(['0-ffffffffffffffff']);
    }
  });
});

describe('interrupt doorbells', () => {
  test('are mapped into the paging domain in the software window, at the same place in every domain', () => {
    const { h, files } = withRegions([MSI], 3, 0x8000_0000);
    const io = h.ioas();
    for (const f of files) must(f.attach(io, NO_PASID));
    const domain = h.mock.pagingDomain(files[0]!.ptId);
    if (typeof domain === 'number') throw new Error('no domain');
    for (const i of [0, 1, 2]) expect(domain.iovaToPhys(MSI.start + BigInt(i) * PAGE)).toBe(0x8000_0000 + i * 4096);
    const again = h.ioas();
    must(files[2]!.attach(again, NO_PASID));
    const second = h.mock.pagingDomain(files[2]!.ptId);
    if (typeof second === 'number') throw new Error('no domain');
    expect(second.iovaToPhys(MSI.start + 2n * PAGE)).toBe(0x8000_2000);
    expect(second.iovaToPhys(MSI.start)).toBe(-1);
  });

  test('a nested HWPT has them in its parent', () => {
    const { h, f } = withRegions([MSI], 1, 0x8000_0000);
    const io = h.ioas();
    must(f.attach(io, NO_PASID));
    const parent = h.hwpt(f.devId, io, 1);
    const domain = h.mock.pagingDomain(parent);
    if (typeof domain === 'number') throw new Error('no domain');
    expect(domain.iovaToPhys(MSI.start)).toBe(-1);
    must(f.attach(h.nested(f.devId, parent), NO_PASID));
    expect(domain.iovaToPhys(MSI.start)).toBe(0x8000_0000);
    // And nothing of the guest's may lie there.
    expect(h.map(io, MSI.start, PAGE)).toBe(-E.INVAL);
    expect(h.map(io, APERTURE, PAGE)).toBe(0);
  });

  test('there is room for 64 in a context, then EOVERFLOW', () => {
    const { h, files } = withRegions([MSI], 65, 0x8000_0000);
    const io = h.ioas();
    const results = files.map((f) => f.attach(io, NO_PASID));
    expect(results.slice(0, 64)).toEqual(Array(64).fill(0));
    expect(results[64]).toBe(-E.OVERFLOW);
    expect(files[64]!.device?.attachedTo(0)).toBeNull();
  });
});
