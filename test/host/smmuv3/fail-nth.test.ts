import { describe, expect, test } from 'vitest';
import type { PageAllocator } from '../../../src/host/drivers/page-allocator.ts';
import { Smmuv3Driver } from '../../../src/host/drivers/smmuv3/driver.ts';
import { IommufdFile } from '../../../src/host/iommufd/file.ts';
import { VfioFile } from '../../../src/host/iommufd/vfio-device.ts';
import type { DriverData } from '../../../src/host/kernel/driver.ts';
import { HostKernel } from '../../../src/host/kernel/kernel.ts';
import { VirtualClock } from '../../../src/lib/clock/virtual-clock.ts';
import { HostMemory } from '../../../src/lib/memory/host-memory.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import type { UserMemory } from '../../../src/ports/iommufd.ts';
import { HWPT_FLAG } from '../../../src/spec/iommufd/uapi.ts';
import { allocHwpt, FakeHw, identity, vste } from './bench.ts';

const ENOMEM = -12;

/** Host memory whose allocation number `n` (from 0) fails. */
class FailNth implements PageAllocator {
  readonly #memory: HostMemory;
  readonly #n: number;
  count = 0;

  constructor(memory: HostMemory, n: number) {
    this.#memory = memory;
    this.#n = n;
  }

  get space() {
    return this.#memory.space;
  }
  allocate(count = 1): number {
    return this.count++ === this.#n ? -1 : this.#memory.allocate(count);
  }
  free(hpa: number, count = 1): void {
    this.#memory.free(hpa, count);
  }
  freeAll(pages: number[]): void {
    this.#memory.freeAll(pages);
  }
  get hit(): boolean {
    return this.count > this.#n;
  }
}

const MEMORY: UserMemory = {
  hpa: 0,
  run: 0,
  pin(va, bytes) {
    const m = this as { hpa: number; run: number };
    // Never block-aligned, so that every map needs tables.
    m.hpa = 2 ** 40 + 0x1000 + Number(va);
    m.run = Math.min(Number(bytes), 0x30_0000);
    return true;
  },
};

/** Everything that allocates, one step after the other. @returns the first error, 0 if none. */
function scenario(kernel: HostKernel, driver: Smmuv3Driver): number {
  const dev = kernel.addDevice({ name: 'nic', streams: [0x1208], iommu: driver, pasidBits: 16 });
  const fd = new IommufdFile(kernel, MEMORY);
  const vfio = new VfioFile(dev);
  vfio.bind(fd);
  const ioas = { flags: 0, outIoasId: 0 };
  fd.ioasAlloc(ioas);
  const { devId } = vfio;
  const hwpt = (flags: number, ptId: number, data: DriverData | null) => allocHwpt(fd, devId, flags, ptId, data);
  const map = (iova: bigint, length: bigint) =>
    fd.ioasMap({ flags: 7, ioasId: ioas.outIoasId, reserved: 0, userVa: iova, length, iova });
  let failed = 0;
  const step = (r: number): number => {
    if (r < 0 && failed === 0) failed = r;
    return r;
  };
  const run = (...steps: (() => number)[]) => {
    for (const s of steps) if (failed === 0) step(s());
  };
  let parent = 0;
  let viommu = 0;
  run(
    () => map(0x4000_0000n, 0x80_0000n),
    () => (parent = hwpt(HWPT_FLAG.NEST_PARENT, ioas.outIoasId, null)),
    () => map(0x8000_0000n, 0x40_0000n),
    () => {
      const c = { flags: 0, type: 1, devId, hwptId: parent, outViommuId: 0, data: null };
      const r = fd.viommuAlloc(c);
      viommu = c.outViommuId;
      return r;
    },
    () => fd.vdeviceAlloc({ viommuId: viommu, devId, outVdeviceId: 0, virtId: 8n }),
    () => {
      const nested = hwpt(0, viommu, vste(0xbn, 0n));
      return nested < 0 ? nested : vfio.attach(nested, NO_PASID);
    },
    () => vfio.detach(NO_PASID),
    () => {
      const own = hwpt(HWPT_FLAG.PASID, ioas.outIoasId, null);
      if (own < 0) return own;
      const r = vfio.attach(own, NO_PASID);
      return r !== 0 ? r : vfio.attach(own, 5000);
    },
    () => fd.ioasUnmap({ ioasId: ioas.outIoasId, iova: 0x4000_0000n, length: 0x80_0000n }),
  );
  vfio.close();
  fd.close();
  kernel.removeDevice(dev);
  return failed;
}

/** @returns whether the allocation that was to fail was reached, and pages left over. */
function attempt(n: number) {
  const memory = new HostMemory();
  const failing = new FailNth(memory, Number.POSITIVE_INFINITY);
  const kernel = new HostKernel({ memory, clock: new VirtualClock() });
  const allocator: { to: PageAllocator } = { to: failing };
  const driver = new Smmuv3Driver({
    name: 'smmu',
    hw: new FakeHw(memory, identity([1, 0x7c0, 16 << 6], [0, 1 << 19, 1 << 19], [5, 7, 3])),
    memory: {
      get space() {
        return memory.space;
      },
      allocate: (count) => allocator.to.allocate(count),
      free: (hpa, count) => allocator.to.free(hpa, count),
      freeAll: (pages) => allocator.to.freeAll(pages),
    },
  });
  kernel.addIommu(driver);
  // The level-2 stream table of the device stays when it goes, as in the kernel.
  kernel.removeDevice(kernel.addDevice({ name: 'before', streams: [0x1200], iommu: driver }));
  const used = memory.pagesUsed;
  const nth = new FailNth(memory, n);
  allocator.to = nth;
  const error = scenario(kernel, driver);
  return { error, hit: nth.hit, left: memory.pagesUsed - used };
}

describe('memory that runs out at any moment', () => {
  test('is ENOMEM of the verb it happens in, and when the program is gone nothing is left', () => {
    let n = 0;
    for (; ; n++) {
      const { error, hit, left } = attempt(n);
      expect([n, left]).toEqual([n, 0]);
      if (!hit) {
        expect(error).toBe(0);
        break;
      }
      expect([n, error]).toEqual([n, ENOMEM]);
    }
    // Start tables, tables below them, CD tables of both levels: there is something to fail.
    expect(n).toBeGreaterThan(15);
  });
});
