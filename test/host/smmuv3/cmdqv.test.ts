import { describe, expect, test } from 'vitest';
import { Smmuv3Driver } from '../../../src/host/drivers/smmuv3/driver.ts';
import { IommufdFile } from '../../../src/host/iommufd/file.ts';
import { VfioFile } from '../../../src/host/iommufd/vfio-device.ts';
import type { DriverData } from '../../../src/host/kernel/driver.ts';
import { HostKernel } from '../../../src/host/kernel/kernel.ts';
import { VirtualClock } from '../../../src/lib/clock/virtual-clock.ts';
import { ramBacking } from '../../../src/lib/memory/address-space.ts';
import { HostMemory } from '../../../src/lib/memory/host-memory.ts';
import { VCMDQ, VCMDQ_BYTES, VirtualQueues } from '../../../src/piommu/smmuv3/virtual-queues.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { HW_ERROR } from '../../../src/ports/hw.ts';
import type { EventFd, UserData, UserMemory } from '../../../src/ports/iommufd.ts';
import type { MemoryWindow } from '../../../src/ports/memory.ts';
import { HWPT_FLAG, VIOMMU_TYPE } from '../../../src/spec/iommufd/uapi.ts';
import { OP } from '../../../src/spec/smmuv3/commands.ts';
import { allocHwpt, FakeHw, vste } from './bench.ts';

const ENOENT = -2;
const EIO = -5;
const EBUSY = -16;
const EEXIST = -17;
const EINVAL = -22;
const ENOSPC = -28;
const EOPNOTSUPP = -95;
const IOVA = 0x4000_0000;
const RAM = 0x40_0000;
const VSID = 0x88;
const VMID = 1;

const data = (length = 16): UserData & { readonly bytes: Uint8Array } => {
  const bytes = new Uint8Array(16);
  return {
    bytes,
    length,
    copyIn: (offset, into) => {
      into.set(bytes.subarray(offset, offset + into.length));
      return true;
    },
    copyOut: (offset, from) => {
      bytes.set(from, offset);
      return true;
    },
  };
};

