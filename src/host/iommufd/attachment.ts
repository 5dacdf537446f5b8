import { Undo } from '../../core/undo.ts';
import { FAILURE_STEP } from '../../ports/failures.ts';
import { E } from '../../spec/iommufd/errno.ts';
import type { IommufdContext } from './context.ts';
import { type Attachment, type IommufdDevice, RID_SLOT } from './device.ts';
import { type Hwpt, pagingOf } from './nested-hwpt.ts';
import { installDoorbells, reserveRegions } from './reserved.ts';
import { standsWhole } from './stream-attachment.ts';

/** Whether a HWPT may be attached to the slot, whatever the driver says. @returns 0 or -EINVAL. */
function suits(hwpt: Hwpt, device: IommufdDevice, pasid: number): number {
  // A VF shares the page-request interface with its PF: a failure response would hit the others.
  if (hwpt.fault !== null && device.dev.virtualFunction && device.dev.pri) return -E.INVAL;
  const { group } = device;
  if (pasid === RID_SLOT) return !hwpt.pasidCompatible && group.hasPasids ? -E.INVAL : 0;
  if (!hwpt.pasidCompatible) return -E.INVAL;
  return group.rid !== undefined && !group.rid.hwpt.pasidCompatible ? -E.INVAL : 0;
}

/**
 * Attaches a HWPT to the device's slot. The first device of a group moves the whole group; the others join it.
 * @returns 0; -EBUSY the device is attached there, or single streams of it are; -EINVAL the group has another HWPT there, or the HWPT does not suit; else
 *   what the IOAS (`reserveRegions`) or the driver says. Nothing has changed then.
 */
export function attachHwpt(context: IommufdContext, device: IommufdDevice, pasid: number, hwpt: Hwpt): number {
  const { group } = device;
  const there = group.attachments.get(pasid);
  if (there?.devices.has(device) || standsWhole(device) !== 0) return -E.BUSY;
  if (there !== undefined && there.hwpt !== hwpt) return -E.INVAL;
  const undo = new Undo();
  let r = pasid === RID_SLOT ? reserveRegions(context, device, pagingOf(hwpt), undo) : 0;
  if (r === 0) r = there === undefined ? attachFirst(context, device, pasid, hwpt) : attachNext(device, pasid, there);
  if (r !== 0) {
    undo.run();
    return r;
  }
  hwpt.users++;
  return 0;
}

function attachFirst(context: IommufdContext, device: IommufdDevice, pasid: number, hwpt: Hwpt): number {
  const { group } = device;
  let r = suits(hwpt, device, pasid);
  if (r === 0 && context.kernel.fails(FAILURE_STEP.ATTACHMENT)) r = -E.NOMEM;
  if (r !== 0) return r;
  r = pasid === RID_SLOT ? group.group.setDomain(hwpt.domain) : group.group.setPasid(hwpt.domain, pasid, false);
  if (r === 0) group.attachments.set(pasid, { hwpt, handle: {}, devices: new Set([device]) });
  return r;
}

function attachNext(device: IommufdDevice, pasid: number, there: Attachment): number {
  const r = pasid === RID_SLOT ? device.group.group.catchUp(device.dev) : 0;
  if (r === 0) there.devices.add(device);
  return r;
}

/**
 * Puts a HWPT in place of what the slot has, for every device of the group that is attached there.
 * @returns 0 (also when it is there already); -EINVAL the device is not attached there, or the HWPT does not suit; else as
 *   `attachHwpt`. The old attachment is in force then.
 */
export function replaceHwpt(context: IommufdContext, device: IommufdDevice, pasid: number, hwpt: Hwpt): number {
  const { group } = device;
  const a = group.attachments.get(pasid);
  if (a === undefined || !a.devices.has(device)) return -E.INVAL;
  const old = a.hwpt;
  if (old === hwpt) return 0;
  const paging = pagingOf(hwpt);
  const undo = new Undo();
  // Only the RID has reserved regions; within one IOAS they stay as they are.
  const moves = pasid === RID_SLOT && pagingOf(old).ioas !== paging.ioas;
  let r = 0;
  if (moves) for (const d of a.devices) r = r === 0 ? reserveRegions(context, d, paging, undo) : r;
  else if (pasid === RID_SLOT) r = installDoorbells(context, group, paging, undo);
  if (r === 0) r = suits(hwpt, device, pasid);
  if (r === 0 && context.kernel.fails(FAILURE_STEP.ATTACHMENT)) r = -E.NOMEM;
  if (r === 0) {
    r = pasid === RID_SLOT ? group.group.setDomain(hwpt.domain) : group.group.setPasid(hwpt.domain, pasid, true);
  }
  if (r !== 0) {
    undo.run();
    return r;
  }
  if (moves) for (const d of a.devices) pagingOf(old).ioas.unreserve(d);
  old.fault?.answerAll(a.handle);
  a.hwpt = hwpt;
  a.handle = {};
  hwpt.users += a.devices.size;
  old.users -= a.devices.size - 1;
  context.putHwpt(old);
  if (old.fault !== null) for (const d of a.devices) d.dropPartial();
  return 0;
}

/**
 * Takes the device out of its slot, with its last device the whole group.
 * @param undo the attach is taken back: nothing that it made stays. @returns what was attached; null: nothing.
 */
export function detachHwpt(device: IommufdDevice, pasid: number, undo: boolean): Hwpt | null {
  const { group } = device;
  const a = group.attachments.get(pasid);
  if (a === undefined || !a.devices.delete(device)) return null;
  const { hwpt } = a;
  if (a.devices.size === 0) {
    if (pasid === RID_SLOT) group.group.block(device.dev.iommu.blocked, undo);
    else group.group.clearPasid(pasid, undo);
    group.attachments.delete(pasid);
    hwpt.fault?.answerAll(a.handle);
  }
  if (pasid === RID_SLOT) pagingOf(hwpt).ioas.unreserve(device);
  if (hwpt.fault !== null) device.dropPartial();
  return hwpt;
}
