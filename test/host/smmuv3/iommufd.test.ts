import { describe, expect, test } from 'vitest';
import { IommufdFile } from '../../../src/host/iommufd/file.ts';
import { VfioFile } from '../../../src/host/iommufd/vfio-device.ts';
import type { KernelDevice } from '../../../src/host/kernel/device.ts';
import type { DriverData } from '../../../src/host/kernel/driver.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import type { EventFd, UserMemory } from '../../../src/ports/iommufd.ts';
import { HWPT_FLAG, IOAS_MAP_FLAG, VIOMMU_TYPE } from '../../../src/spec/iommufd/uapi.ts';
import { OP } from '../../../src/spec/smmuv3/commands.ts';
import { allocHwpt, type BenchOptions, bench, vste } from './bench.ts';

const ENOENT = -2;
const EIO = -5;
const E2BIG = -7;
const EBUSY = -16;
const EINVAL = -22;
const EOPNOTSUPP = -95;
const EADDRINUSE = -98;
const VSID = 0x88;
const DOORBELL = 0x200_0000_0000;

/** User memory at VA v is at host-physical 2^40 + v. */
const MEMORY: UserMemory = {
  hpa: 0,
  run: 0,
  pin(va, bytes) {
    const m = this as { hpa: number; run: number };
    m.hpa = 2 ** 40 + Number(va);
    m.run = Number(bytes);
    return true;
  },
};

/** A VMM: one device behind an SMMUv3, driven by the verbs alone. */
function vmm(options: BenchOptions = { withUpcalls: false }) {
  const b = bench(options);
  const fd: IommufdFile = new IommufdFile(b.kernel, MEMORY);
  const plug = (name: string, stream: number) => {
    const dev: KernelDevice = b.device(name, [stream], { msiDoorbell: DOORBELL });
    const vfio = new VfioFile(dev);
    if (vfio.bind(fd) !== 0) throw new Error('bind');
    return { dev, vfio, id: vfio.devId };
  };
  const { dev, vfio } = plug('nic', 8);
  const newIoas = () => {
    const c = { flags: 0, outIoasId: 0 };
    fd.ioasAlloc(c);
    return c.outIoasId;
  };
  const ioas = newIoas();
  const hwpt = (flags: number, ptId: number, data: DriverData | null = null, devId = vfio.devId) =>
    allocHwpt(fd, devId, flags, ptId, data);
  const parent = hwpt(HWPT_FLAG.NEST_PARENT, ioas);
  const viommuOn = (hwptId: number, type: number = VIOMMU_TYPE.ARM_SMMUV3) => {
    const c = { flags: 0, type, devId: vfio.devId, hwptId, outViommuId: 0, data: null };
    const r = fd.viommuAlloc(c);
    return r === 0 ? c.outViommuId : r;
  };
  const viommu = viommuOn(parent);
  const invalidate = (id: number, bytes: Uint8Array, entryLen: number, entryNum: number, dataType = 1) => {
    const data = {
      length: bytes.length,
      copyIn: (offset: number, into: Uint8Array) => {
        into.set(bytes.subarray(offset, offset + into.length));
        return true;
      },
      copyOut: () => true,
    };
    const c = { hwptId: id, dataType, entryLen, entryNum, reserved: 0, data };
    return [fd.hwptInvalidate(c), c.entryNum];
  };
  return {
    ...b,
    fd,
    plug,
    dev,
    vfio,
    ioas,
    newIoas,
    hwpt,
    parent,
    viommu,
    viommuOn,
    invalidate,
    vdevice(viommuId = viommu, devId = vfio.devId, virtId = BigInt(VSID)) {
      const c = { viommuId, devId, outVdeviceId: 0, virtId };
      const r = fd.vdeviceAlloc(c);
      return r === 0 ? c.outVdeviceId : r;
    },
    nested: (w0: bigint, w1 = 0n) => hwpt(0, viommu, vste(w0, w1)),
    attach: (id: number) => vfio.attach(id, NO_PASID),
    map(iova: number, bytes: number, ioasId = ioas) {
      const flags = IOAS_MAP_FLAG.FIXED_IOVA | IOAS_MAP_FLAG.READABLE | IOAS_MAP_FLAG.WRITEABLE;
      const c = { flags, ioasId, reserved: 0, userVa: BigInt(iova), length: BigInt(bytes), iova: BigInt(iova) };
      return fd.ioasMap(c);
    },
    domainOf: (id: number) => fd.context.objects.get(id, 'hwpt_paging')!.domain,
  };
}

const command = (...words: number[]) => new Uint8Array(Int32Array.from(words).buffer);