/** A VMM whose guest has a page of queue registers and 4 MiB of RAM. */
function vmm() {
  const memory = new HostMemory();
  const hpa = memory.place(IOVA, RAM, ramBacking(RAM));
  const hw = new FakeHw(memory);
  const queues = new VirtualQueues({ memory: memory.space, hw, slots: 4 });
  const place = (window: MemoryWindow, bytes: number) => {
    const at = memory.place(0, bytes, null);
    return { hpa: at, remove: memory.space.addWindow(at, bytes, window) };
  };
  const kernel = new HostKernel({ memory, clock: new VirtualClock() });
  const driver = new Smmuv3Driver({ name: 'smmu', hw, memory, cmdqv: { port: queues, place } });
  kernel.addIommu(driver);
  const user: UserMemory = {
    hpa: 0,
    run: 0,
    pin(va, bytes) {
      const m = this as { hpa: number; run: number };
      m.hpa = hpa + Number(va) - IOVA;
      m.run = Number(bytes);
      return true;
    },
  };
  const fd: IommufdFile = new IommufdFile(kernel, user);
  const plug = (sid: number) => {
    const dev = kernel.addDevice({ name: `d${sid}`, streams: [sid], iommu: driver, ats: true });
    const vfio = new VfioFile(dev);
    vfio.bind(fd);
    return vfio;
  };
  const vfio = plug(8);
  const ioas = { flags: 0, outIoasId: 0 };
  fd.ioasAlloc(ioas);
  const ioasId = ioas.outIoasId;
  fd.ioasMap({ flags: 7, ioasId, reserved: 0, userVa: BigInt(IOVA), length: BigInt(RAM), iova: BigInt(IOVA) });
  const hwpt = (flags: number, ptId: number, v: DriverData | null) => allocHwpt(fd, vfio.devId, flags, ptId, v);
  const parent = hwpt(HWPT_FLAG.NEST_PARENT, ioasId, null);
  const viommuOf = (d: UserData | null, type: number = VIOMMU_TYPE.TEGRA241_CMDQV) => {
    const c = { flags: 0, type, devId: vfio.devId, hwptId: parent, outViommuId: 0, data: d };
    const r = fd.viommuAlloc(c);
    return r === 0 ? c.outViommuId : r;
  };
  const given = data();
  const viommu = viommuOf(given);
  const view = new DataView(given.bytes.buffer);
  const { mmaps } = fd.context;
  const offset = view.getBigUint64(0, true);
  expect(mmaps.map(offset, Number(view.getBigUint64(8, true)), true, 3)).toBe(0);
  const page = mmaps.mapped;
  const queue = (index: number, gpa: number, length: number, type = 1) => {
    const c = {
      flags: 0,
      viommuId: viommu,
      type,
      index,
      outHwQueueId: 0,
      nestingParentIova: BigInt(gpa),
      length: BigInt(length),
    };
    const r = fd.hwQueueAlloc(c);
    return r === 0 ? c.outHwQueueId : r;
  };
  const vdevice = (v: { devId: number }, virtId: bigint) =>
    fd.vdeviceAlloc({ viommuId: viommu, devId: v.devId, outVdeviceId: 0, virtId });
  let prod = 0;
  return {
    fd,
    hw,
    kernel,
    driver,
    memory,
    vfio,
    plug,
    ioasId,
    parent,
    viommu,
    viommuOf,
    hwpt,
    queue,
    vdevice,
    offset,
    r: (at: number, n = 0) => {
      memory.space.load32(page + n * VCMDQ_BYTES + at);
      return memory.space.lo >>> 0;
    },
    w: (at: number, value: number, n = 0) => memory.space.store32(page + n * VCMDQ_BYTES + at, value),
    put: (slot: number, c: readonly number[]) => memory.space.store64(hpa + 16 * slot, c[0]!, c[1]!),
    /** The guest queues commands in queue 0 of `2 ** log2` entries at IOVA and rings. */
    ring(log2: number, ...commands: number[][]) {
      for (const c of commands) {
        const at = hpa + 16 * (prod % 2 ** log2);
        memory.space.store64(at, c[0]!, c[1]!);
        memory.space.store64(at + 8, c[2] ?? 0, c[3] ?? 0);
        prod = (prod + 1) % (2 << log2);
      }
      memory.space.store32(page + VCMDQ.PROD, prod);
    },
  };
}

const ASID = 0x11;
const NH_ASID = [OP.TLBI_NH_ASID, (ASID << 16) | 0x7777];
const NH_VA = [OP.TLBI_NH_VA, ASID << 16, 0x5001, 0];
const ATC = [OP.ATC_INV, VSID, 52, 0];
const SYNC = [OP.SYNC, 0];
const LOG2 = 4;

function running() {
  const v = vmm();
  expect(v.vdevice(v.vfio, BigInt(VSID))).toBe(0);
  expect(v.queue(0, IOVA, 16 << LOG2)).toBeGreaterThan(0);
  v.w(VCMDQ.CONFIG, 1);
  v.hw.take();
  return v;
}

