import { describe, expect, test } from 'vitest';
import { IommufdFile } from '../../../src/host/iommufd/file.ts';
import { VfioFile } from '../../../src/host/iommufd/vfio-device.ts';
import { ContextUpcalls, objectsOf } from '../../../src/host/upcalls/context-upcalls.ts';
import { FailNth } from '../../../src/lib/inject/failure-plans.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { FAILURE_STEP } from '../../../src/ports/failures.ts';
import type { HwptAlloc, UserMemory } from '../../../src/ports/iommufd.ts';
import { HWPT_DATA, HWPT_FLAG } from '../../../src/spec/iommufd/uapi.ts';
import { Bench, firstStageData, RAM, userData } from '../vtd/bench.ts';

const RIDS = [0x10, 0x18, 0x19];
const IOVA = 0x7000n;
const ENOENT = -2;
const EBUSY = -16;
const EINVAL = -22;
const EOPNOTSUPP = -95;
/** The PASID entry is not present. */
const NOTHING = -0x59;

/** A VMM with guest RAM at 0, a device with three requester ids, and guest tables that map IOVA to a page each. */
function vmm(upcalls = true) {
  const b = new Bench({ upcalls });
  const memory: UserMemory = {
    hpa: 0,
    run: 0,
    pin(va, bytes) {
      Object.assign(this, { hpa: b.hpa + Number(va), run: Number(bytes) });
      return va + bytes <= BigInt(RAM);
    },
  };
  const fd = new IommufdFile(b.kernel, memory);
  const up = new ContextUpcalls(b.hub, objectsOf(fd.context));
  const ioasAlloc = () => {
    const ioas = { flags: 0, outIoasId: 0 };
    fd.ioasAlloc(ioas);
    expect(
      fd.ioasMap({ flags: 7, ioasId: ioas.outIoasId, reserved: 0, userVa: 0n, length: BigInt(RAM), iova: 0n }),
    ).toBe(0);
    return ioas.outIoasId;
  };
  const vfio = new VfioFile(b.device('nic', RIDS));
  expect(vfio.bind(fd)).toBe(0);
  const hwpt = (ptId: number, flags: number, data: Uint8Array | null = null, faultId = 0): number => {
    const c: HwptAlloc = {
      flags,
      devId: vfio.devId,
      ptId,
      outHwptId: 0,
      reserved: 0,
      dataType: data === null ? HWPT_DATA.NONE : HWPT_DATA.VTD_S1,
      data: data === null ? null : userData(data),
      faultId,
    };
    expect(fd.hwptAlloc(c)).toBe(0);
    return c.outHwptId;
  };
  const ioasId = ioasAlloc();
  const parent = hwpt(ioasId, HWPT_FLAG.NEST_PARENT | HWPT_FLAG.PASID);
  const nested = [0, 1].map((n) => {
    const root = 0x1_0000 * (n + 1);
    b.guestMap(root, IOVA, BigInt(0x5000 + 0x1000 * n));
    return hwpt(parent, HWPT_FLAG.PASID, firstStageData(BigInt(root)));
  });
  const to = (stream: number, id: number, pasid = NO_PASID) => up.attachStream(vfio.devId, stream, id, pasid);
  const reach = (pasid = NO_PASID) => RIDS.map((rid) => b.dma(IOVA, rid, pasid));
  return { b, fd, up, vfio, ioasId, ioasAlloc, hwpt, parent, nested: nested as [number, number], to, reach };
}

