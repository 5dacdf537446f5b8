import type { ShadowTable } from '../../ports/upcalls.ts';
import type { HostDevice, PagingDomain } from '../kernel/driver.ts';

/**
 * The driver's end of the way back to the device models: faults, misses and page requests of the devices that a model
 * `serve`s. A driver gets it at construction. That is the default of every machine; null is the other mode, `linux-only`, in
 * which the driver does what Linux does and nothing else.
 */
export interface DriverUpcalls {
  /** A driver that can do more than its Linux original names itself once. */
  register(driver: UpcallDriver): void;
  /** Whether a device model listens for this device. */
  serves(dev: HostDevice): boolean;
  /** @param stream index into `dev.streams`. @returns true: something was attached, look again. */
  streamMiss(dev: HostDevice, stream: number, pasid: number): boolean;
  /** @param domain the stage 2 that missed. @returns true: mapped now, walk again. */
  stageTwoMiss(
    dev: HostDevice,
    domain: PagingDomain,
    stream: number,
    pasid: number,
    ipa: number,
    access: number,
    lo: number,
    hi: number,
  ): boolean;
  /** Every fault record. @param ats see `HwEvents.fault`. @returns whether a listener takes faults of this device. */
  fault(dev: HostDevice, stream: number, record: Int32Array, ats?: boolean): boolean;
  /** @returns true: the listener will answer through `respond`; false: the driver does what Linux does. */
  pageRequest(dev: HostDevice, stream: number, record: Int32Array): boolean;
  /**
   * An invalidation that names this device failed, now or late.
   * @param error HW_ERROR. @param stream index into `dev.streams`. @param pasid the host's PASID it was for, or NO_PASID.
   */
  invalidateError(dev: HostDevice, error: number, stream: number, pasid: number): void;
  /**
   * The last submit left completions outstanding that belong to `dev`, of its requests as `rid`. May be called for several
   * devices of one token.
   * @param pasid the host's PASID that the invalidation is for, or NO_PASID; of several under one token the first counts.
   */
  pending(dev: HostDevice, driver: object, token: number, rid: number, pasid: number): void;
  /**
   * They are in (or given up).
   * @param error HW_ERROR of a guest's invalidation, NONE when that is nobody's business. @param rid who did not answer; its
   *   device may be gone by now, and the listener is told all the same.
   */
  completed(driver: object, token: number, error: number, rid: number): void;
  /** The driver's unit refused an invalidation, or has confirmed everything by now. */
  unconfirmed(driver: object, some: boolean): void;
}

/** What the hub asks of a driver on a device model's behalf. */
export interface UpcallDriver {
  /** The driver's `IommuDriver` identity, as in `HostDevice.iommu`. */
  readonly iommu: object;
  /** A listener came or went: a detached stream of a served device is left invalid, so that the hardware asks. */
  served(dev: HostDevice, on: boolean): void;
  /** Asks the unit again for the invalidations it refused. @returns 0: it has confirmed everything; -EIO. */
  confirm(): number;
  /** See HostUpcalls.respond. */
  respond(dev: HostDevice, pasid: number, group: number, code: number, stall: boolean, stream?: number): number;
  /** See HostUpcalls.terminateStalls. Without: the driver's hardware does not stall. */
  terminateStalls?(dev: HostDevice, stream: number): number;
  /** See HostUpcalls.quiet. Without: the driver has no PASID table. */
  quiet?(dev: HostDevice, pasid: number, on: boolean): number;
  /** See HostUpcalls.invalidateDeviceTlb. Absent: the driver has no such invalidation. */
  invalidateDeviceTlb?(
    dev: HostDevice,
    pasid: number,
    lo: number,
    hi: number,
    global: boolean,
    stream?: number,
  ): number;
}

/** The objects of an iommufd by id, as far as upcalls name them. */
export interface UpcallObjects {
  device(devId: number): HostDevice | null;
  paging(hwptId: number): PagingDomain | null;
  /** See HostUpcalls.shadowTable. */
  shadowTable(hwptId: number, ramIoasId: number): ShadowTable | number;
  /** See HostUpcalls.streamVdevice. */
  streamVdevice(viommuId: number, devId: number, stream: number, vsid: number): number;
  /** See HostUpcalls.attachStream. */
  attachStream(devId: number, stream: number, hwptId: number, pasid: number): number;
}
