import { ViommuError } from '../../../core/errors.ts';
import { NO_PASID } from '../../../ports/dma.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { MOCK } from '../../../spec/iommufd/selftest.ts';
import { attachDevice, detachDevice, replaceDevice } from '../../iommufd/attach.ts';
import { bindDevice, unbindDevice } from '../../iommufd/bind.ts';
import { type IommufdContext, type Respond, respondAlways } from '../../iommufd/context.ts';
import type { IommufdDevice } from '../../iommufd/device.ts';
import type { IommufdFile } from '../../iommufd/file.ts';
import { IOVA_LAST } from '../../iommufd/ioas/ranges.ts';
import type { ForeignObject } from '../../iommufd/object.ts';
import type { DeviceDescription, KernelDevice } from '../../kernel/device.ts';
import { MockNested, MockPaging } from './domains.ts';
import type { MockDriver } from './driver.ts';

/** A SELFTEST object: a mock device that exists, is bound and attached. */
export interface SelftestObject extends ForeignObject {
  readonly device: IommufdDevice;
}

/** The answer of `mockDevice`. */
export interface MockDeviceIds {
  /** Id of the selftest's object. */
  stdevId: number;
  /** Id of the HWPT it was attached to. */
  hwptId: number;
  /** The iommufd device id. */
  idevId: number;
}

/** IOMMU_TEST_CMD of one iommufd: what makes mock devices, moves them and looks behind the mock's scenes. */
export class MockCommands {
  readonly #context: IommufdContext;
  readonly #driver: MockDriver;
  /** The HWPT at which the last successful attach or replace ended. */
  ptId = 0;

  /** @param file the /dev/iommu the commands come through. @param driver the kernel's mock driver. */
  constructor(file: IommufdFile, driver: MockDriver) {
    this.#context = file.context;
    this.#driver = driver;
  }

