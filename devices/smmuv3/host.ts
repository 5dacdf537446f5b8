import { NO_PASID } from '../../src/ports/dma.ts';
import type { EventFd, Iommufd, UserData, VfioDevice } from '../../src/ports/iommufd.ts';
import {
  HW_INFO,
  HW_INFO_FLAG,
  HWPT_DATA,
  HWPT_FLAG,
  INVALIDATE_DATA,
  IOAS_MAP_FLAG,
  VEVENTQ_TYPE,
  VIOMMU_TYPE,
} from '../../src/spec/iommufd/uapi.ts';
import { COMMAND_BYTES } from '../../src/spec/smmuv3/commands.ts';

/** struct iommu_hw_info_arm_smmuv3: flags, reserved, idr[6], iidr, aidr. */
const HW_INFO_WORDS = 10;

/** Driver data of an ioctl that lives in this process. */
class Bytes implements UserData {
  readonly #bytes: Uint8Array;

  constructor(words: ArrayLike<number>) {
    this.#bytes = new Uint8Array(Int32Array.from(words).buffer);
  }

  get length(): number {
    return this.#bytes.length;
  }

  words(): Uint32Array {
    return new Uint32Array(this.#bytes.buffer);
  }

  copyIn(offset: number, into: Uint8Array): boolean {
    if (offset + into.length > this.#bytes.length) return false;
    into.set(this.#bytes.subarray(offset, offset + into.length));
    return true;
  }

  copyOut(offset: number, from: Uint8Array): boolean {
    if (offset + from.length > this.#bytes.length) return false;
    this.#bytes.set(from, offset);
    return true;
  }
}

/**
 * The host verbs a vSMMUv3 uses, each with what never varies filled in. Results are an object id (> 0) or 0, else -errno.
 */
export class HostCalls {
  readonly #fd: Iommufd;

  constructor(fd: Iommufd) {
    this.#fd = fd;
  }

  bind(vfio: VfioDevice): number {
    return vfio.devId > 0 ? 0 : vfio.bind(this.#fd);
  }

  /** GET_HW_INFO of the SMMU a device is behind. @returns IDR0 to IDR5, or -errno. */
  identity(devId: number): Uint32Array | number {
    const data = new Bytes(new Int32Array(HW_INFO_WORDS));
    const c = {
      flags: HW_INFO_FLAG.INPUT_TYPE,
      devId,
      dataLen: data.length,
      data,
      dataType: HW_INFO.ARM_SMMUV3,
      outMaxPasidLog2: 0,
      outCapabilities: 0n,
    };
    const r = this.#fd.getHwInfo(c);
    return r < 0 ? r : data.words().subarray(2, 8);
  }

  attach(vfio: VfioDevice, hwptId: number): number {
    return vfio.attach(hwptId, NO_PASID);
  }

  detach(vfio: VfioDevice): number {
    return vfio.detach(NO_PASID);
  }

  destroy(id: number): number {
    return this.#fd.destroy(id);
  }

  ioas(): number {
    const c = { flags: 0, outIoasId: 0 };
    const r = this.#fd.ioasAlloc(c);
    return r < 0 ? r : c.outIoasId;
  }

  /** A stage 2 over an IOAS that nested HWPTs can stand on. */
  nestParent(devId: number, ioasId: number): number {
    return this.#hwpt(devId, ioasId, HWPT_FLAG.NEST_PARENT, HWPT_DATA.NONE, null);
  }

  /** @param vste the first two 64-bit words of the STE, as four words. */
  nested(devId: number, viommuId: number, vste: ArrayLike<number>): number {
    return this.#hwpt(devId, viommuId, 0, HWPT_DATA.ARM_SMMUV3, new Bytes(vste));
  }

  #hwpt(devId: number, ptId: number, flags: number, dataType: number, data: UserData | null): number {
    const c = { flags, devId, ptId, outHwptId: 0, reserved: 0, dataType, data, faultId: 0 };
    const r = this.#fd.hwptAlloc(c);
    return r < 0 ? r : c.outHwptId;
  }

  viommu(devId: number, hwptId: number): number {
    const c = { flags: 0, type: VIOMMU_TYPE.ARM_SMMUV3, devId, hwptId, outViommuId: 0, data: null };
    const r = this.#fd.viommuAlloc(c);
    return r < 0 ? r : c.outViommuId;
  }

  vdevice(viommuId: number, devId: number, vsid: number): number {
    const c = { viommuId, devId, outVdeviceId: 0, virtId: BigInt(vsid) };
    const r = this.#fd.vdeviceAlloc(c);
    return r < 0 ? r : c.outVdeviceId;
  }

  /** @returns the queue with its file, or -errno. */
  veventq(viommuId: number, depth: number): { id: number; fd: EventFd } | number {
    const c = {
      flags: 0,
      viommuId,
      type: VEVENTQ_TYPE.ARM_SMMUV3,
      depth,
      reserved: 0,
      outVeventqId: 0,
      outFd: null as EventFd | null,
    };
    const r = this.#fd.veventqAlloc(c);
    return r < 0 || c.outFd === null ? r : { id: c.outVeventqId, fd: c.outFd };
  }

  map(ioasId: number, userVa: bigint, iova: number, length: number, read: boolean, write: boolean): number {
    const flags =
      IOAS_MAP_FLAG.FIXED_IOVA | (read ? IOAS_MAP_FLAG.READABLE : 0) | (write ? IOAS_MAP_FLAG.WRITEABLE : 0);
    return this.#fd.ioasMap({ flags, ioasId, reserved: 0, userVa, length: BigInt(length), iova: BigInt(iova) });
  }

  unmap(ioasId: number, iova: number, length: number): number {
    return this.#fd.ioasUnmap({ ioasId, iova: BigInt(iova), length: BigInt(length) });
  }

  /** Empties an IOAS. */
  unmapAll(ioasId: number): number {
    return this.#fd.ioasUnmap({ ioasId, iova: 0n, length: 0xffff_ffff_ffff_ffffn });
  }

  /** @returns 0 or -errno; `invalidated` is the kernel's count. */
  invalidate(viommuId: number, words: Int32Array, start: number, count: number): number {
    const type = INVALIDATE_DATA.VIOMMU_ARM_SMMUV3;
    return this.#fd.invalidate(viommuId, type, words, start, COMMAND_BYTES, count);
  }

  get invalidated(): number {
    return this.#fd.invalidated;
  }
}
