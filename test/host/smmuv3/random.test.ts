import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Smmuv3Driver } from '../../../src/host/drivers/smmuv3/driver.ts';
import { IommufdFile } from '../../../src/host/iommufd/file.ts';
import { VfioFile } from '../../../src/host/iommufd/vfio-device.ts';
import { HostKernel } from '../../../src/host/kernel/kernel.ts';
import { UpcallHub } from '../../../src/host/upcalls/upcall-hub.ts';
import { VirtualClock } from '../../../src/lib/clock/virtual-clock.ts';
import { HostMemory } from '../../../src/lib/memory/host-memory.ts';
import { HwRelay } from '../../../src/machine/hw-relay.ts';
import { PhysicalSmmuv3 } from '../../../src/piommu/smmuv3/device.ts';
import { ACCESS, AT, NO_PASID } from '../../../src/ports/dma.ts';
import type { UserMemory } from '../../../src/ports/iommufd.ts';
import { identity, vste } from './bench.ts';

const SIDS = [8, 0x123];
/** User memory at VA v is at host-physical 2^40 + v; a part of it does not exist. */
const MEMORY: UserMemory = {
  hpa: 0,
  run: 0,
  pin(va, bytes) {
    const m = this as { hpa: number; run: number };
    if (va >= 0x9000_0000n) return false;
    m.hpa = 2 ** 40 + Number(va);
    m.run = Number(bytes);
    return true;
  },
};

/** A kernel over the emulated SMMU, few pages and few VMIDs, so that everything can run out. */
function host(pages: number, linux: boolean) {
  const id = identity([1, 0x7c0, 8 << 6]);
  const memory = new HostMemory(pages);
  const kernel = new HostKernel({ memory, clock: new VirtualClock() });
  const events = new HwRelay();
  const [idr0, idr1, , idr3, , idr5] = id.idr;
  const hw = new PhysicalSmmuv3({ memory: memory.space, idr0, idr1, idr3, idr5, events, clock: kernel.clock });
  const driver = new Smmuv3Driver({
    name: 'smmu',
    hw,
    memory,
    maxVmids: 3,
    upcalls: linux ? null : new UpcallHub(),
    partialCount: linux ? 'linux-as-is' : 'uapi-ideal',
  });
  kernel.addIommu(driver);
  events.to = driver.events;
  const devices = SIDS.map((sid) =>
    kernel.addDevice({ name: `d${sid}`, streams: [sid], iommu: driver, pasidBits: 8, ats: true, msiDoorbell: 2 ** 41 }),
  );
  return { memory, kernel, hw, driver, devices };
}

const id = fc.integer({ min: 0, max: 14 });
const which = fc.nat(1);
const op = fc.oneof(
  fc.record({ do: fc.constant('ioas' as const) }),
  fc.record({
    do: fc.constant('hwpt' as const),
    dev: which,
    pt: id,
    flags: fc.constantFrom(0, 1, 1, 1, 2, 8, 9, 16),
    nested: fc.constantFrom(null, 0n, 1n, 9n, 11n, 13n),
  }),
  fc.record({ do: fc.constant('viommu' as const), dev: which, hwpt: id }),
  fc.record({ do: fc.constant('vdevice' as const), dev: which, viommu: id, virt: fc.nat(3) }),
  fc.record({
    do: fc.constant('attach' as const),
    dev: which,
    pt: id,
    pasid: fc.constantFrom(NO_PASID, NO_PASID, NO_PASID, 1, 7, 255, 256),
  }),
  fc.record({ do: fc.constant('detach' as const), dev: which, pasid: fc.constantFrom(NO_PASID, 1, 7) }),
  fc.record({ do: fc.constant('destroy' as const), id }),
  fc.record({
    do: fc.constant('map' as const),
    ioas: id,
    page: fc.nat(40),
    count: fc.constantFrom(1, 3, 512),
    va: fc.constantFrom(0, 0x20_0000, 0x8fff_f000),
  }),
  fc.record({ do: fc.constant('unmap' as const), ioas: id, page: fc.nat(40), count: fc.constantFrom(1, 3, 512, 4096) }),
  fc.record({
    do: fc.constant('command' as const),
    id,
    words: fc.array(fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }), { minLength: 4, maxLength: 4 }),
    op: fc.constantFrom(0x10, 0x12, 0x30, 0x40, 0x05, 0x03),
    vsid: fc.nat(3),
  }),
  fc.record({ do: fc.constant('dma' as const), dev: which, page: fc.nat(40), pasid: fc.constantFrom(NO_PASID, 1) }),
);
type Op = typeof op extends fc.Arbitrary<infer T> ? T : never;

type Fd = IommufdFile;
type Vfio = VfioFile;

/** Ids the program was given, by what they stood for; some are stale by now. */
interface Given {
  readonly ioas: number[];
  readonly hwpt: number[];
  readonly viommu: number[];
}

/** Mostly one of `list`; now and then any number at all. */
function pick(list: readonly number[], n: number): number {
  return n >= 12 || list.length === 0 ? n : list[n % list.length]!;
}

