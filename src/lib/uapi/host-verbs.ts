import { NO_PASID } from '../../ports/dma.ts';
import type { EventFd, IoasMap, IoasUnmap, Iommufd, VfioDevice } from '../../ports/iommufd.ts';
import { E } from '../../spec/iommufd/errno.ts';
import {
  HW_INFO,
  HW_INFO_FLAG,
  HWPT_DATA,
  HWPT_FLAG,
  INVALIDATE_DATA,
  IOAS_MAP_FLAG,
  VEVENTQ_TYPE,
  VIOMMU_TYPE,
} from '../../spec/iommufd/uapi.ts';
import { VerbData } from './verb-data.ts';

/**
 * What a host verb answers: the id of a new object (> 0) or 0, and a refusal as -errno (< 0). No outcome may be dropped
 * (a test looks for that): a device tells its guest or its caller, and what it only gives back goes through `release`.
 */
export type VerbOutcome = number;

/** A queue of the host with its file, when one could be made. */
export interface HostQueue {
  readonly id: number;
  readonly fd: EventFd;
}

/** struct iommu_hw_info_arm_smmuv3: flags, reserved, idr[6], iidr, aidr. */
const SMMUV3_INFO_WORDS = 10;
/** struct iommu_hwpt_vtd_s1: flags (8 bytes), pgtbl_addr (8), addr_width (4), reserved (4). */
const VTD_S1_BYTES = 24;
const SMMUV3_COMMAND_BYTES = 16;
const VTD_S1_INVALIDATE_BYTES = 24;
const EVERYTHING = 0xffff_ffff_ffff_ffffn;

/** Units of work of verbs that make, move or end something. What invalidations cost their callers know. */
const VERB_WORK = { ATTACH: 24, DETACH: 32, ALLOC: 40, DESTROY: 24 } as const;

/**
 * The verbs of iommufd and VFIO that a virtual IOMMU uses, each with what never varies filled in
 * (include/uapi/linux/iommufd.h). The verbs of the invalidation path (`map`, `unmap`, `unmapAll`, `invalidate…`) use one
 * request over and over instead of a new object each.
 */
export class HostVerbs {
  readonly #iommufd: Iommufd;
  readonly #map: IoasMap = { flags: 0, ioasId: 0, reserved: 0, userVa: 0n, length: 0n, iova: 0n };
  readonly #unmap: IoasUnmap = { ioasId: 0, iova: 0n, length: 0n };
  readonly #spend: (units: number) => void;
  /** Objects that the host did not take back, in the order in which it has to take them. */
  #kept: number[] = [];

  /** @param spend counts what each verb costs, in units of work. */
  constructor(iommufd: Iommufd, spend: (units: number) => void = () => {}) {
    this.#iommufd = iommufd;
    this.#spend = spend;
  }

  /** Binds a device file that nobody has bound yet. */
  bind(vfio: VfioDevice): VerbOutcome {
    return vfio.devId > 0 ? 0 : vfio.bind(this.#iommufd);
  }

  /** Attaches a device, or one PASID of it, to a HWPT; what was attached there before is replaced. */
  attach(vfio: VfioDevice, hwptId: number, pasid: number = NO_PASID): VerbOutcome {
    this.#spend(VERB_WORK.ATTACH);
    return vfio.attach(hwptId, pasid);
  }

  detach(vfio: VfioDevice, pasid: number = NO_PASID): VerbOutcome {
    this.#spend(VERB_WORK.DETACH);
    return vfio.detach(pasid);
  }

  /** IDR0 to IDR5 of the SMMU a device is behind, or -errno. */
  smmuv3Info(devId: number): Uint32Array | VerbOutcome {
    const words = new Uint32Array(SMMUV3_INFO_WORDS);
    const r = this.#hwInfo(devId, HW_INFO.ARM_SMMUV3, words).outcome;
    return r < 0 ? r : words.subarray(2, 8);
  }

  /** log2 of the PASIDs a device can use on its host (0: none), or -errno. */
  pasidBits(devId: number): VerbOutcome {
    const { outcome, pasidBits } = this.#hwInfo(devId, HW_INFO.NONE, null);
    return outcome < 0 ? outcome : pasidBits;
  }

  #hwInfo(devId: number, type: number, words: Uint32Array | null): { outcome: VerbOutcome; pasidBits: number } {
    const data = words === null ? null : new VerbData(new Uint8Array(words.buffer));
    const c = {
      flags: type === HW_INFO.NONE ? 0 : HW_INFO_FLAG.INPUT_TYPE,
      devId,
      dataLen: data?.length ?? 0,
      data,
      dataType: type,
      outMaxPasidLog2: 0,
      outCapabilities: 0n,
    };
    const outcome = this.#iommufd.getHwInfo(c);
    return { outcome, pasidBits: c.outMaxPasidLog2 };
  }

