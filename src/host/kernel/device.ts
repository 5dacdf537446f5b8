import { ViommuError } from '../../core/errors.ts';
import { NO_PASID } from '../../ports/dma.ts';
import type { DeviceControl, Domain, HostDevice, IommuDriver, PageFault } from './driver.ts';
import type { IommuGroup } from './group.ts';

/** What the machine says about a function when it puts it on the bus. */
export interface DeviceDescription {
  /** Its name in messages. */
  readonly name: string;
  /** Requester ids (StreamIDs), at least one. */
  readonly streams: readonly number[];
  /** The driver of the IOMMU it is behind. */
  readonly iommu: IommuDriver;
  /** Devices with equal group names share one IOMMU group (no ACS between them). Without: a group of its own. */
  readonly group?: string;
  /** PASID width in bits, 0 (default): no PASID capability. */
  readonly pasidBits?: number;
  /** Overrides 2^pasidBits (the kernel's mock device has max_pasids 1). */
  readonly maxPasids?: number;
  /** Requests with a PASID may ask for execute permission. Default false. */
  readonly pasidExec?: boolean;
  /** Requests with a PASID may be privileged. Default false. */
  readonly pasidPriv?: boolean;
  /** It has ATS. Default false. */
  readonly ats?: boolean;
  /** It has page requests. Default false. */
  readonly pri?: boolean;
  /** It is a virtual function: its ATS is enabled by the physical one's driver. Default false. */
  readonly virtualFunction?: boolean;
  /** How the kernel enables ATS and page requests in it; without, it cannot. */
  readonly control?: DeviceControl;
  /** Whether DMA snoops CPU caches; false: binding is refused (EINVAL). Default true. */
  readonly cacheCoherent?: boolean;
  /** Whether it is in an IOMMU group at all; false: binding is refused (ENODEV). Default true. */
  readonly grouped?: boolean;
  /** Whether its VFIO driver offers PASIDs; false: attaching one is refused (EOPNOTSUPP). Default true. */
  readonly vfioPasids?: boolean;
  /** Whether interrupts are isolated (remapping); false: binding is refused (EPERM). Default true. */
  readonly msiIsolated?: boolean;
  /**
   * Host-physical page of the interrupt doorbell (GICv3 ITS) the device writes to. With a `sw-msi` reserved region it is
   * mapped into the paging domain (or the nest parent) at attach.
   */
  readonly msiDoorbell?: number;
}

/** Who holds a device: an iommufd it is bound to. */
export interface DeviceBinding {
  /** Takes a page fault of the device (`iommu_report_device_fault`). */
  report(fault: PageFault): void;
}

/** A device of the emulated kernel: its description, its group, and what the IOMMU core attached to it. */
export class KernelDevice implements HostDevice {
  readonly index: number;
  readonly name: string;
  readonly iommu: IommuDriver;
  readonly streams: readonly number[];
  readonly maxPasids: number;
  readonly pasidExec: boolean;
  readonly pasidPriv: boolean;
  readonly ats: boolean;
  readonly pri: boolean;
  readonly virtualFunction: boolean;
  readonly control: DeviceControl | null;
  /** DMA snoops CPU caches. */
  readonly cacheCoherent: boolean;
  /** It is in an IOMMU group. */
  readonly grouped: boolean;
  /** Its VFIO driver offers PASIDs. */
  readonly vfioPasids: boolean;
  /** Its interrupts are isolated. */
  readonly msiIsolated: boolean;
  /** Host-physical page of its interrupt doorbell. */
  readonly msiDoorbell: number;
  /** @internal */
  readonly group: IommuGroup;
  devId = 0;
  /** @internal Its iommufd object while it is bound. */
  binding: DeviceBinding | null = null;

  /** @internal @throws ViommuError `EINVAL` a PASID width that no function has. */
  constructor(index: number, d: DeviceDescription, group: IommuGroup) {
    checkPasidBits(d);
    this.index = index;
    this.name = d.name;
    this.iommu = d.iommu;
    this.streams = d.streams;
    this.maxPasids = d.maxPasids ?? ((d.pasidBits ?? 0) > 0 ? 2 ** (d.pasidBits ?? 0) : 0);
    this.pasidExec = d.pasidExec ?? false;
    this.pasidPriv = d.pasidPriv ?? false;
    this.ats = d.ats ?? false;
    this.pri = d.pri ?? false;
    this.virtualFunction = d.virtualFunction ?? false;
    this.control = d.control ?? null;
    this.cacheCoherent = d.cacheCoherent ?? true;
    this.grouped = d.grouped ?? true;
    this.vfioPasids = d.vfioPasids ?? true;
    this.msiIsolated = d.msiIsolated ?? true;
    this.msiDoorbell = d.msiDoorbell ?? -1;
    this.group = group;
  }

  /** What is attached to the (device, PASID); null for an empty PASID slot. */
  attached(pasid: number): Domain | null {
    if (this.group.isApart(this)) return pasid === NO_PASID ? this.iommu.blocked : null;
    return pasid === NO_PASID ? this.group.domain : (this.group.pasids.get(pasid) ?? null);
  }
}

/** @throws ViommuError `EINVAL` (blame `caller`). */
function checkPasidBits({ name, pasidBits = 0 }: DeviceDescription): void {
  if (Number.isInteger(pasidBits) && pasidBits >= 0 && pasidBits <= 20) return;
  const what = `${name}: pasidBits is 0 (no PASIDs) to 20`;
  throw new ViommuError('EINVAL', 'caller', what, { pasidBits: String(pasidBits) });
}
