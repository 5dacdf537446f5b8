import type { UserData } from '../../ports/iommufd.ts';

/**
 * The port between the emulated kernel's generic half and its IOMMU drivers: what `iommu_ops`, `iommu_domain_ops`,
 * `iommu_dirty_ops` and `iommufd_viommu_ops` are in Linux. Every `number` result is 0 or -errno unless it says otherwise;
 * `Result<T>` is the object or -errno. The core has already done its own checks (ids, flags common to all drivers, PASID
 * compatibility, references) when it calls. A driver never throws for what a user or guest can cause.
 */
export type Result<T> = T | number;

/** One physical IOMMU instance with the driver that runs it. Devices of one instance can share domains and vIOMMUs. */
export interface IommuDriver {
  /** Shown in `tell` and messages: 'smmuv3.0', 'vtd.0', 'mock'. */
  readonly name: string;
  /** The kind of driver ('smmuv3', 'vtd', 'mock'): equal for all instances that run the same code. */
  readonly driver: string;
  /** Called once by HostKernel.addIommu. */
  probe(kernel: KernelServices): void;
  /** A device behind this IOMMU appears (`probe_device`). Its RID is in `blocked` afterwards unless the machine says else. */
  addDevice(dev: HostDevice): number;
  /**
   * A device is gone; it is in `blocked` already. @param undo it does not come after all (a later step of its arrival failed): what was made for it goes
   *   too, also what a driver keeps when a device that was there goes.
   */
  removeDevice(dev: HostDevice, undo: boolean): void;

  /**
   * GET_HW_INFO. @param type 0: the driver's default; else a wanted type.
   * @returns null: that type is not supported (EOPNOTSUPP). `data` is the kernel's struct, exact length.
   */
  hwInfo(dev: HostDevice, type: number): HwInfo | null;
  /** Whether the device can use ATS here (`IOMMU_CAP_PCI_ATS_SUPPORTED`). */
  atsCapable(dev: HostDevice): boolean;
  /** Whether dirty tracking is possible for the device (`IOMMU_CAP_DIRTY_TRACKING`). */
  dirtyCapable(dev: HostDevice): boolean;
  /** Whether the device's DMA can be made cache coherent when asked (`enforce_cache_coherency` is then called). */
  readonly enforcesCoherency: boolean;
  /**
   * A PASID fault without an attachment of its own goes to the nested domain on the RID, because the PASID table belongs to
   * the user (`user_pasid_table`): SMMUv3 and mock true, VT-d false.
   */
  readonly userPasidTable: boolean;
  /** Reserved IOVA regions of the device (`get_resv_regions`). */
  reservedRegions(dev: HostDevice): readonly ReservedRegion[];

  /**
   * The domain in which all DMA fails; attaching it is how a RID or PASID is detached. That cannot be refused; -errno says
   * that the hardware did not confirm it, and the old domain then keeps its tables and its tag for good.
   */
  readonly blocked: BlockedDomain;

  /**
   * `domain_alloc_paging_flags`. @param flags HWPT_FLAG bits (FAULT_ID_VALID removed). @param data null: none given.
   * @returns -EOPNOTSUPP for flags, data or combinations the hardware cannot do.
   */
  allocPaging(dev: HostDevice, flags: number, data: DriverData | null): Result<PagingDomain>;
  /**
   * `domain_alloc_nested`: a nested domain directly on a parent (VT-d, mock). null: the driver has no such op (SMMUv3).
   * `flags` is 0 or HWPT_FLAG.PASID. The core has checked that the parent is of this driver and a nest parent.
   */
  readonly allocNested:
    | ((dev: HostDevice, parent: PagingDomain, flags: number, data: DriverData) => Result<NestedDomain>)
    | null;

  /** `get_viommu_size` ≠ 0: whether a vIOMMU of this type can be made for the device. */
  viommuSupported(dev: HostDevice, type: number): boolean;
  /** `viommu_init`. Called only after `viommuSupported`. @param services what the vIOMMU's generic half offers. */
  viommuInit(
    dev: HostDevice,
    type: number,
    parent: PagingDomain,
    data: DriverData | null,
    services: ViommuServices,
  ): Result<DriverViommu>;

  /**
   * `page_response`: the answer to a fault this driver reported through `reportFault`.
   * @param code PGFAULT_CODE value: 0 success, 1 invalid.
   */
  pageResponse(dev: HostDevice, fault: PageFault, code: number): void;
}

/** What GET_HW_INFO says of a device's IOMMU. */
export interface HwInfo {
  /** HW_INFO value. */
  readonly type: number;
  /** The kernel's structure of that type. */
  readonly data: Uint8Array;
}

