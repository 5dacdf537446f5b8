import { NO_PASID } from '../../ports/dma.ts';
import { FAILURE_STEP, type FailureSource } from '../../ports/failures.ts';
import { PGFAULT_CODE } from '../../spec/iommufd/uapi.ts';
import type { DeviceBinding, KernelDevice } from '../kernel/device.ts';
import type { PageFault } from '../kernel/driver.ts';
import type { IommuGroup } from '../kernel/group.ts';
import type { Hwpt } from './nested-hwpt.ts';
import type { ObjectBase } from './object.ts';

/** What a group has attached at one PASID, and which of its devices asked for it. */
export interface Attachment {
  hwpt: Hwpt;
  /** Names this attachment in fault queues: page requests that came through it are answered when it ends. */
  handle: object;
  readonly devices: Set<IommufdDevice>;
}

/** What one stream of a device, or one PASID of it, has attached by itself. */
export interface StreamAttachment {
  readonly hwpt: Hwpt;
  /** Owner of the reserved regions in the HWPT's IOAS. */
  readonly owner: object;
}

/** Keys that one stream has: a PASID has 20 bits, and there is NO_PASID. */
export const STREAM_SLOTS = 2 ** 21;

/** Key of a stream's PASID (NO_PASID: its requests without one) among what a device has attached stream by stream. */
export function streamSlot(stream: number, pasid: number): number {
  return stream * STREAM_SLOTS + pasid + 1;
}

/** The RID's slot in the table of attachments. PASID 0 is the same slot. */
export const RID_SLOT = 0;

/** What an iommufd knows about an IOMMU group: what is attached per PASID, and by which of its devices. */
export class IommufdGroup {
  readonly group: IommuGroup;
  readonly attachments = new Map<number, Attachment>();
  /** Bound devices of the group. */
  devices = 0;
  /** Base of the software MSI window; -1n: none known. */
  swMsi = -1n;

  constructor(group: IommuGroup) {
    this.group = group;
  }

  /** What the RIDs of the group have. */
  get rid(): Attachment | undefined {
    return this.attachments.get(RID_SLOT);
  }
  /** Whether anything is attached to a PASID other than the RID's slot. */
  get hasPasids(): boolean {
    return this.attachments.size > (this.attachments.has(RID_SLOT) ? 1 : 0);
  }
}

/** The groups of one iommufd. */
export type IommufdGroups = Map<IommuGroup, IommufdGroup>;

/** Page requests of incomplete groups that are held of one device. */
const PARTIAL_MAX = 1024;

/** What a bound device is made of. */
export interface IommufdDeviceParts {
  readonly dev: KernelDevice;
  /** The device's group, in `groups`; it leaves them with its last device. */
  readonly group: IommufdGroup;
  readonly groups: IommufdGroups;
  readonly source: FailureSource;
}

/** A device bound to an iommufd (`iommufd_device`). */
export class IommufdDevice implements DeviceBinding {
  readonly kind = 'device';
  id = 0;
  /** The binding itself, and each attachment. */
  users = 1;
  readonly dev: KernelDevice;
  readonly group: IommufdGroup;
  /** Its vDEVICE object. */
  vdevice: ObjectBase | null = null;
  /** Streams and PASIDs of streams that are attached one by one, by `streamSlot`; null: none was yet. */
  streams: Map<number, StreamAttachment> | null = null;
  /** Names of single streams, by index of the stream; null: none was yet. */
  streamVdevices: Map<number, ObjectBase> | null = null;
  /** Unbinding: no new vDEVICE. */
  destroying = false;
  readonly #groups: IommufdGroups;
  readonly #source: FailureSource;
  /** Page requests of groups whose last one has not come. */
  readonly #partial: PageFault[] = [];

  constructor(parts: IommufdDeviceParts) {
    this.dev = parts.dev;
    this.group = parts.group;
    this.#groups = parts.groups;
    this.#source = parts.source;
    parts.group.devices++;
  }

  /** What is attached now at a PASID (0: the RID); null: nothing. */
  attachedTo(pasid: number): Hwpt | null {
    return this.group.attachments.get(pasid)?.hwpt ?? null;
  }

  /** PASIDs this device has something attached to, the RID as 0. VFIO detaches them before it unbinds. */
  attachedPasids(): number[] {
    return [...this.group.attachments].filter(([, a]) => a.devices.has(this)).map(([pasid]) => pasid);
  }

  /**
   * Takes a page fault from the driver. Requests are held until the last of their group has come; then the group goes to
   * the fault queue of what is attached. Without one, and without memory for the group, the answer is INVALID at once; a
   * request that is not the last and finds no memory, or too many of incomplete groups, is lost, as in the kernel.
   */
  report(fault: PageFault): void {
    const a = this.#handler(fault);
    if (a === null || a.hwpt.fault === null) {
      if (fault.last) this.dev.iommu.pageResponse(this.dev, fault, PGFAULT_CODE.INVALID);
      return;
    }
    const short = this.#source.failures?.fails(FAILURE_STEP.FAULT) ?? false;
    if (!fault.last) {
      if (!short && this.#partial.length < PARTIAL_MAX) this.#partial.push(fault);
      return;
    }
    const faults = this.#partial.filter((f) => f.grpid === fault.grpid);
    for (const f of faults) this.#partial.splice(this.#partial.indexOf(f), 1);
    faults.push(fault);
    if (short) {
      this.dev.iommu.pageResponse(this.dev, fault, PGFAULT_CODE.INVALID);
      return;
    }
    a.hwpt.fault.deliver({ device: this, handle: a.handle, faults, cookie: 0 });
  }

  /**
   * A PASID's faults belong to what that PASID has attached. Where the user owns the PASID table, PASIDs are not attached
   * one by one, and the nested HWPT on the RID takes their faults.
   */
  #handler(fault: PageFault): Attachment | null {
    const { attachments } = this.group;
    const own = attachments.get(fault.pasid === NO_PASID ? RID_SLOT : fault.pasid);
    if (own !== undefined) return own;
    if (fault.pasid === NO_PASID || !this.dev.iommu.userPasidTable) return null;
    const rid = attachments.get(RID_SLOT);
    return rid?.hwpt.kind === 'hwpt_nested' ? rid : null;
  }

  /** Requests of incomplete groups are dropped when nothing on the device takes faults any more. */
  dropPartial(): void {
    for (const a of this.group.attachments.values()) if (a.hwpt.fault !== null) return;
    this.#partial.length = 0;
  }

  destroy(): void {
    const { dev, group } = this;
    dev.binding = null;
    dev.devId = 0;
    group.group.rejoin(dev);
    group.group.release();
    if (--group.devices === 0) this.#groups.delete(group.group);
  }
}
