import { expect } from 'vitest';
import { IommufdFile } from '../../../src/host/iommufd/file.ts';
import { VfioFile } from '../../../src/host/iommufd/vfio-device.ts';
import type { KernelDevice } from '../../../src/host/kernel/device.ts';
import { ContextUpcalls, objectsOf } from '../../../src/host/upcalls/context-upcalls.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { HWPT_DATA, HWPT_FLAG, VIOMMU_TYPE } from '../../../src/spec/iommufd/uapi.ts';
import { encodeEvent } from '../../../src/spec/smmuv3/events.ts';
import { bench, vste } from '../smmuv3/bench.ts';

export const VSID = 0x88;

/** A guest's device behind a vSMMU, everything made through the iommufd verbs. `linux`: the switch `linux-only`. */
export function stand(linux: boolean, streams: readonly number[] = [8], group?: string) {
  const b = bench({ withUpcalls: !linux });
  const dev = b.device('nic', streams, { pri: true, ...(group === undefined ? {} : { group }) });
  const fd: IommufdFile = new IommufdFile(b.kernel, { pin: () => false, hpa: 0, run: 0 });
  const vfio = new VfioFile(dev);
  expect(vfio.bind(fd)).toBe(0);
  const ioas = { flags: 0, outIoasId: 0 };
  fd.ioasAlloc(ioas);
  const hwpt = (flags: number, ptId: number, data: ReturnType<typeof vste> | null) => {
    const c = {
      flags,
      devId: vfio.devId,
      ptId,
      outHwptId: 0,
      reserved: 0,
      dataType: data === null ? HWPT_DATA.NONE : data.type,
      data: data === null ? null : data.user,
      faultId: 0,
    };
    expect(fd.hwptAlloc(c)).toBe(0);
    return c.outHwptId;
  };
  const parent = hwpt(HWPT_FLAG.NEST_PARENT, ioas.outIoasId, null);
  const v = { flags: 0, type: VIOMMU_TYPE.ARM_SMMUV3, devId: vfio.devId, hwptId: parent, outViommuId: 0, data: null };
  expect(fd.viommuAlloc(v)).toBe(0);
  const viommu = v.outViommuId;
  const vdevice = (virtId = BigInt(VSID)) => {
    const c = { viommuId: viommu, devId: vfio.devId, outVdeviceId: 0, virtId };
    return { r: fd.vdeviceAlloc(c), id: c.outVdeviceId };
  };
  const upcalls = linux ? null : new ContextUpcalls(b.hub, objectsOf(fd.context));
  return {
    ...b,
    dev: dev as KernelDevice,
    fd,
    vfio,
    parent,
    viommu,
    vdevice,
    upcalls,
    nested: (w0: bigint, w1 = 0n) => hwpt(0, viommu, vste(w0, w1)),
    attach: (id: number) => vfio.attach(id, NO_PASID),
    invalidate: (...words: readonly number[][]) =>
      fd.invalidate(viommu, 1, Int32Array.from(words.flat()), 0, 16, words.length),
  };
}

export function fault(type: number, sid: number, w3 = 0): Int32Array {
  const e = new Int32Array(8);
  encodeEvent(e, 0, type, sid, -1, w3, 0x1000, 0, 0x2000, 0);
  return e;
}