  #selftest(id: number): SelftestObject | null {
    return this.#context.objects.get(id, 'foreign') as SelftestObject | null;
  }

  /** MOCK_DOMAIN_FLAGS: ids are taken in the order SELFTEST, DEVICE, automatic HWPT. */
  mockDevice(ptId: number, flags: number, out: MockDeviceIds, respond: Respond = respondAlways): number {
    const { objects, kernel } = this.#context;
    const id = objects.reserve();
    if (id === 0) return -E.NOMEM;
    const description = this.#driver.describe(flags);
    if (typeof description === 'number') {
      objects.release(id);
      return description;
    }
    const dev = this.#plug(description);
    if (typeof dev === 'number') {
      objects.release(id);
      return dev;
    }
    const device = bindDevice(this.#context, dev);
    const hwptId = typeof device === 'number' ? device : attachDevice(this.#context, device, 0, ptId);
    if (typeof device === 'number' || hwptId < 0) {
      if (typeof device !== 'number') unbindDevice(this.#context, device);
      kernel.removeDevice(dev, true);
      objects.release(id);
      return hwptId;
    }
    const object: SelftestObject = {
      kind: 'foreign',
      id,
      users: 0,
      device,
      destroy: () => {
        for (const pasid of device.attachedPasids()) detachDevice(this.#context, device, pasid);
        unbindDevice(this.#context, device);
        kernel.removeDevice(dev);
      },
    };
    out.stdevId = id;
    out.hwptId = hwptId;
    out.idevId = device.id;
    return this.#context.finish(object, respond) ? 0 : -E.FAULT;
  }

  /** The device, or -errno. */
  #plug(description: DeviceDescription): KernelDevice | number {
    try {
      return this.#context.kernel.addDevice(description);
    } catch (e) {
      if (e instanceof ViommuError && typeof e.at.errno === 'number') return -e.at.errno;
      throw e;
    }
  }

  /** @param r a HWPT's id or -errno. @returns 0 or -errno. */
  #changed(r: number): number {
    if (r < 0) return r;
    this.ptId = r;
    return 0;
  }

  /** MOCK_DOMAIN_REPLACE. On 0 `ptId` is what is attached, here and below. */
  replace(stdevId: number, ptId: number): number {
    const s = this.#selftest(stdevId);
    return s === null ? -E.NOENT : this.#changed(replaceDevice(this.#context, s.device, 0, ptId));
  }

  /** IOMMU_TEST_OP_PASID_ATTACH. @returns 0 or -errno; `ptId` is what is attached. */
  pasidAttach(stdevId: number, pasid: number, ptId: number, respond: Respond = respondAlways): number {
    const s = this.#selftest(stdevId);
    if (s === null) return -E.NOENT;
    const r = this.#changed(attachDevice(this.#context, s.device, pasid, ptId));
    if (r !== 0 || respond()) return r;
    detachDevice(this.#context, s.device, pasid);
    return -E.FAULT;
  }

  /** IOMMU_TEST_OP_PASID_REPLACE. @returns 0 or -errno; `ptId` is what is attached. */
  pasidReplace(stdevId: number, pasid: number, ptId: number): number {
    const s = this.#selftest(stdevId);
    return s === null ? -E.NOENT : this.#changed(replaceDevice(this.#context, s.device, pasid, ptId));
  }

  /** IOMMU_TEST_OP_PASID_DETACH. @returns 0 or -errno. */
  pasidDetach(stdevId: number, pasid: number): number {
    const s = this.#selftest(stdevId);
    if (s === null) return -E.NOENT;
    detachDevice(this.#context, s.device, pasid);
    return 0;
  }

  /** Whether the HWPT (0: nothing) is what the PASID has. */
  pasidCheck(stdevId: number, pasid: number, hwptId: number): number {
    const s = this.#selftest(stdevId);
    if (s === null) return -E.NOENT;
    const attached = s.device.attachedTo(pasid);
    if (hwptId === 0) return attached === null ? 0 : -E.INVAL;
    const o = this.#context.objects.any(hwptId);
    if (o === null) return -E.NOENT;
    return o === attached ? 0 : -E.INVAL;
  }

  /** IOMMU_TEST_OP_TRIGGER_VEVENT. @returns 0 or -errno. */
  triggerVevent(devId: number): number {
    const device = this.#context.objects.get(devId, 'device');
    if (device === null) return -E.NOENT;
    const { viommu, virtId } = this.#driver.state(device.dev);
    if (viommu === null || virtId === 0n) return -E.NOENT;
    const data = new Uint8Array(4);
    new DataView(data.buffer).setUint32(0, Number(virtId & 0xffff_ffffn), true);
    return viommu.services.reportEvent(MOCK.VEVENTQ, data);
  }

  /** IOMMU_TEST_OP_TRIGGER_IOPF: the device asks for a page. @returns 0 or -errno. */
  triggerIopf(devId: number, pasid: number, grpid: number, perm: number, addr: bigint): number {
    const device = this.#context.objects.get(devId, 'device');
    if (device === null) return -E.NOENT;
    this.#context.kernel.reportFault(device.dev, {
      pasid: pasid === 0 ? NO_PASID : pasid,
      grpid,
      perm,
      last: true,
      addrLo: Number(addr & 0xffff_ffffn),
      addrHi: Number(addr >> 32n),
    });
    return 0;
  }

  /** IOMMU_TEST_OP_ADD_RESERVED. @returns 0 or -errno. */
  addReserved(ioasId: number, start: bigint, length: bigint): number {
    if (length === 0n) return -E.INVAL;
    const last = start + length - 1n;
    if (last > IOVA_LAST) return -E.OVERFLOW;
    const ioas = this.#context.objects.get(ioasId, 'ioas');
    return ioas === null ? -E.NOENT : ioas.reserve(start, last, TEST_OWNER);
  }

  /** IOMMU_TEST_OP_MD_CHECK_IOTLB: whether a word of a nested HWPT's fake IOTLB is `value`. @returns 0 or -EINVAL. */
  checkIotlb(hwptId: number, index: number, value: number): number {
    const hwpt = this.#context.objects.get(hwptId, 'hwpt_nested');
    if (hwpt === null) return -E.NOENT;
    const { domain } = hwpt;
    return domain instanceof MockNested && domain.iotlb[index] === value ? 0 : -E.INVAL;
  }

  /** IOMMU_TEST_OP_DEV_CHECK_CACHE: whether a word of a device's fake cache is `value`. @returns 0 or -EINVAL. */
  checkCache(devId: number, index: number, value: number): number {
    const device = this.#context.objects.get(devId, 'device');
    if (device === null) return -E.NOENT;
    return this.#driver.state(device.dev).cache[index] === value ? 0 : -E.INVAL;
  }

  /** @internal The mock domain behind a paging HWPT; -ENOENT, -EINVAL. */
  pagingDomain(hwptId: number): MockPaging | number {
    const hwpt = this.#context.objects.get(hwptId, 'hwpt_paging');
    if (hwpt === null) return -E.NOENT;
    return hwpt.domain instanceof MockPaging ? hwpt.domain : -E.INVAL;
  }
}

/** Owner of regions that only the test reserves: they stay as long as the IOAS. */
const TEST_OWNER = { name: 'selftest' };