  destroy(id: number): VerbOutcome {
    this.#spend(VERB_WORK.DESTROY);
    return this.#iommufd.destroy(id);
  }

  /**
   * Gives an object back that nothing stands on any more. There is nobody to tell of a refusal, since nothing is wrong for
   * the guest: the host keeps the object, and it is given back again with the next one.
   */
  release(id: number): void {
    this.#kept.push(id);
    this.#kept = this.#kept.filter((kept) => this.destroy(kept) < 0);
  }

  /** Objects that the host refused to take back. */
  get kept(): readonly number[] {
    return this.#kept;
  }

  ioasAlloc(): VerbOutcome {
    const c = { flags: 0, outIoasId: 0 };
    this.#spend(VERB_WORK.ALLOC);
    const r = this.#iommufd.ioasAlloc(c);
    return r < 0 ? r : c.outIoasId;
  }

  /** A HWPT that translates with what is mapped in an IOAS. @param flags HWPT_FLAG. */
  pagingHwpt(devId: number, ioasId: number, flags: number): VerbOutcome {
    return this.#hwptAlloc(devId, ioasId, flags, HWPT_DATA.NONE, null, 0);
  }

  /** A stage-1 context of a guest. @param vste the first two 64-bit words of its STE, as four words. */
  nestedSmmuv3(devId: number, viommuId: number, vste: ArrayLike<number>): VerbOutcome {
    const bytes = new Uint8Array(Int32Array.from(vste).buffer);
    return this.#hwptAlloc(devId, viommuId, 0, HWPT_DATA.ARM_SMMUV3, bytes, 0);
  }

  /**
   * A first-stage table of a guest on a nest parent.
   * @param flags HWPT_FLAG. @param s1 `flags` VTD_S1_FLAG; `root` bytes; `width` of its input addresses in bits.
   * @param faultId the host's fault queue for its page requests; 0: none.
   */
  nestedVtd(
    devId: number,
    parentId: number,
    flags: number,
    s1: { readonly flags: number; readonly root: number; readonly width: number },
    faultId: number,
  ): VerbOutcome {
    const data = new DataView(new ArrayBuffer(VTD_S1_BYTES));
    data.setUint32(0, s1.flags, true);
    data.setBigUint64(8, BigInt(s1.root), true);
    data.setUint32(16, s1.width, true);
    return this.#hwptAlloc(devId, parentId, flags, HWPT_DATA.VTD_S1, new Uint8Array(data.buffer), faultId);
  }

