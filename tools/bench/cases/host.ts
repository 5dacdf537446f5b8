import { ViommuError } from '../../../src/core/errors.ts';
import { MockDriver } from '../../../src/host/drivers/mock/driver.ts';
import { IommufdFile } from '../../../src/host/iommufd/file.ts';
import { VfioFile } from '../../../src/host/iommufd/vfio-device.ts';
import type { KernelDevice } from '../../../src/host/kernel/device.ts';
import { HostKernel } from '../../../src/host/kernel/kernel.ts';
import { VirtualClock } from '../../../src/lib/clock/virtual-clock.ts';
import { HostMemory } from '../../../src/lib/memory/host-memory.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import type { UserMemory } from '../../../src/ports/iommufd.ts';
import { MOCK, MOCK_DEVICE_FLAG } from '../../../src/spec/iommufd/selftest.ts';
import { HWPT_FLAG, IOAS_MAP_FLAG } from '../../../src/spec/iommufd/uapi.ts';
import type { BenchCase, Prepared } from '../case.ts';
import { bytesEach } from '../parts/alive.ts';

const AREAS = 1_000_000;
const HWPTS = 100_000;
const VDEVICES = 65_536;
const BATCH = 1000;
const PAGE = 4096n;
const RW = IOAS_MAP_FLAG.READABLE | IOAS_MAP_FLAG.WRITEABLE;

function must(r: number): void {
  if (r !== 0) throw new ViommuError('EIO', 'host', 'the bench cannot be built', { errno: -r });
}

/** All memory there is, one to one. */
class Flat implements UserMemory {
  hpa = 0;
  run = 0;
  pin(va: bigint, bytes: bigint): boolean {
    this.hpa = Number(va);
    this.run = Number(bytes);
    return true;
  }
}

class Bench {
  readonly kernel: HostKernel;
  readonly driver: MockDriver;
  readonly fd: IommufdFile;

  constructor() {
    const memory = new HostMemory();
    this.kernel = new HostKernel({ memory, clock: new VirtualClock() });
    this.driver = new MockDriver(memory);
    this.kernel.addIommu(this.driver);
    this.fd = new IommufdFile(this.kernel, new Flat());
  }

  ioas(): number {
    const c = { flags: 0, outIoasId: 0 };
    must(this.fd.ioasAlloc(c));
    return c.outIoasId;
  }

  device(): VfioFile {
    const d = this.driver.describe(MOCK_DEVICE_FLAG.PASID);
    if (typeof d === 'number') throw new ViommuError('EIO', 'host', 'mock flags');
    const dev: KernelDevice = this.kernel.addDevice(d);
    const f = new VfioFile(dev);
    must(f.bind(this.fd));
    return f;
  }

  hwpt(devId: number, ptId: number, flags: number): number {
    const c = { flags, devId, ptId, outHwptId: 0, reserved: 0, dataType: 0, data: null, faultId: 0 };
    must(this.fd.hwptAlloc(c));
    return c.outHwptId;
  }

  viommu(devId: number, hwptId: number): number {
    const c = { flags: 0, type: MOCK.VIOMMU, devId, hwptId, outViommuId: 0, data: null };
    must(this.fd.viommuAlloc(c));
    return c.outViommuId;
  }

  nested(devId: number, ptId: number): number {
    const data = { length: 8, copyIn: (_o: number, into: Uint8Array) => into.fill(0).length >= 0, copyOut: () => true };
    const c = { flags: 0, devId, ptId, outHwptId: 0, reserved: 0, dataType: MOCK.HWPT_DATA, data, faultId: 0 };
    must(this.fd.hwptAlloc(c));
    return c.outHwptId;
  }
}

/** An IOAS with a million areas of one page, a page apart. */
function crowded(): { readonly b: Bench; readonly io: number } {
  const b = new Bench();
  const io = b.ioas();
  const c = { flags: RW | IOAS_MAP_FLAG.FIXED_IOVA, ioasId: io, reserved: 0, userVa: PAGE, length: PAGE, iova: 0n };
  // A stride that visits every place in an order that is neither up nor down.
  for (let i = 0; i < AREAS; i++) {
    c.iova = BigInt(1 + 2 * ((i * 379_721) % AREAS)) * PAGE;
    must(b.fd.ioasMap(c));
  }
  return { b, io };
}

function mapUnmap(): Prepared {
  const { b, io } = crowded();
  const map = { flags: RW | IOAS_MAP_FLAG.FIXED_IOVA, ioasId: io, reserved: 0, userVa: PAGE, length: PAGE, iova: 0n };
  const unmap = { ioasId: io, iova: 0n, length: PAGE };
  let n = 0;
  return {
    ops: BATCH,
    run() {
      for (let i = 0; i < BATCH; i++) {
        n = (n + 611_953) % AREAS;
        unmap.iova = BigInt(1 + 2 * n) * PAGE;
        unmap.length = PAGE;
        must(b.fd.ioasUnmap(unmap));
        map.iova = unmap.iova;
        must(b.fd.ioasMap(map));
      }
    },
  };
}