function keep(list: number[], r: number, made: number): number {
  if (r === 0) list.push(made);
  return r;
}

function act(o: Op, h: ReturnType<typeof host>, fd: Fd, vfios: readonly Vfio[], given: Given): number {
  switch (o.do) {
    case 'ioas': {
      const c = { flags: 0, outIoasId: 0 };
      return keep(given.ioas, fd.ioasAlloc(c), c.outIoasId);
    }
    case 'hwpt': {
      const data = o.nested === null ? null : vste(o.nested, 0n);
      const parents = o.nested === null ? given.ioas : given.viommu;
      const c = {
        flags: o.nested === null ? o.flags : 0,
        devId: vfios[o.dev]!.devId,
        ptId: pick(parents, o.pt),
        outHwptId: 0,
        reserved: 0,
        dataType: data === null ? 0 : data.type,
        data: data?.user ?? null,
        faultId: 0,
      };
      return keep(given.hwpt, fd.hwptAlloc(c), c.outHwptId);
    }
    case 'viommu': {
      const devId = vfios[o.dev]!.devId;
      const c = { flags: 0, type: 1, devId, hwptId: pick(given.hwpt, o.hwpt), outViommuId: 0, data: null };
      return keep(given.viommu, fd.viommuAlloc(c), c.outViommuId);
    }
    case 'vdevice':
      return fd.vdeviceAlloc({
        viommuId: pick(given.viommu, o.viommu),
        devId: vfios[o.dev]!.devId,
        outVdeviceId: 0,
        virtId: BigInt(o.virt),
      });
    case 'attach':
      return vfios[o.dev]!.attach(pick(given.hwpt, o.pt), o.pasid);
    case 'detach':
      return vfios[o.dev]!.detach(o.pasid);
    case 'destroy':
      return fd.destroy(pick([...given.hwpt, ...given.viommu], o.id));
    case 'map':
      return fd.ioasMap({
        flags: 7,
        ioasId: pick(given.ioas, o.ioas),
        reserved: 0,
        userVa: BigInt(o.va),
        length: BigInt(o.count) * 0x1000n,
        iova: 0x4000_0000n + BigInt(o.page) * 0x1000n,
      });
    case 'unmap':
      return fd.ioasUnmap({
        ioasId: pick(given.ioas, o.ioas),
        iova: 0x4000_0000n + BigInt(o.page) * 0x1000n,
        length: BigInt(o.count) * 0x1000n,
      });
    case 'command': {
      const words = Int32Array.from(o.words);
      words[0] = (words[0]! & ~0xff) | o.op;
      words[1] = o.vsid;
      return fd.invalidate(pick(given.viommu, o.id), 1, words, 0, 16, 1);
    }
    case 'dma':
      h.hw.translate(SIDS[o.dev]!, o.pasid, 0x4000_0000 + o.page * 0x1000, 0, ACCESS.READ, AT.UNTRANSLATED);
      return 0;
  }
}

/** What every VMM begins with: a parent, a vIOMMU on it, a name for the device, a translating domain. */
const PROLOGUE: readonly Op[] = [
  { do: 'ioas' },
  { do: 'hwpt', dev: 0, pt: 0, flags: 1, nested: null },
  { do: 'viommu', dev: 0, hwpt: 0 },
  { do: 'vdevice', dev: 0, viommu: 0, virt: 0 },
  { do: 'hwpt', dev: 0, pt: 0, flags: 0, nested: 11n },
  { do: 'attach', dev: 0, pt: 1, pasid: NO_PASID },
];

test('whatever a program asks for, in whatever order, nothing throws; and when it is gone nothing is left', () => {
  fc.assert(
    fc.property(
      fc.array(op, { minLength: 60, maxLength: 200 }),
      fc.boolean(),
      fc.constantFrom(60, 80, 400),
      fc.boolean(),
      (ops, begun, pages, linux) => {
        const h = host(pages, linux);
        const used = h.memory.pagesUsed;
        const fd = new IommufdFile(h.kernel, MEMORY);
        const vfios = h.devices.map((d) => new VfioFile(d));
        for (const v of vfios) expect(v.bind(fd)).toBe(0);
        const given: Given = { ioas: [], hwpt: [], viommu: [] };
        for (const o of [...(begun ? PROLOGUE : []), ...ops])
          expect(act(o, h, fd, vfios, given)).toBeLessThanOrEqual(0);

        for (const v of vfios) v.close();
        fd.close();
        for (const d of h.devices) h.kernel.removeDevice(d);
        expect(h.memory.pagesUsed).toBe(used);
        for (const sid of SIDS) {
          const at = h.driver.streamTable.addressOf(sid);
          for (let w = 0; w < 8; w++) {
            h.memory.space.load64(at + 8 * w);
            expect([h.memory.space.lo, h.memory.space.hi]).toEqual([w === 0 ? 1 : 0, 0]);
          }
        }
      },
    ),
    { numRuns: 120 },
  );
});