describe('HWPT_INVALIDATE on a vSMMU', () => {
  test('of no entries is EINVAL, whatever the type', () => {
    const v = vmm();
    for (const type of [0, 1, 2]) expect(v.invalidate(v.viommu, new Uint8Array(16), 16, 0, type)).toEqual([EINVAL, 0]);
  });

  test('takes short entries as if zeros followed, and long ones only with a zero tail', () => {
    const v = vmm();
    const c = command(OP.TLBI_NSNH_ALL, 0, 0, 0);
    v.hw.take();
    expect(v.invalidate(v.viommu, c.slice(0, 4), 4, 1)).toEqual([0, 1]);
    expect(v.hw.ops()).toBe('TLBI_NH_ALL |');
    const long = new Uint8Array(24);
    long.set(c);
    expect(v.invalidate(v.viommu, long, 24, 1)).toEqual([0, 1]);
    long[23] = 1;
    expect(v.invalidate(v.viommu, long, 24, 1)).toEqual([E2BIG, 0]);
  });

  test('with another type is EINVAL; on a nested HWPT EOPNOTSUPP; on a parent EINVAL', () => {
    const v = vmm();
    const c = command(OP.TLBI_NSNH_ALL, 0, 0, 0);
    expect(v.invalidate(v.viommu, c, 16, 1, 0)).toEqual([EINVAL, 0]);
    expect(v.invalidate(v.nested(0x9n), c, 16, 1)).toEqual([EOPNOTSUPP, 0]);
    expect(v.invalidate(v.parent, c, 16, 1)).toEqual([EINVAL, 0]);
  });

  test('stops at the first bad entry and says how many are done', () => {
    const v = vmm();
    const array = new Uint8Array(64);
    for (const [i, op] of [OP.TLBI_NSNH_ALL, OP.TLBI_NH_ALL, OP.SYNC, OP.TLBI_NH_ALL].entries()) array[16 * i] = op;
    expect(v.invalidate(v.viommu, array, 16, 4)).toEqual([EIO, 2]);
  });
});

describe('objects and their references', () => {
  test('no nested HWPT directly on a parent', () => {
    const v = vmm();
    expect(v.hwpt(0, v.parent, vste(0x9n, 0n))).toBe(EOPNOTSUPP);
  });

  test('a vIOMMU needs a nest parent, and only its own type', () => {
    const v = vmm();
    expect(v.viommuOn(v.hwpt(0, v.ioas))).toBe(EINVAL);
    expect(v.viommuOn(v.parent, VIOMMU_TYPE.TEGRA241_CMDQV)).toBe(EOPNOTSUPP);
  });

  test('a parent is EBUSY below its vIOMMU, the vIOMMU below its nested HWPT and vDEVICE', () => {
    const v = vmm();
    const d = v.nested(0x9n);
    const vdevice = v.vdevice();
    expect(v.fd.destroy(v.parent)).toBe(EBUSY);
    expect(v.fd.destroy(v.viommu)).toBe(EBUSY);
    expect(v.attach(d)).toBe(0);
    expect(v.fd.destroy(d)).toBe(EBUSY);
    v.vfio.detach(NO_PASID);
    expect(v.fd.destroy(d)).toBe(0);
    expect(v.fd.destroy(v.viommu)).toBe(EBUSY);
    expect(v.fd.destroy(vdevice)).toBe(0);
    expect(v.fd.destroy(v.viommu)).toBe(0);
    expect(v.fd.destroy(v.parent)).toBe(0);
  });

  test('a vDEVICE may go while its device translates: its commands are EIO from then on, the STE stays', () => {
    const v = vmm();
    const vdevice = v.vdevice();
    v.attach(v.nested(0xbn));
    const before = v.ste(8);
    expect(v.fd.destroy(vdevice)).toBe(0);
    expect(v.ste(8)).toEqual(before);
    expect(v.invalidate(v.viommu, command(OP.CFGI_CD, VSID, 1, 0), 16, 1)).toEqual([EIO, 0]);
  });

  test('unbinding leaves a tombstone of the vDEVICE: its id is not given again', () => {
    const v = vmm();
    const vdevice = v.vdevice();
    v.vfio.close();
    expect(v.fd.destroy(vdevice)).toBe(ENOENT);
    expect(v.invalidate(v.viommu, command(OP.CFGI_CD, VSID, 1, 0), 16, 1)).toEqual([EIO, 0]);
    const ids = Array.from({ length: 5 }, () => v.newIoas());
    expect(ids).not.toContain(vdevice);
  });

  test('a translating attach asks for a vDEVICE in this very vIOMMU', () => {
    const v = vmm();
    const second = v.viommuOn(v.parent);
    v.vdevice(second);
    expect(v.attach(v.nested(0xbn))).toBe(ENOENT);
    expect(v.attach(v.hwpt(0, second, vste(0xbn, 0n)))).toBe(0);
  });
});

