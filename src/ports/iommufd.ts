import type { PageFile, UserData } from './user-memory.ts';

export type { PageFile, PinAccount, UserData, UserMemory } from './user-memory.ts';

/**
 * Device → host: Linux's iommufd verbs (include/uapi/linux/iommufd.h, 7.2) with its order of checks and its errno. A verb
 * takes the ioctl's structure (fields renamed to camelCase, u64 as bigint, `out…` fields written) and returns 0 or -errno.
 * Pointers to driver data are `UserData`; in process they are plain bytes, over the socket they are the client's memory.
 */

/** struct iommu_ioas_alloc. */
export interface IoasAlloc {
  /** 0. */
  flags: number;
  /** Id of the new address space. */
  outIoasId: number;
}
/** struct iommu_iova_range. */
export interface IoasIovaRange {
  /** First byte. */
  start: bigint;
  /** Last byte. */
  last: bigint;
}
/** struct iommu_ioas_iova_ranges. */
export interface IoasIovaRanges {
  /** Id of the address space. */
  ioasId: number;
  /** Room for ranges; comes back as their number. */
  numIovas: number;
  /** 0. */
  reserved: number;
  /** The usable ranges, written. */
  allowed: IoasIovaRange[];
  /** Alignment (bytes) of addresses and lengths. */
  outIovaAlignment: bigint;
}
/** struct iommu_ioas_allow_iovas. */
export interface IoasAllowIovas {
  /** Id of the address space. */
  ioasId: number;
  /** 0. */
  reserved: number;
  /** Ranges that must stay usable. */
  allowed: readonly IoasIovaRange[];
}
/** struct iommu_ioas_map. */
export interface IoasMap {
  /** IOAS_MAP_FLAG bits. */
  flags: number;
  /** Id of the address space. */
  ioasId: number;
  /** 0. */
  reserved: number;
  /** Address in the process (bytes). */
  userVa: bigint;
  /** Bytes. */
  length: bigint;
  /** Where to map; without FIXED_IOVA it comes back chosen. */
  iova: bigint;
}
/** struct iommu_ioas_map_file. */
export interface IoasMapFile {
  /** IOAS_MAP_FLAG bits. */
  flags: number;
  /** Id of the address space. */
  ioasId: number;
  /** null: the file descriptor is not open (EBADF). */
  file: PageFile | null;
  /** Offset in the file (bytes). */
  start: bigint;
  /** Bytes. */
  length: bigint;
  /** Where to map; without FIXED_IOVA it comes back chosen. */
  iova: bigint;
}
/** struct iommu_ioas_copy. */
export interface IoasCopy {
  /** IOAS_MAP_FLAG bits. */
  flags: number;
  /** Id of the address space to map into. */
  dstIoasId: number;
  /** Id of the address space that has the mapping. */
  srcIoasId: number;
  /** Bytes. */
  length: bigint;
  /** Where to map; without FIXED_IOVA it comes back chosen. */
  dstIova: bigint;
  /** Where the mapping is. */
  srcIova: bigint;
}
/** struct iommu_ioas_unmap. */
export interface IoasUnmap {
  /** Id of the address space. */
  ioasId: number;
  /** First byte to unmap. */
  iova: bigint;
  /** Bytes; comes back as what was unmapped. 2^64-1 from 0: all of the space. */
  length: bigint;
}
/** struct iommu_vfio_ioas. */
export interface VfioIoas {
  /** Id of the address space. */
  ioasId: number;
  /** VFIO_IOAS_OP value. */
  op: number;
  /** 0. */
  reserved: number;
}
/** struct iommu_option. */
export interface IommufdOption {
  /** OPTION value. */
  optionId: number;
  /** OPTION_OP value. */
  op: number;
  /** 0. */
  reserved: number;
  /** Id of the object, 0 for the file. */
  objectId: number;
  /** The value; written by GET. */
  val64: bigint;
}
/** struct iommu_hwpt_alloc. */
export interface HwptAlloc {
  /** HWPT_FLAG bits. */
  flags: number;
  /** Id of a device it is made for. */
  devId: number;
  /** An address space, or the parent: a HWPT or a vIOMMU. */
  ptId: number;
  /** Id of the new HWPT. */
  outHwptId: number;
  /** 0. */
  reserved: number;
  /** HWPT_DATA value. */
  dataType: number;
  /** The guest's own table, as `dataType` says; null: none. */
  data: UserData | null;
  /** Id of a fault queue, with FAULT_ID_VALID. */
  faultId: number;
}
/** struct iommu_hwpt_invalidate. */
export interface HwptInvalidate {
  /** A nested HWPT or a vIOMMU. */
  hwptId: number;
  /** INVALIDATE_DATA value. */
  dataType: number;
  /** Bytes of one entry. */
  entryLen: number;
  /** Entries; comes back as the number consumed. */
  entryNum: number;
  /** 0. */
  reserved: number;
  /** The entries. */
  data: UserData | null;
}
/** struct iommu_hw_info. */
export interface GetHwInfo {
  /** HW_INFO_FLAG bits. */
  flags: number;
  /** Id of the device. */
  devId: number;
  /** Room for `data` in bytes; comes back as what the kernel knows. */
  dataLen: number;
  /** Where the information goes; null: nowhere. */
  data: UserData | null;
  /** HW_INFO value. */
  dataType: number;
  /** PASID width of the device in bits; 0: none. */
  outMaxPasidLog2: number;
  /** HW_CAP bits. */
  outCapabilities: bigint;
}
/** struct iommu_hwpt_set_dirty_tracking. */
export interface SetDirtyTracking {
  /** DIRTY_FLAG bits. */
  flags: number;
  /** Id of the HWPT. */
  hwptId: number;
}
/** struct iommu_hwpt_get_dirty_bitmap. */
export interface GetDirtyBitmap {
  /** Id of the HWPT. */
  hwptId: number;
  /** DIRTY_BITMAP_FLAG bits. */
  flags: number;
  /** 0. */
  reserved: number;
  /** First byte. */
  iova: bigint;
  /** Bytes. */
  length: bigint;
  /** Bytes one bit stands for. */
  pageSize: bigint;
  /** The bitmap; bits are set, never cleared. */
  data: UserData | null;
}
/** struct iommu_fault_alloc. */
export interface FaultQueueAlloc {
  /** 0. */
  flags: number;
  /** Id of the fault queue. */
  outFaultId: number;
  /** Its file. */
  outFd: EventFd | null;
}
/** struct iommu_viommu_alloc. */
export interface ViommuAlloc {
  /** 0. */
  flags: number;
  /** VIOMMU_TYPE value. */
  type: number;
  /** Id of a device behind the physical IOMMU. */
  devId: number;
  /** The nesting parent it stands on. */
  hwptId: number;
  /** Id of the new vIOMMU. */
  outViommuId: number;
  /** What the driver of this type asks for; null: nothing. */
  data: UserData | null;
}
/** struct iommu_vdevice_alloc. */
export interface VdeviceAlloc {
  /** Id of the vIOMMU. */
  viommuId: number;
  /** Id of the device. */
  devId: number;
  /** Id of the new vDEVICE. */
  outVdeviceId: number;
  /** The guest's name of the device: a StreamID. */
  virtId: bigint;
}
/** struct iommu_veventq_alloc. */
export interface VeventqAlloc {
  /** 0. */
  flags: number;
  /** Id of the vIOMMU. */
  viommuId: number;
  /** VEVENTQ_TYPE value. */
  type: number;
  /** Events it holds before they are lost. */
  depth: number;
  /** 0. */
  reserved: number;
  /** Id of the new queue. */
  outVeventqId: number;
  /** Its file. */
  outFd: EventFd | null;
}
/** struct iommu_hw_queue_alloc. */
export interface HwQueueAlloc {
  /** 0. */
  flags: number;
  /** Id of the vIOMMU. */
  viommuId: number;
  /** HW_QUEUE_TYPE value. */
  type: number;
  /** Which of the vIOMMU's queues. */
  index: number;
  /** Id of the new queue. */
  outHwQueueId: number;
  /** Where the queue lies, as the nesting parent maps it. */
  nestingParentIova: bigint;
  /** Bytes. */
  length: bigint;
}

