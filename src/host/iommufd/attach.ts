import { NO_PASID } from '../../ports/dma.ts';
import { E } from '../../spec/iommufd/errno.ts';
import { PGFAULT_CODE } from '../../spec/iommufd/uapi.ts';
import type { KernelDevice } from '../kernel/device.ts';
import { MAP_PROT, type PageFault } from '../kernel/driver.ts';
import type { IommuGroup } from '../kernel/group.ts';
import { type Context, MAX_DOORBELLS } from './context.ts';
import { type Hwpt, type PagingHwpt, pagingOf } from './hwpt.ts';
import { allocPagingHwpt } from './hwpt-alloc.ts';
import type { Ioas } from './ioas/ioas.ts';
import type { Vdevice } from './viommu.ts';

/** One attachment of a group: page requests that came through it are answered when it ends. */
export interface Handle {
  readonly device: Device;
}

interface Attachment {
  hwpt: Hwpt;
  handle: Handle;
  readonly devices: Set<Device>;
}

/** The RID's slot in the table of attachments. PASID 0 is the same slot. */
const RID = 0;

/** What an iommufd knows about an IOMMU group: what is attached per PASID, and by which of its devices. */
export class IommufdGroup {
  readonly group: IommuGroup;
  readonly attachments = new Map<number, Attachment>();
  devices = 0;
  /** Base of the software MSI window; -1n: none known. */
  swMsi = -1n;

  constructor(group: IommuGroup) {
    this.group = group;
  }

  get rid(): Attachment | undefined {
    return this.attachments.get(RID);
  }
  get hasPasids(): boolean {
    return this.attachments.size > (this.attachments.has(RID) ? 1 : 0);
  }
}

/** A device bound to an iommufd (`iommufd_device`). */
export class Device {
  readonly kind = 'device';
  id = 0;
  /** The binding itself, and each attachment. */
  users = 1;
  readonly context: Context;
  readonly dev: KernelDevice;
  readonly group: IommufdGroup;
  vdevice: Vdevice | null = null;
  /** Unbinding: no new vDEVICE. */
  destroying = false;
  /** Page requests of groups whose last one has not come. */
  readonly #partial: PageFault[] = [];

  constructor(context: Context, dev: KernelDevice, group: IommufdGroup) {
    this.context = context;
    this.dev = dev;
    this.group = group;
    group.devices++;
  }

  /** Attached here now (`pasid` 0: the RID)? */
  attachedTo(pasid: number): Hwpt | null {
    return this.group.attachments.get(pasid)?.hwpt ?? null;
  }

  /** Takes a page fault from the driver (`iommu_report_device_fault`). */
  report(fault: PageFault): void {
    const handler = this.#handler(fault);
    if (handler === null) {
      if (fault.last) this.dev.iommu.pageResponse(this.dev, fault, PGFAULT_CODE.INVALID);
      return;
    }
    if (!fault.last) {
      this.#partial.push(fault);
      return;
    }
    const faults = this.#partial.filter((f) => f.grpid === fault.grpid);
    for (const f of faults) this.#partial.splice(this.#partial.indexOf(f), 1);
    faults.push(fault);
    handler.hwpt.fault!.deliver({ device: handler.handle.device, handle: handler.handle, faults, cookie: 0 });
  }

  #handler(fault: PageFault): Attachment | null {
    const { attachments } = this.group;
    let a = attachments.get(fault.pasid === NO_PASID ? RID : fault.pasid);
    if (a === undefined && fault.pasid !== NO_PASID && this.dev.iommu.userPasidTable) {
      const rid = attachments.get(RID);
      if (rid?.hwpt.kind === 'hwpt_nested') a = rid;
    }
    return a === undefined || a.hwpt.fault === null ? null : a;
  }

  /** Requests of incomplete groups are dropped when nothing on the device takes faults any more. */
  dropPartial(): void {
    for (const a of this.group.attachments.values()) if (a.hwpt.fault !== null) return;
    this.#partial.length = 0;
  }

  destroy(): void {
    const { dev, group, context } = this;
    dev.bound = null;
    dev.devId = 0;
    group.group.release();
    if (--group.devices === 0) context.groups.delete(group.group);
  }
}

/** `iommufd_device_bind`. @returns the device (published), or -errno. */
export function bindDevice(context: Context, dev: KernelDevice): Device | number {
  if (!dev.cacheCoherent) return -E.INVAL;
  if (!dev.grouped) return -E.NODEV;
  if (!dev.msiIsolated && !context.kernel.allowUnsafeInterrupts) return -E.PERM;
  const r = dev.group.claim(context);
  if (r !== 0) return r;
  let group = context.groups.get(dev.group);
  if (group === undefined) {
    group = new IommufdGroup(dev.group);
    context.groups.set(dev.group, group);
  }
  const device = new Device(context, dev, group);
  device.id = context.objects.reserve();
  dev.devId = device.id;
  dev.bound = device;
  context.objects.publish(device);
  return device;
}