describe('a queue the guest rings itself', () => {
  test('runs its invalidations without any verb, under the real VMID and stream', () => {
    const v = running();
    v.ring(LOG2, NH_ASID, NH_VA, ATC, SYNC);
    const seen = v.hw.take().flatMap((s) => (s.what === 'command' ? [s.words] : []));
    expect(seen).toEqual([
      [OP.TLBI_NH_ASID, (ASID << 16) | VMID, 0, 0],
      [OP.TLBI_NH_VA, (ASID << 16) | VMID, 0x5001, 0],
      [OP.ATC_INV, 8, 52, 0],
    ]);
    expect([v.r(VCMDQ.CONS), v.r(VCMDQ.STATUS), v.r(VCMDQ.GERROR)]).toEqual([4, 1, 0]);
  });

  test('wraps, and never runs more than a full queue for one ring', () => {
    const v = running();
    for (let i = 0; i < 10; i++) v.ring(LOG2, ...Array(9).fill(NH_ASID), SYNC);
    expect(v.r(VCMDQ.CONS)).toBe(100 % (2 << LOG2));
    expect(v.hw.take().filter((s) => s.what === 'command')).toHaveLength(90);
    // A PROD that breaks the rules costs one lap of indexes at most.
    v.w(VCMDQ.PROD, (v.r(VCMDQ.CONS) + 31) & 31);
    expect(v.hw.take().filter((s) => s.what === 'command').length).toBeLessThanOrEqual(2 << LOG2);
  });

  test('stops at anything but TLBI by ASID or address, ATC_INV of a named stream, and SYNC; and goes on there', () => {
    const allowed: number[] = [OP.TLBI_NH_ASID, OP.TLBI_NH_VA, OP.SYNC];
    const v = running();
    let error = 0;
    for (let op = 0; op < 256; op++) {
      const at = (3 * op) % (2 << LOG2);
      v.ring(LOG2, NH_ASID, [op, 0x99], NH_ASID);
      if (!allowed.includes(op)) {
        error ^= 1;
        expect([op, v.r(VCMDQ.CONS), v.r(VCMDQ.GERROR)]).toEqual([op, 0x0100_0000 | ((at + 1) % (2 << LOG2)), error]);
        v.hw.take();
        v.ring(LOG2);
        expect(v.hw.take()).toEqual([]);
        // The guest puts something harmless in its place, and acknowledges.
        v.put((at + 1) % (1 << LOG2), SYNC);
        v.w(VCMDQ.GERRORN, error);
      }
      expect([op, v.r(VCMDQ.CONS), v.r(VCMDQ.GERROR)]).toEqual([op, (at + 3) % (2 << LOG2), error]);
    }
  });

  test('tells the VMM of its error through a vEVENT', () => {
    const v = running();
    const q = {
      flags: 0,
      viommuId: v.viommu,
      type: 2,
      depth: 4,
      reserved: 0,
      outVeventqId: 0,
      outFd: null as EventFd | null,
    };
    expect(v.fd.veventqAlloc(q)).toBe(0);
    v.ring(LOG2, NH_ASID, [OP.CFGI_STE, VSID, 1, 0], NH_VA);
    const event = new Uint8Array(24);
    expect(q.outFd!.read(event)).toBe(24);
    expect([...new Uint32Array(event.buffer).subarray(2)]).toEqual([1, 0, 0, 0]);
  });

  test('holds its SYNC until the functions have answered, and reports there what never came', () => {
    const v = running();
    v.hw.token = 77;
    v.ring(LOG2, ATC, SYNC, NH_ASID);
    expect(v.r(VCMDQ.CONS)).toBe(1);
    v.driver.events.completed(77, HW_ERROR.NONE, 8);
    expect(v.r(VCMDQ.CONS)).toBe(3);

    v.hw.token = 78;
    v.ring(LOG2, ATC, SYNC);
    v.driver.events.completed(78, HW_ERROR.ATC_TIMEOUT, 8);
    expect([v.r(VCMDQ.CONS), v.r(VCMDQ.GERROR)]).toEqual([0x0300_0004, 1]);
    v.w(VCMDQ.GERRORN, 1);
    expect(v.r(VCMDQ.CONS)).toBe(5);
  });

  test('without memory does not start: CMDQ_INIT_ERR', () => {
    const v = vmm();
    v.w(VCMDQ.CONFIG, 1, 1);
    expect([v.r(VCMDQ.STATUS, 1), v.r(VCMDQ.GERROR, 1)]).toEqual([0, 4]);
  });

  test('forgets a stream with its vDEVICE', () => {
    const v = running();
    const vdevice = [...v.fd.context.objects.objects()].find((o) => o.kind === 'vdevice')!;
    expect(v.fd.destroy(vdevice.id)).toBe(0);
    v.ring(LOG2, ATC);
    expect(v.r(VCMDQ.CONS)).toBe(0x0100_0000);
  });
});