/** A fault queue's or vEVENTQ's file. Counts and results as read(2) and write(2): bytes, or -errno. */
export interface EventFd {
  /** read(2). @returns bytes, or -errno: -EAGAIN when the queue is empty. */
  read(into: Uint8Array): number;
  /** write(2): answers to page requests. @returns bytes, or -errno. */
  write(from: Uint8Array): number;
  /** Bit 0 POLLIN, bit 2 POLLOUT. */
  poll(): number;
  /** Called whenever an empty queue becomes readable. */
  onReadable: (() => void) | null;
  /** close(2). */
  close(): void;
}

/** One open /dev/iommu. */
export interface Iommufd {
  /** IOMMU_DESTROY. -EBUSY: something stands on the object; -ENOENT: there is none. */
  destroy(id: number): number;
  /** IOMMU_IOAS_ALLOC: an address space without mappings. */
  ioasAlloc(c: IoasAlloc): number;
  /** IOMMU_IOAS_IOVA_RANGES: where mappings may go. -EMSGSIZE: more ranges than there is room for. */
  ioasIovaRanges(c: IoasIovaRanges): number;
  /** IOMMU_IOAS_ALLOW_IOVAS: ranges that must stay usable. */
  ioasAllowIovas(c: IoasAllowIovas): number;
  /** IOMMU_IOAS_MAP: memory of the process, pinned. */
  ioasMap(c: IoasMap): number;
  /** IOMMU_IOAS_MAP_FILE: the same for a memfd or a dma-buf. */
  ioasMapFile(c: IoasMapFile): number;
  /** IOMMU_IOAS_COPY: a mapping of another address space again. */
  ioasCopy(c: IoasCopy): number;
  /** IOMMU_IOAS_UNMAP. -ENOENT: a mapping would be cut, or nothing is there. */
  ioasUnmap(c: IoasUnmap): number;
  /** IOAS_CHANGE_PROCESS: pin accounting moves to the process behind `memory` from now on. */
  ioasChangeProcess(reserved: number): number;
  /** IOMMU_VFIO_IOAS: the address space VFIO's container commands use. */
  vfioIoas(c: VfioIoas): number;
  /** IOMMU_OPTION. */
  option(c: IommufdOption): number;
  /** IOMMU_HWPT_ALLOC: a page table of the host's, or (with data) one of the guest's on a parent. */
  hwptAlloc(c: HwptAlloc): number;
  /** IOMMU_HWPT_INVALIDATE: the guest's invalidations, in order. `entryNum` comes back as the number done. */
  hwptInvalidate(c: HwptInvalidate): number;
  /**
   * HWPT_INVALIDATE without a structure, for the command path: `entryNum` entries of `entryLen` bytes begin at word
   * `start`. Same checks, same errno, no allocation. `invalidated` holds entry_num as the kernel returns it.
   */
  invalidate(
    id: number,
    dataType: number,
    words: Int32Array,
    start: number,
    entryLen: number,
    entryNum: number,
  ): number;
  /** Entries the last `invalidate` consumed. */
  readonly invalidated: number;
  /** IOMMU_GET_HW_INFO: what the physical IOMMU in front of a device can do. */
  getHwInfo(c: GetHwInfo): number;
  /** IOMMU_HWPT_SET_DIRTY_TRACKING. */
  setDirtyTracking(c: SetDirtyTracking): number;
  /** IOMMU_HWPT_GET_DIRTY_BITMAP. */
  getDirtyBitmap(c: GetDirtyBitmap): number;
  /** IOMMU_FAULT_QUEUE_ALLOC: a file with page requests of the HWPTs that name it. */
  faultQueueAlloc(c: FaultQueueAlloc): number;
  /** IOMMU_VIOMMU_ALLOC: what a guest's IOMMU has of the physical one, on a nesting parent. */
  viommuAlloc(c: ViommuAlloc): number;
  /** IOMMU_VDEVICE_ALLOC: the name a guest's IOMMU has for a device. */
  vdeviceAlloc(c: VdeviceAlloc): number;
  /** IOMMU_VEVENTQ_ALLOC: a file with hardware events of a vIOMMU's devices, in the guest's names. */
  veventqAlloc(c: VeventqAlloc): number;
  /** IOMMU_HW_QUEUE_ALLOC: a queue in guest memory that hardware reads by itself. */
  hwQueueAlloc(c: HwQueueAlloc): number;
  /** Closes the fd: everything dies leaf-first. */
  close(): void;
  /** What stands on the file is told when it closes, while everything is there still. @returns takes it back. */
  whenClosed?(action: () => void): () => void;
}

/** A VFIO device file (cdev), with the verbs a VMM needs. All return 0 or -errno. */
export interface VfioDevice {
  /** VFIO_DEVICE_BIND_IOMMUFD. On 0 `devId` is the iommufd device id. */
  bind(iommufd: Iommufd): number;
  /** The iommufd device id; valid while bound. */
  readonly devId: number;
  /** VFIO_DEVICE_ATTACH_IOMMUFD_PT. `pasid` NO_PASID: the RID. On 0 `ptId` is what is attached (an IOAS becomes a HWPT). */
  attach(ptId: number, pasid: number): number;
  /** Id of the HWPT the last `attach` put in place. */
  readonly ptId: number;
  /** VFIO_DEVICE_DETACH_IOMMUFD_PT. */
  detach(pasid: number): number;
  /** Unbinds and closes: PASIDs are detached first, a live vDEVICE becomes a tombstone. */
  close(): void;
  /** What stands on the file is told when it closes, while everything is attached still. @returns takes it back. */
  whenClosed?(action: () => void): () => void;
}