/** `iommufd_device_unbind`: a live vDEVICE dies and leaves a tombstone. Everything must be detached. */
export function unbindDevice(device: Device): void {
  device.destroying = true;
  if (device.vdevice !== null) device.context.objects.remove(device.vdevice, true);
  device.users--;
  device.context.objects.remove(device);
}

/** What attach and replace do with a HWPT: 0 or -errno. */
type Change = (device: Device, pasid: number, hwpt: Hwpt) => number;

/**
 * `iommufd_device_attach`. @param pasid 0: the RID. @param ptId an IOAS or a HWPT.
 * @returns 0 (then `Context.changedTo` is the HWPT's id) or -errno.
 */
export function attachDevice(device: Device, pasid: number, ptId: number): number {
  const r = change(device, pasid, ptId, attachHwpt);
  if (r === 0) device.users++;
  return r;
}

/** `iommufd_device_replace`: moves every device of the group. On failure the old attachment stays. */
export function replaceDevice(device: Device, pasid: number, ptId: number): number {
  return change(device, pasid, ptId, replaceHwpt);
}

function change(device: Device, pasid: number, ptId: number, how: Change): number {
  const pt = device.context.objects.any(ptId);
  if (pt === null) return -E.NOENT;
  switch (pt.kind) {
    case 'hwpt_paging':
    case 'hwpt_nested': {
      device.context.changedTo = pt.id;
      return how(device, pasid, pt);
    }
    case 'ioas':
      return changeToIoas(device, pasid, pt, how);
    default:
      return -E.INVAL;
  }
}

function changeToIoas(device: Device, pasid: number, ioas: Ioas, how: Change): number {
  for (const hwpt of ioas.hwpts) {
    if (!hwpt.auto) continue;
    const r = how(device, pasid, hwpt);
    // EINVAL: this domain does not suit the device, another one might.
    if (r === -E.INVAL) continue;
    device.context.changedTo = hwpt.id;
    return r;
  }
  const { context } = device;
  // Attaching takes the hardware first and joins the IOAS then; replacing joins first.
  const immediate = how === attachHwpt;
  const hwpt = allocPagingHwpt(context, ioas, device, 0, null, (made: PagingHwpt) => {
    if (!immediate) return made.join();
    const r = attachHwpt(device, pasid, made);
    if (r !== 0) return r;
    const joined = made.join();
    if (joined !== 0) detachHwpt(device, pasid, false);
    return joined;
  });
  if (typeof hwpt === 'number') return hwpt;
  if (!immediate) {
    const r = how(device, pasid, hwpt);
    if (r !== 0) {
      context.abort(hwpt);
      return r;
    }
  }
  hwpt.auto = true;
  context.objects.publish(hwpt);
  device.context.changedTo = hwpt.id;
  return 0;
}

function suits(hwpt: Hwpt, device: Device, pasid: number): number {
  // A VF shares the page-request interface with its PF: a failure response would hit the others.
  if (hwpt.fault !== null && device.dev.virtualFunction && device.dev.pri) return -E.INVAL;
  const { group } = device;
  if (pasid === RID) return !hwpt.pasidCompatible && group.hasPasids ? -E.INVAL : 0;
  if (!hwpt.pasidCompatible) return -E.INVAL;
  return group.rid !== undefined && !group.rid.hwpt.pasidCompatible ? -E.INVAL : 0;
}

function attachHwpt(device: Device, pasid: number, hwpt: Hwpt): number {
  const { group } = device;
  const there = group.attachments.get(pasid);
  if (there?.devices.has(device)) return -E.BUSY;
  if (there !== undefined && there.hwpt !== hwpt) return -E.INVAL;
  const paging = pagingOf(hwpt);
  if (pasid === RID) {
    const r = reserveRegions(device, paging);
    if (r !== 0) return r;
  }
  if (there === undefined) {
    let r = suits(hwpt, device, pasid);
    if (r === 0)
      r = pasid === RID ? group.group.setDomain(hwpt.domain) : group.group.setPasid(hwpt.domain, pasid, false);
    if (r !== 0) {
      if (pasid === RID) paging.ioas.unreserve(device);
      return r;
    }
    group.attachments.set(pasid, { hwpt, handle: { device }, devices: new Set([device]) });
  } else {
    const r = pasid === RID ? group.group.catchUp(device.dev) : 0;
    if (r !== 0) {
      paging.ioas.unreserve(device);
      return r;
    }
    there.devices.add(device);
  }
  hwpt.users++;
  return 0;
}

