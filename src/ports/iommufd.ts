/**
 * Device → host: Linux's iommufd verbs (include/uapi/linux/iommufd.h, 7.2) with its order of checks and its errno. A verb
 * takes the ioctl's structure (fields renamed to camelCase, u64 as bigint, `out…` fields written) and returns 0 or -errno.
 * Pointers to driver data are `UserData`; in process they are plain bytes, over the socket they are the client's memory.
 */
export interface UserData {
  readonly length: number;
  /** Copies [offset, offset + into.length) in. @returns false: EFAULT. */
  copyIn(offset: number, into: Uint8Array): boolean;
  /** @returns false: EFAULT. */
  copyOut(offset: number, from: Uint8Array): boolean;
}

/** The memory of the process that owns the fd (its mm): where IOAS_MAP's user_va points. */
export interface UserMemory {
  /**
   * The host-physical run that backs `va`.
   * @param bytes how much is wanted; the answer may be shorter (then ask again behind it), never longer.
   * @returns false: not mapped, or not writable although `write` (EFAULT). Else `hpa` and `run` are valid.
   */
  pin(va: bigint, bytes: bigint, write: boolean): boolean;
  /** Host-physical address (bytes) of what the last `pin` found. */
  readonly hpa: number;
  /** Bytes that lie behind `hpa` without a gap. */
  readonly run: number;
  /** Why the last `pin` failed, where that is not EFAULT: an errno (ENOMEM: too much is pinned already). */
  readonly failure?: number;
  /** A run that `pin` answered (or a part of it) is not used any more. */
  unpin?(hpa: number, bytes: number): void;
}

/**
 * What IOAS_MAP_FILE maps: `pin` takes offsets into the file. A memfd, or the dma-buf of a device's MMIO (one contiguous
 * piece whose exporter may take it back).
 */
export interface PageFile extends UserMemory {
  readonly kind: 'memfd' | 'dmabuf' | 'other';
  /** Bytes. */
  readonly size: bigint;
  /** dma-buf: the exporter took the memory back. */
  readonly revoked?: boolean;
  /** dma-buf: called when the exporter takes the memory back, while it is mapped. */
  onRevoke?(tell: () => void): () => void;
}

export interface IoasAlloc {
  flags: number;
  outIoasId: number;
}
export interface IoasIovaRange {
  start: bigint;
  last: bigint;
}
export interface IoasIovaRanges {
  ioasId: number;
  numIovas: number;
  reserved: number;
  allowed: IoasIovaRange[];
  outIovaAlignment: bigint;
}
export interface IoasAllowIovas {
  ioasId: number;
  reserved: number;
  allowed: readonly IoasIovaRange[];
}
export interface IoasMap {
  flags: number;
  ioasId: number;
  reserved: number;
  userVa: bigint;
  length: bigint;
  iova: bigint;
}
export interface IoasMapFile {
  flags: number;
  ioasId: number;
  /** null: the file descriptor is not open (EBADF). */
  file: PageFile | null;
  start: bigint;
  length: bigint;
  iova: bigint;
}
export interface IoasCopy {
  flags: number;
  dstIoasId: number;
  srcIoasId: number;
  length: bigint;
  dstIova: bigint;
  srcIova: bigint;
}
export interface IoasUnmap {
  ioasId: number;
  iova: bigint;
  length: bigint;
}
export interface VfioIoas {
  ioasId: number;
  op: number;
  reserved: number;
}
export interface Option {
  optionId: number;
  op: number;
  reserved: number;
  objectId: number;
  val64: bigint;
}
export interface HwptAlloc {
  flags: number;
  devId: number;
  ptId: number;
  outHwptId: number;
  reserved: number;
  dataType: number;
  data: UserData | null;
  faultId: number;
}
export interface HwptInvalidate {
  hwptId: number;
  dataType: number;
  entryLen: number;
  entryNum: number;
  reserved: number;
  data: UserData | null;
}
export interface GetHwInfo {
  flags: number;
  devId: number;
  dataLen: number;
  data: UserData | null;
  dataType: number;
  outMaxPasidLog2: number;
  outCapabilities: bigint;
}
export interface SetDirtyTracking {
  flags: number;
  hwptId: number;
}
export interface GetDirtyBitmap {
  hwptId: number;
  flags: number;
  reserved: number;
  iova: bigint;
  length: bigint;
  pageSize: bigint;
  data: UserData | null;
}
export interface FaultQueueAlloc {
  flags: number;
  outFaultId: number;
  outFd: EventFd | null;
}
export interface ViommuAlloc {
  flags: number;
  type: number;
  devId: number;
  hwptId: number;
  outViommuId: number;
  data: UserData | null;
}
export interface VdeviceAlloc {
  viommuId: number;
  devId: number;
  outVdeviceId: number;
  virtId: bigint;
}
export interface VeventqAlloc {
  flags: number;
  viommuId: number;
  type: number;
  depth: number;
  reserved: number;
  outVeventqId: number;
  outFd: EventFd | null;
}
export interface HwQueueAlloc {
  flags: number;
  viommuId: number;
  type: number;
  index: number;
  outHwQueueId: number;
  nestingParentIova: bigint;
  length: bigint;
}

/** A fault queue's or vEVENTQ's file. Counts and results as read(2) and write(2): bytes, or -errno. */
export interface EventFd {
  read(into: Uint8Array): number;
  write(from: Uint8Array): number;
  /** Bit 0 POLLIN, bit 2 POLLOUT. */
  poll(): number;
  /** Called whenever an empty queue becomes readable. */
  onReadable: (() => void) | null;
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
  option(c: Option): number;
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
}