describe('single requester ids of a device on a VT-d host (attachStream)', () => {
  test('each have what they are attached to, and nothing of the others', () => {
    const v = vmm();
    const [a, b] = v.nested;
    expect([v.to(0, a), v.to(1, b)]).toEqual([0, 0]);
    expect(v.reach()).toEqual([0x5000, 0x6000, NOTHING]);
    expect([v.to(2, v.parent), v.to(0, b)]).toEqual([0, 0]);
    expect(v.reach()).toEqual([0x6000, 0x6000, 0x7000]);
    expect([v.to(1, 0), v.reach()]).toEqual([0, [0x6000, NOTHING, 0x7000]]);
  });

  test('have PASIDs of their own', () => {
    const v = vmm();
    const [a, b] = v.nested;
    expect([v.to(0, a, 5), v.to(1, b, 5), v.to(1, a, 6)]).toEqual([0, 0, 0]);
    expect([v.reach(5), v.reach(6), v.reach()]).toEqual([
      [0x5000, 0x6000, NOTHING],
      [NOTHING, 0x5000, NOTHING],
      [NOTHING, NOTHING, NOTHING],
    ]);
    expect([v.to(1, 0, 5), v.reach(5)]).toEqual([0, [0x5000, NOTHING, NOTHING]]);
  });

  test('a replacement invalidates that requester id alone, ATC included', () => {
    const v = vmm();
    const [a, b] = v.nested;
    for (const i of [0, 1]) v.to(i, a);
    expect(v.reach()).toEqual([0x5000, 0x5000, NOTHING]);
    v.b.functions.invalidations.length = 0;
    expect(v.to(1, b)).toBe(0);
    expect([...new Set(v.b.functions.invalidations.map((i) => i.rid))]).toEqual([RIDS[1]]);
    expect(v.reach()).toEqual([0x5000, 0x6000, NOTHING]);
  });

  test('hold what they are attached to, and let go of it with the device', () => {
    const v = vmm();
    const [a, b] = v.nested;
    v.to(0, a);
    v.to(1, a, 5);
    expect(v.fd.destroy(a)).toBe(EBUSY);
    v.to(0, b);
    expect(v.fd.destroy(a)).toBe(EBUSY);
    v.to(1, 0, 5);
    expect([v.fd.destroy(a), v.fd.destroy(b)]).toEqual([0, EBUSY]);
    v.vfio.close();
    expect([v.fd.destroy(b), v.reach()]).toEqual([0, [NOTHING, NOTHING, NOTHING]]);
  });

  test('a device is attached as a whole or by single requester ids, never both', () => {
    const v = vmm();
    const [a, b] = v.nested;
    expect(v.vfio.attach(a, NO_PASID)).toBe(0);
    expect([v.to(0, b), v.reach()]).toEqual([EBUSY, [0x5000, 0x5000, 0x5000]]);
    expect([v.vfio.detach(NO_PASID), v.to(0, b), v.vfio.attach(a, NO_PASID)]).toEqual([0, 0, EBUSY]);
    expect(v.reach()).toEqual([0x6000, NOTHING, NOTHING]);
    expect([v.to(0, 0), v.vfio.attach(a, NO_PASID), v.reach()]).toEqual([0, 0, [0x5000, 0x5000, 0x5000]]);
  });

  test('what is not there is refused, and what is attached stays', () => {
    const v = vmm();
    const [a] = v.nested;
    expect(v.to(0, a)).toBe(0);
    const queue = { flags: 0, outFaultId: 0, outFd: null };
    v.fd.faultQueueAlloc(queue);
    const asking = v.hwpt(
      v.parent,
      HWPT_FLAG.PASID | HWPT_FLAG.FAULT_ID_VALID,
      firstStageData(0x1_0000n),
      queue.outFaultId,
    );
    const noPasids = v.hwpt(v.ioasAlloc(), 0);
    expect([
      v.up.attachStream(12345, 0, a),
      v.to(3, a),
      v.to(-1, a),
      v.to(0, 12345),
      v.to(0, v.ioasId),
      v.to(0, asking),
      v.to(0, noPasids, 5),
      v.to(0, a, 2 ** 20),
    ]).toEqual([ENOENT, EINVAL, EINVAL, EINVAL, EINVAL, EOPNOTSUPP, EINVAL, EINVAL]);
    expect(v.reach()).toEqual([0x5000, NOTHING, NOTHING]);
  });

  test.each([0, 1])(
    'the n-th allocation of an attach fails, for every n, after %i attached: nothing has changed',
    (before) => {
      for (let n = 1; ; n++) {
        const v = vmm();
        const [a, b] = v.nested;
        if (before === 1) v.to(0, a);
        const { memory } = v.b;
        const [pages, reach] = [memory.pagesUsed, v.reach()];
        const plan = new FailNth(n);
        memory.failures = plan;
        const r = v.to(1, b);
        memory.failures = null;
        if (r === 0) {
          expect([n > 1, v.reach()[1]]).toEqual([true, 0x6000]);
          break;
        }
        const errno = plan.failed === FAILURE_STEP.ID ? -28 : -12;
        expect([n, r, v.reach(), memory.pagesUsed]).toEqual([n, errno, reach, pages]);
        expect([v.to(1, b), v.reach()[1]]).toEqual([0, 0x6000]);
      }
    },
  );
});