  #hwptAlloc(
    devId: number,
    ptId: number,
    flags: number,
    dataType: number,
    bytes: Uint8Array | null,
    faultId: number,
  ): VerbOutcome {
    const c = {
      flags: flags | (faultId > 0 ? HWPT_FLAG.FAULT_ID_VALID : 0),
      devId,
      ptId,
      outHwptId: 0,
      reserved: 0,
      dataType,
      data: bytes === null ? null : new VerbData(bytes),
      faultId,
    };
    this.#spend(VERB_WORK.ALLOC);
    const r = this.#iommufd.hwptAlloc(c);
    return r < 0 ? r : c.outHwptId;
  }

  /** A virtual SMMUv3 on a nest parent. */
  smmuv3Viommu(devId: number, hwptId: number): VerbOutcome {
    const c = { flags: 0, type: VIOMMU_TYPE.ARM_SMMUV3, devId, hwptId, outViommuId: 0, data: null };
    this.#spend(VERB_WORK.ALLOC);
    const r = this.#iommufd.viommuAlloc(c);
    return r < 0 ? r : c.outViommuId;
  }

  /** @param virtId the guest's name of the device: its StreamID. */
  vdevice(viommuId: number, devId: number, virtId: number): VerbOutcome {
    const c = { viommuId, devId, outVdeviceId: 0, virtId: BigInt(virtId) };
    this.#spend(VERB_WORK.ALLOC);
    const r = this.#iommufd.vdeviceAlloc(c);
    return r < 0 ? r : c.outVdeviceId;
  }

  /** The queue of a virtual SMMUv3's events, or -errno. @param depth records. */
  smmuv3EventQueue(viommuId: number, depth: number): HostQueue | VerbOutcome {
    const c = {
      flags: 0,
      viommuId,
      type: VEVENTQ_TYPE.ARM_SMMUV3,
      depth,
      reserved: 0,
      outVeventqId: 0,
      outFd: null as EventFd | null,
    };
    const r = this.#iommufd.veventqAlloc(c);
    return r < 0 ? r : queueOf(c.outVeventqId, c.outFd);
  }

  /** A queue for the page requests of nested HWPTs, or -errno. */
  faultQueue(): HostQueue | VerbOutcome {
    const c = { flags: 0, outFaultId: 0, outFd: null as EventFd | null };
    const r = this.#iommufd.faultQueueAlloc(c);
    return r < 0 ? r : queueOf(c.outFaultId, c.outFd);
  }

  /** @param userVa where the memory is in this process. @param iova,length bytes. */
  map(ioasId: number, userVa: bigint, iova: number, length: number, read: boolean, write: boolean): VerbOutcome {
    const c = this.#map;
    c.flags = IOAS_MAP_FLAG.FIXED_IOVA | (read ? IOAS_MAP_FLAG.READABLE : 0) | (write ? IOAS_MAP_FLAG.WRITEABLE : 0);
    c.ioasId = ioasId;
    c.userVa = userVa;
    c.length = BigInt(length);
    c.iova = BigInt(iova);
    return this.#iommufd.ioasMap(c);
  }

  /** Takes mappings away that lie in [iova, iova + length), bytes; it may not cut one. */
  unmap(ioasId: number, iova: number, length: number): VerbOutcome {
    const c = this.#unmap;
    c.ioasId = ioasId;
    c.iova = BigInt(iova);
    c.length = BigInt(length);
    return this.#iommufd.ioasUnmap(c);
  }

  /** Empties an IOAS. */
  unmapAll(ioasId: number): VerbOutcome {
    const c = this.#unmap;
    c.ioasId = ioasId;
    c.iova = 0n;
    c.length = EVERYTHING;
    return this.#iommufd.ioasUnmap(c);
  }

  /**
   * Hands commands of a guest to its virtual SMMUv3.
   * @param words 16-byte commands. @param start index of the first word. @param count commands.
   * @returns 0 or -errno; `invalidated` is the kernel's count then.
   */
  invalidateSmmuv3(viommuId: number, words: Int32Array, start: number, count: number): VerbOutcome {
    const type = INVALIDATE_DATA.VIOMMU_ARM_SMMUV3;
    return this.#iommufd.invalidate(viommuId, type, words, start, SMMUV3_COMMAND_BYTES, count);
  }

  /** Invalidates in the caches of a guest's first-stage table. @param words one struct iommu_hwpt_vtd_s1_invalidate. */
  invalidateVtd(hwptId: number, words: Int32Array): VerbOutcome {
    return this.#iommufd.invalidate(hwptId, INVALIDATE_DATA.VTD_S1, words, 0, VTD_S1_INVALIDATE_BYTES, 1);
  }

  /** Entries that the last `invalidate…` handled, as the kernel counts them. */
  get invalidated(): number {
    return this.#iommufd.invalidated;
  }
}

/** A queue without its file is none. */
function queueOf(id: number, fd: EventFd | null): HostQueue | VerbOutcome {
  return fd === null ? -E.BADF : { id, fd };
}