describe('HW_QUEUE_ALLOC', () => {
  test('needs a type of this hardware, an index in order, and a power of two of aligned memory', () => {
    const v = vmm();
    expect(v.queue(0, IOVA, 256, 2)).toBe(EOPNOTSUPP);
    expect(v.queue(1, IOVA, 256)).toBe(EIO);
    expect(v.queue(2, IOVA, 256)).toBe(EINVAL);
    for (const length of [16, 48, 2 ** 24])
      expect([length, v.queue(0, IOVA, length)]).toEqual([length, length === 2 ** 24 ? ENOENT : EINVAL]);
    expect(v.queue(0, IOVA + 128, 256)).toBe(EINVAL);
    expect(v.queue(0, IOVA + RAM, 256)).toBe(ENOENT);
    const first = v.queue(0, IOVA, 256);
    expect(first).toBeGreaterThan(0);
    expect(v.queue(0, IOVA, 256)).toBe(EEXIST);
    const second = v.queue(1, IOVA + 0x1000, 256);
    expect(v.fd.destroy(first)).toBe(EBUSY);
    expect(v.fd.destroy(second)).toBe(0);
    expect(v.fd.destroy(first)).toBe(0);
  });

  test('pins the memory of the queue', () => {
    const v = running();
    expect(v.fd.ioasUnmap({ ioasId: v.ioasId, iova: BigInt(IOVA), length: BigInt(RAM) })).toBe(EBUSY);
  });

  test('on a plain vSMMU is EOPNOTSUPP', () => {
    const v = vmm();
    const plain = v.viommuOf(null, VIOMMU_TYPE.ARM_SMMUV3);
    const c = {
      flags: 0,
      viommuId: plain,
      type: 1,
      index: 0,
      outHwQueueId: 0,
      nestingParentIova: BigInt(IOVA),
      length: 256n,
    };
    expect(v.fd.hwQueueAlloc(c)).toBe(EOPNOTSUPP);
  });
});

describe('the vIOMMU with queues', () => {
  test('needs its data; there are as many as the hardware has interfaces, and one that goes frees its own', () => {
    const v = vmm();
    expect(v.viommuOf(null)).toBe(EINVAL);
    expect(v.viommuOf(data(8))).toBe(EINVAL);
    expect(v.viommuOf(data())).toBe(ENOSPC);
    v.fd.context.mmaps.unmap(v.offset);
    expect(v.fd.destroy(v.viommu)).toBe(0);
    expect(v.viommuOf(data())).toBeGreaterThan(0);
  });

  test('is pinned by the mapping of its page', () => {
    const v = vmm();
    expect(v.fd.destroy(v.viommu)).toBe(EBUSY);
  });

  test('names four streams, no fifth, and none wider than a StreamID', () => {
    const v = vmm();
    expect(v.vdevice(v.vfio, 1n << 32n)).toBe(EINVAL);
    expect(v.vdevice(v.vfio, 0n)).toBe(0);
    for (let i = 1; i < 4; i++) expect(v.vdevice(v.plug(8 + i), BigInt(i))).toBe(0);
    expect(v.vdevice(v.plug(20), 9n)).toBe(ENOSPC);
  });

  test('is a vSMMU like any other: nested domains, attach, invalidation by the verb', () => {
    const v = running();
    const nested = v.hwpt(0, v.viommu, vste(0xbn, 0n));
    expect(v.vfio.attach(nested, NO_PASID)).toBe(0);
    expect(v.fd.invalidate(v.viommu, 1, Int32Array.of(OP.CFGI_CD, VSID, 1, 0), 0, 16, 1)).toBe(0);
  });

  test('is announced by GET_HW_INFO: version, queues, stream slots', () => {
    const v = vmm();
    const info = v.driver.hwInfo(v.kernel.devices(v.driver)[0]!, 3)!;
    expect([...info.data]).toEqual([0, 0, 0, 0, 1, 1, 2, 0]);
  });
});