/** `reserved`, `direct` (RMRR), `direct-relaxable` (ignored), `msi` (hardware window), `sw-msi` (window for doorbell pages). */
export interface ReservedRegion {
  /** First byte. */
  readonly start: bigint;
  /** Last byte. */
  readonly last: bigint;
  /**
   * Why: never usable, mapped one to one (`direct`, given up by a user driver: `direct-relaxable`), an interrupt window
   * of hardware (`msi`) or of software (`sw-msi`).
   */
  readonly kind: 'reserved' | 'direct' | 'direct-relaxable' | 'msi' | 'sw-msi';
}

/** Driver-specific data of an ioctl: `type`, and the bytes in the caller's memory. See `copyDriverData`. */
export interface DriverData {
  /** What the data describes: HWPT_DATA or VIOMMU_TYPE value. */
  readonly type: number;
  readonly user: UserData;
}

/** A device as the kernel knows it. The machine describes it once (HostKernel.addDevice); drivers keep state by `index`. */
export interface HostDevice {
  /** Dense, from 0, over all devices of the kernel; never reused. */
  readonly index: number;
  /** Its name in messages. */
  readonly name: string;
  /** The driver of the IOMMU it is behind. */
  readonly iommu: IommuDriver;
  /** Requester ids (StreamIDs); `streams[0]` is the device's own. */
  readonly streams: readonly number[];
  /** Number of PASIDs the device can send (a power of two), 0: no PASID capability. */
  readonly maxPasids: number;
  /** PASID control: execute and privileged requests permitted. */
  readonly pasidExec: boolean;
  /** Requests with a PASID may be privileged. */
  readonly pasidPriv: boolean;
  /** The PCI function implements ATS / PRI. Whether it is enabled is the driver's affair: see `DeviceControl`. */
  readonly ats: boolean;
  /** It has page requests. */
  readonly pri: boolean;
  /** A PCI virtual function. */
  readonly virtualFunction: boolean;
  /** The machine's handle on the function's PCI controls; null: no PCI controls modelled. */
  readonly control: DeviceControl | null;
  /** iommufd id of the DEVICE object while bound, else 0. */
  devId: number;
}

/** What a host driver switches in a function's configuration space (the ATS and PRI enable bits of the *physical* function). */
export interface DeviceControl {
  /** ATS Enable of the function. */
  setAts(on: boolean): void;
  /** PRI Enable of the function. */
  setPri(on: boolean): void;
}

/** An `iommu_domain`. One domain may be attached to any number of (device, PASID). */
export interface Domain {
  /** What it is made of. */
  readonly kind: 'paging' | 'nested' | 'blocked' | 'identity';
  /** The driver that made it. */
  readonly iommu: IommuDriver;
  /** Whether `attach` may be called with a PASID (`set_dev_pasid`); false: EOPNOTSUPP. */
  readonly pasidCapable: boolean;
  /** The core sets it before the first attach when faults have a handler (`iopf_handler`). */
  iopf: boolean;
  /**
   * `attach_dev` / `set_dev_pasid`: the (device, PASID) moves from `old` to this domain.
   * @param pasid NO_PASID: the RID. @param old what is there now; for a PASID null when nothing is.
   * @returns 0 or -errno, and then `old` is still in force.
   */
  attach(dev: HostDevice, pasid: number, old: Domain | null): number;
  /**
   * Beyond Linux: one stream of the device moves by itself from `old` to this domain, while the device as a whole is
   * attached to nothing. Absent: the driver has one configuration for all streams of a device.
   * @param stream index into `dev.streams`. @param pasid NO_PASID: the stream's requests without PASID.
   * @returns 0 or -errno, and then `old` is still in force; -EOPNOTSUPP: the driver attaches no PASIDs of single streams.
   */
  attachStream?(dev: HostDevice, stream: number, old: Domain | null, pasid: number): number;
  /** Nobody uses it any more. */
  free(): void;
}

/** The domain in which all DMA fails. */
export interface BlockedDomain extends Domain {
  readonly kind: 'blocked';
  /**
   * @param undo the attach of `old` is taken back (a later step of the same operation failed): what it made goes too, also
   *   what a driver keeps at an ordinary detach. @returns 0; -errno: the hardware did not confirm it.
   */
  attach(dev: HostDevice, pasid: number, old: Domain | null, undo?: boolean): number;
}

/**
 * Protection bits of `PagingDomain.map` (IOMMU_READ and so on). The last two are not Linux's: no execution by accesses of one
 * privilege, for stages that repeat one of a guest (`ShadowTable.map`).
 */
export const MAP_PROT = {
  READ: 1,
  WRITE: 2,
  CACHE: 4,
  NOEXEC: 8,
  MMIO: 16,
  NOEXEC_UNPRIV: 64,
  NOEXEC_PRIV: 128,
} as const;