describe('doorbells', () => {
  const WINDOW = 0x0809_0000;

  test('are mapped into the nest parent at attach, at the page the machine named', () => {
    const v = vmm({ withUpcalls: false, swMsi: { start: WINDOW, bytes: 0x1000 } });
    expect(v.attach(v.nested(0x9n))).toBe(0);
    expect(v.domainOf(v.parent).iovaToPhys(BigInt(WINDOW + 0x40))).toBe(DOORBELL + 0x40);
  });

  test('lie where Linux puts them without a machine', () => {
    const v = vmm();
    v.attach(v.parent);
    expect(v.domainOf(v.parent).iovaToPhys(0x800_0040n)).toBe(DOORBELL + 0x40);
  });

  test('reserve their window: what is mapped there keeps the device out, and nothing is mapped there later', () => {
    const v = vmm({ withUpcalls: false, swMsi: { start: WINDOW, bytes: 0x1000 } });
    expect(v.map(WINDOW, 0x1000)).toBe(0);
    expect(v.attach(v.parent)).toBe(EADDRINUSE);
    const w = vmm({ withUpcalls: false, swMsi: { start: WINDOW, bytes: 0x1000 } });
    w.attach(w.parent);
    expect(w.map(WINDOW, 0x1000)).toBe(EINVAL);
    expect(w.map(WINDOW + 0x1000, 0x1000)).toBe(0);
  });
});

test('memory comes into a live parent and leaves it again, with the invalidations that takes', () => {
  const v = vmm();
  v.vdevice();
  v.attach(v.nested(0xbn, 1n << 28n));
  v.map(0x4000_0000, 0x20_0000);
  expect(v.domainOf(v.parent).iovaToPhys(0x4000_1234n)).toBe(2 ** 40 + 0x4000_1234);
  v.hw.take();
  expect(v.fd.ioasUnmap({ ioasId: v.ioas, iova: 0x4000_0000n, length: 0x20_0000n })).toBe(0);
  expect(v.hw.ops()).toBe('TLBI_S2_IPA | TLBI_NH_ALL | ATC_INV |');
  expect(v.domainOf(v.parent).iovaToPhys(0x4000_1234n)).toBe(-1);
});

test('an IOAS attached as it is becomes a stage 1 of the kernel, which goes with its last device', () => {
  const v = vmm();
  const used = v.memory.pagesUsed;
  expect(v.attach(v.ioas)).toBe(0);
  expect(v.ste(8)[0]! & 0xf).toBe(0xb);
  v.vfio.detach(NO_PASID);
  // The device keeps its CD table, as the kernel does.
  expect(v.memory.pagesUsed).toBe(used + 1);
});

test('GET_HW_INFO tells about ATS in its inverted bit, and about PASIDs', () => {
  const v = vmm();
  const info = (devId: number) => {
    const c = { flags: 0, devId, dataLen: 0, data: null, dataType: 0, outMaxPasidLog2: 0, outCapabilities: 0n };
    expect(v.fd.getHwInfo(c)).toBe(0);
    return [c.dataType, c.dataLen, c.outCapabilities];
  };
  expect(info(v.vfio.devId)).toEqual([2, 40, 0n]);
  const plain = v.device('plain', [9], { ats: false });
  const vfio = new VfioFile(plain);
  vfio.bind(v.fd);
  expect(info(vfio.devId)).toEqual([2, 40, 8n]);
});

test('a stalled guest access is answered through the fault queue: retry for SUCCESS, abort for INVALID', () => {
  const idr = [0x0c44_141b, 0x0273_0010, 0, 0x1414, 0, 0x74] as const;
  const v = vmm({ withUpcalls: false, identity: { idr, iidr: 0, aidr: 1 }, canStall: () => true });
  const q = { flags: 0, outFaultId: 0, outFd: null as EventFd | null };
  expect(v.fd.faultQueueAlloc(q)).toBe(0);
  v.vdevice();
  const data = vste(0xbn, 0n);
  const c = {
    flags: HWPT_FLAG.FAULT_ID_VALID,
    devId: v.vfio.devId,
    ptId: v.viommu,
    outHwptId: 0,
    reserved: 0,
    dataType: data.type,
    data: data.user,
    faultId: q.outFaultId,
  };
  expect(v.fd.hwptAlloc(c)).toBe(0);
  expect(v.attach(c.outHwptId)).toBe(0);
  v.hw.take();
  for (const [code, resp] of [
    [0, 1],
    [1, 2],
  ] as const) {
    // F_TRANSLATION, SSID 9, Stall with STAG 0x77, a write to 0x5000.
    v.driver.events.fault(Int32Array.of(0x10 | (1 << 11) | (9 << 12), 8, (1 << 31) | 0x77, 2 << 8, 0x5000, 0, 0, 0));
    const record = new Uint8Array(40);
    expect(q.outFd!.read(record)).toBe(40);
    const w = new Uint32Array(record.buffer);
    // PASID_VALID and LAST_PAGE, device, PASID, group, write, address, cookie.
    expect([...w]).toEqual([3, v.vfio.devId, 9, 0x77, 2, 0, 0x5000, 0, 0, 1]);
    expect(q.outFd!.write(new Uint8Array(Uint32Array.of(w[9]!, code).buffer))).toBe(8);
    expect(v.hw.take()[0]).toMatchObject({ command: { op: 'RESUME', sid: 8, stag: 0x77, resp } });
  }
});