function replaceHwpt(device: Device, pasid: number, hwpt: Hwpt): number {
  const { group, context } = device;
  const a = group.attachments.get(pasid);
  if (a === undefined || !a.devices.has(device)) return -E.INVAL;
  const old = a.hwpt;
  if (old === hwpt) return 0;
  const paging = pagingOf(hwpt);
  const moves = pasid === RID && pagingOf(old).ioas !== paging.ioas;
  let r = 0;
  if (moves) for (const d of a.devices) if (r === 0) r = reserveRegions(d, paging);
  if (r === 0 && pasid === RID && !moves) r = installDoorbells(group, context, paging);
  if (r === 0) r = suits(hwpt, device, pasid);
  if (r === 0) r = pasid === RID ? group.group.setDomain(hwpt.domain) : group.group.setPasid(hwpt.domain, pasid, true);
  if (r !== 0) {
    if (moves) for (const d of a.devices) paging.ioas.unreserve(d);
    return r;
  }
  if (moves) for (const d of a.devices) pagingOf(old).ioas.unreserve(d);
  old.fault?.answerAll(a.handle);
  a.hwpt = hwpt;
  a.handle = { device };
  hwpt.users += a.devices.size;
  old.users -= a.devices.size - 1;
  context.putHwpt(old);
  if (old.fault !== null) for (const d of a.devices) d.dropPartial();
  return 0;
}

/** `iommufd_device_detach`: never fails, also when nothing is attached. */
export function detachDevice(device: Device, pasid: number): void {
  if (detachHwpt(device, pasid, true)) device.users--;
}

function detachHwpt(device: Device, pasid: number, put: boolean): boolean {
  const { group } = device;
  const a = group.attachments.get(pasid);
  if (a === undefined) return false;
  const { hwpt } = a;
  a.devices.delete(device);
  if (a.devices.size === 0) {
    if (pasid === RID) group.group.block(device.dev.iommu.blocked);
    else group.group.clearPasid(pasid);
    group.attachments.delete(pasid);
    hwpt.fault?.answerAll(a.handle);
  }
  if (pasid === RID) pagingOf(hwpt).ioas.unreserve(device);
  if (put) device.context.putHwpt(hwpt);
  else hwpt.users--;
  if (hwpt.fault !== null) device.dropPartial();
  return true;
}

/** PASIDs the device has something attached to (VFIO detaches them before it unbinds). */
export function attachedPasids(device: Device): number[] {
  return [...device.group.attachments].filter(([, a]) => a.devices.has(device)).map(([pasid]) => pasid);
}

/** Keeps the device's reserved regions out of the IOAS, and its doorbell in. */
function reserveRegions(device: Device, paging: PagingHwpt): number {
  const { group, context, dev } = device;
  let hardware = 0;
  let software = 0;
  let r = 0;
  for (const region of dev.iommu.reservedRegions(dev)) {
    if (region.kind === 'direct-relaxable') continue;
    if (region.kind === 'msi') hardware++;
    if (region.kind === 'sw-msi') {
      software++;
      group.swMsi = region.start;
    }
    r = paging.ioas.reserve(region.start, region.last, device);
    if (r !== 0) break;
  }
  if (r === 0 && ((hardware > 0 && software > 0) || software > 1)) r = -E.INVAL;
  if (r === 0) r = installDoorbells(group, context, paging);
  if (r !== 0) paging.ioas.unreserve(device);
  return r;
}

/** Maps the interrupt doorbells of the group's devices at their places in the software MSI window. */
function installDoorbells(group: IommufdGroup, context: Context, paging: PagingHwpt): number {
  if (group.swMsi < 0n) return 0;
  for (const dev of group.group.devices) {
    if (dev.msiDoorbell < 0 || paging.doorbells.has(dev.msiDoorbell)) continue;
    let n = context.doorbells.indexOf(dev.msiDoorbell);
    if (n < 0) {
      if (context.doorbells.length === MAX_DOORBELLS) return -E.OVERFLOW;
      n = context.doorbells.push(dev.msiDoorbell) - 1;
    }
    const prot = MAP_PROT.READ | MAP_PROT.WRITE | MAP_PROT.MMIO;
    const r = paging.domain.map(group.swMsi + BigInt(n) * 4096n, dev.msiDoorbell, 4096, prot);
    if (r !== 0) return r;
    paging.doorbells.add(dev.msiDoorbell);
  }
  return 0;
}