/** A domain whose page table the kernel fills (`iommu_paging_domain_alloc_flags`). */
export interface PagingDomain extends Domain {
  readonly kind: 'paging';
  /** `IOMMU_HWPT_ALLOC_NEST_PARENT` was given. */
  readonly nestParent: boolean;
  /** Smallest page, bytes. */
  readonly pageBytes: number;
  /** Inclusive limits of the IOVAs the domain can map. */
  readonly apertureStart: bigint;
  /** Last byte that can be mapped. */
  readonly apertureLast: bigint;
  /** Forces snooping from now on. @returns whether it does. */
  enforceCacheCoherency(): boolean;
  /**
   * Maps [iova, iova + bytes) to [hpa, …), all multiples of `pageBytes`; the range is free. Called with runs as long as the
   * memory is contiguous; the driver picks block sizes.
   * @param prot MAP_PROT bits. @returns 0, -ENOMEM, -EINVAL (e.g. read-only on a VT-d nest parent). On error the range is
   *   as it was.
   */
  map(iova: bigint, hpa: number, bytes: number, prot: number): number;
  /**
   * Takes a range away that consists of whole earlier `map` calls, and does the invalidations that needs before it returns.
   * @param undo those calls are taken back (a later step of the same operation failed): tables without entries go too.
   * @returns bytes unmapped; or -errno: the entries are gone, but the hardware did not confirm that it has forgotten them.
   *   The same call again tries the invalidation again.
   */
  unmap(iova: bigint, bytes: bigint, undo?: boolean): bigint;
  /** Host-physical address of the byte, or -1. */
  iovaToPhys(iova: bigint): number;
  /** null: no dirty tracking on this domain (EOPNOTSUPP). */
  readonly dirty: DirtyOps | null;
  /**
   * Beyond Linux: from now on the domain, which holds nothing and nobody uses yet, repeats a stage of a guest. Absent: the
   * driver does not offer that. @returns how it is filled; -EBUSY: it is in use; -EOPNOTSUPP: not a second stage.
   */
  copyStage?(): Result<StageCopy>;
}

/**
 * A table that repeats a stage of translation of a guest, page by page as it is used, like a TLB: what is taken away too much
 * comes back with the next miss. Pages count 4 KiB. Nothing here allocates.
 */
export interface StageCopy {
  /** Pages [mappedFirst, mappedEnd) are mapped behind the last successful `map`. */
  readonly mappedFirst: number;
  /** The page behind the last of them. */
  readonly mappedEnd: number;
  /** Pages its tables occupy beyond the start table. */
  readonly pages: number;
  /** MAP_PROT READ, WRITE, NOEXEC_UNPRIV and NOEXEC_PRIV of what is mapped at `page`; 0: nothing is. */
  perm(page: number): number;
  /**
   * Maps `page`, where nothing is, to host-physical `hpa` (bytes), and as much around it as one table holds: pages
   * [first, end) follow each other on both sides. What is mapped there stays as it is.
   * @param prot MAP_PROT bits. @returns pages mapped from `page` on, or -ENOMEM, -ERANGE, -EINVAL (read-only is not
   *   possible), -EIO.
   */
  map(page: number, hpa: number, first: number, end: number, prot: number): number;
  /**
   * Takes [page, page + pages) away from the table and from every cache; more when there is no page to split a large leaf.
   * @returns 0 or -errno: some cache may still know it; the next call makes them forget everything.
   */
  unmap(page: number, pages: number): number;
  /** Takes everything away, whatever it holds, in constant time. @returns see `unmap`. */
  clear(): number;
}

/** Dirty tracking of a paging domain (`iommu_dirty_ops`). */
export interface DirtyOps {
  /** Switches tracking. Old bits have been cleared by a `read` before it is switched on. */
  set(enable: boolean): number;
  /** Reports every dirty range in [iova, iova + bytes) and, unless `noClear`, clears it (and the TLB's memory of it). */
  read(iova: bigint, bytes: bigint, noClear: boolean, sink: DirtySink): number;
}

/** Where dirty ranges are told. */
export interface DirtySink {
  /** [iova, iova + bytes) was written to. */
  dirty(iova: bigint, bytes: number): void;
}

/** A domain whose page table is the user's, on a parent. */
export interface NestedDomain extends Domain {
  readonly kind: 'nested';
  /** The paging domain it stands on. */
  readonly parent: PagingDomain;
  /** HWPT_INVALIDATE on this HWPT's own id. null: EOPNOTSUPP. */
  readonly invalidation: Invalidation | null;
}