/** Looks areas up by COPY's way: the pieces behind an IOVA. */
function lookup(): Prepared {
  const { b, io } = crowded();
  const ioas = b.fd.context.objects.get(io, 'ioas');
  let n = 0;
  return {
    ops: BATCH,
    run() {
      for (let i = 0; i < BATCH; i++) {
        n = (n + 611_953) % AREAS;
        if (ioas?.areas.firstFrom(1 + 2 * n, 0)?.startPage !== 1 + 2 * n) must(-1);
      }
    },
  };
}

/** Chooses an IOVA behind a million areas, and gives it back. */
function automatic(): Prepared {
  const { b, io } = crowded();
  const length = 4n * PAGE;
  return {
    ops: BATCH,
    run() {
      for (let i = 0; i < BATCH; i++) {
        const map = { flags: RW, ioasId: io, reserved: 0, userVa: PAGE, length, iova: 0n };
        must(b.fd.ioasMap(map));
        must(b.fd.ioasUnmap({ ioasId: io, iova: map.iova, length }));
      }
    },
  };
}

/** One device moves between two nested HWPTs, among 100,000 HWPTs and 65,536 vDEVICEs of the context. */
function replace(): Prepared {
  const b = new Bench();
  const io = b.ioas();
  const f = b.device();
  must(f.attach(io, NO_PASID));
  const parent = b.hwpt(f.devId, io, HWPT_FLAG.NEST_PARENT);
  const viommu = b.viommu(f.devId, parent);
  for (let i = 0; i < VDEVICES; i++) {
    const devId = i === 0 ? f.devId : b.device().devId;
    must(b.fd.vdeviceAlloc({ viommuId: viommu, devId, outVdeviceId: 0, virtId: BigInt(i + 1) }));
  }
  for (let i = 0; i < HWPTS; i++) b.nested(f.devId, viommu);
  const pair = [b.nested(f.devId, viommu), b.nested(f.devId, viommu)];
  let n = 0;
  return {
    ops: BATCH,
    run() {
      for (let i = 0; i < BATCH; i++) must(f.attach(pair[n++ & 1]!, NO_PASID));
    },
  };
}

/** One command through a vIOMMU with 65,536 vDEVICEs. */
function invalidate(): Prepared {
  const b = new Bench();
  const io = b.ioas();
  const f = b.device();
  must(f.attach(io, NO_PASID));
  const viommu = b.viommu(f.devId, b.hwpt(f.devId, io, HWPT_FLAG.NEST_PARENT));
  for (let i = 0; i < VDEVICES; i++) {
    const devId = i === 0 ? f.devId : b.device().devId;
    must(b.fd.vdeviceAlloc({ viommuId: viommu, devId, outVdeviceId: 0, virtId: BigInt(i + 1) }));
  }
  const words = Int32Array.of(0, 1, 0);
  let n = 0;
  return {
    ops: BATCH,
    run() {
      for (let i = 0; i < BATCH; i++) {
        n = (n + 40_503) % VDEVICES;
        words[1] = n + 1;
        must(b.fd.invalidate(viommu, MOCK.INVALIDATE, words, 0, 12, 1));
      }
    },
  };
}

const KEPT = 20_000;

/** What one of many objects keeps alive. */
function kept(name: string, make: (b: Bench) => (i: number) => void): BenchCase {
  return {
    path: 'host kernel',
    name: `${name}, kept`,
    unit: 'B',
    samples: 3,
    sample: () =>
      bytesEach(KEPT, () => {
        const b = new Bench();
        const one = make(b);
        return [b, one];
      }),
  };
}

const timed = (name: string, n: number, of: string, setup: () => Prepared, hot = false): BenchCase => ({
  path: 'host kernel',
  name,
  n,
  of,
  hot,
  setup,
});

export const HOST: readonly BenchCase[] = [
  timed('map and unmap', AREAS, 'areas', mapUnmap),
  timed('lookup', AREAS, 'areas', lookup),
  timed('automatic IOVA and unmap', AREAS, 'areas', automatic),
  timed('replace among 100,000 HWPTs', VDEVICES, 'vDEVICEs', replace),
  timed('invalidate', VDEVICES, 'vDEVICEs', invalidate, true),
  kept('an IOAS', (b) => () => void b.ioas()),
  kept('a nested HWPT', (b) => {
    const f = b.device();
    const parent = b.hwpt(f.devId, b.ioas(), HWPT_FLAG.NEST_PARENT);
    return () => void b.nested(f.devId, parent);
  }),
  kept('a bound device with its vDEVICE', (b) => {
    const f = b.device();
    const viommu = b.viommu(f.devId, b.hwpt(f.devId, b.ioas(), HWPT_FLAG.NEST_PARENT));
    return (i) => {
      const { devId } = b.device();
      must(b.fd.vdeviceAlloc({ viommuId: viommu, devId, outVdeviceId: 0, virtId: BigInt(i + 1) }));
    };
  }),
  kept('an area', (b) => {
    const c = { flags: RW, ioasId: b.ioas(), reserved: 0, userVa: PAGE, length: PAGE, iova: 0n };
    return () => must(b.fd.ioasMap(c));
  }),
];