/** How a driver takes HWPT_INVALIDATE arrays. The core copies and checks sizes by this; the driver sees whole entries. */
export interface Invalidation {
  /** The data type it accepts; any other: EINVAL. */
  readonly type: number;
  /** Size of the kernel's entry, a multiple of 4. */
  readonly entryBytes: number;
  /**
   * 'each': entries are copied one at a time and must have `entryBytes` exactly (VT-d, mock HWPT).
   * 'all': the whole array first; shorter entries are zero-extended, longer ones need a zero tail (SMMUv3, mock vIOMMU).
   */
  readonly copy: 'each' | 'all';
  /** Whether an empty array with the right type is 0 (a type probe) or EINVAL (SMMUv3). */
  readonly emptyOk: boolean;
  /**
   * Does `count` entries that begin at word `start`; `words` is not modified. Allocates nothing. `done` tells how many
   * entries count as handled in the user's eyes, also on error.
   */
  run(words: Int32Array, start: number, count: number): number;
  /** Entries the last `run` consumed. */
  readonly done: number;
}

/** What the generic half of a vIOMMU offers its driver half (`iommufd_viommu_*` helpers). */
export interface ViommuServices {
  /** The device behind a vDEVICE of this vIOMMU. Allocates nothing. @param virtId below 2^53. */
  findDevice(virtId: number): HostDevice | null;
  /** virt_id of the device's vDEVICE in this vIOMMU; -1n: it has none here. */
  virtIdOf(dev: HostDevice): bigint;
  /**
   * Offers an event to the vEVENTQ of `type`. @returns 0 (also when it was lost), -EOPNOTSUPP: no such queue.
   */
  reportEvent(type: number, data: Uint8Array): number;
  /** Offers `bytes` (whole pages) of kernel memory at `hpa` for mmap of the fd. @returns the offset to tell the user, or -1n: no memory (ENOMEM). */
  offerMmap(hpa: number, bytes: number): bigint;
}

/** Driver half of a vIOMMU. */
export interface DriverViommu {
  /** HWPT_ALLOC with the vIOMMU's id as pt_id. null: EOPNOTSUPP. `flags` is 0 or HWPT_FLAG.PASID. */
  readonly allocNested: ((flags: number, data: DriverData) => Result<NestedDomain>) | null;
  /** HWPT_INVALIDATE with the vIOMMU's id. null: EOPNOTSUPP. */
  readonly invalidation: Invalidation | null;
  /** The driver's veto on a vDEVICE, and its notice that one goes away. */
  vdeviceInit(dev: HostDevice, virtId: bigint): number;
  /** The guest's name of a device is gone. */
  vdeviceDestroy(dev: HostDevice, virtId: bigint): void;
  /**
   * Beyond Linux: the guest's name of one stream comes and goes. Absent: only devices have names.
   * @param stream index into `dev.streams`. @returns 0 or -errno.
   */
  streamInit?(dev: HostDevice, stream: number, vsid: number): number;
  /** The guest's name of the stream is gone. */
  streamDestroy?(dev: HostDevice, stream: number, vsid: number): void;
  /** null: no hardware queues (EOPNOTSUPP). */
  readonly hwQueues: HwQueueOps | null;
  /** The vIOMMU is gone; nothing stands on it any more. */
  destroy(): void;
}

/** Queues in guest memory that hardware reads by itself. */
export interface HwQueueOps {
  /** Whether a type of queue can be made. */
  supported(type: number): boolean;
  /**
   * @param hpa host-physical base of the (pinned, contiguous) queue; `iova` its address in the nest parent.
   * @returns a handle, or -errno (index too big EINVAL, in use EEXIST, previous one missing EIO, …). The core makes queue
   *   n+1 hold queue n.
   */
  init(type: number, index: number, iova: bigint, hpa: number, length: bigint): Result<DriverHwQueue>;
}
/** One of those queues. */
export interface DriverHwQueue {
  /** The queue is gone. */
  destroy(): void;
}

/** A page request or stall, as `struct iopf_fault`. */
export interface PageFault {
  /** NO_PASID: none. */
  readonly pasid: number;
  /** Group (PRG index) or STAG. */
  readonly grpid: number;
  /** PGFAULT_PERM bits. */
  readonly perm: number;
  /** The last request of its group. */
  readonly last: boolean;
  /** Address, low word. */
  readonly addrLo: number;
  /** Address, high word. */
  readonly addrHi: number;
}

/** What the kernel's generic half offers a driver (`iommu_report_device_fault` and friends). */
export interface KernelServices {
  /**
   * Delivers a page fault to the handler of the domain attached there. Requests that are not the last of their group are
   * held; without a handler the driver's `pageResponse` is called with INVALID at once.
   */
  reportFault(dev: HostDevice, fault: PageFault): void;
  /** The device that sends requests as `stream`, or null. */
  deviceByStream(iommu: IommuDriver, stream: number): HostDevice | null;
  /** What is attached to the (device, PASID) now; null for an empty PASID slot. */
  attached(dev: HostDevice, pasid: number): Domain | null;
  /** Bound devices of the instance, in order of appearance. */
  devices(iommu: IommuDriver): readonly HostDevice[];
}
