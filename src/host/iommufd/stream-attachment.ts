import { Undo } from '../../core/undo.ts';
import { NO_PASID } from '../../ports/dma.ts';
import { FAILURE_STEP } from '../../ports/failures.ts';
import { E } from '../../spec/iommufd/errno.ts';
import type { IommufdContext } from './context.ts';
import { type IommufdDevice, STREAM_SLOTS, type StreamAttachment, streamSlot } from './device.ts';
import { type Hwpt, pagingOf } from './nested-hwpt.ts';
import { installDoorbells, reserveRegions } from './reserved.ts';

/**
 * A device whose streams are attached one by one is attached to nothing as a whole, also when others of its group are.
 * @returns 0; -EBUSY: something is attached to it; -errno: it cannot leave what its group has.
 */
export function standsApart(device: IommufdDevice): number {
  for (const a of device.group.attachments.values()) if (a.devices.has(device)) return -E.BUSY;
  return device.group.group.setApart(device.dev);
}

/** One stream of a device, or one PASID of it. */
interface StreamPlace {
  readonly device: IommufdDevice;
  /** Index into the device's streams. */
  readonly stream: number;
  /** NO_PASID: its requests without PASID. */
  readonly pasid: number;
}

/**
 * Attaches a HWPT to one stream of a device, or to one PASID of it, in place of what is there. The attachment holds a
 * reference to the HWPT.
 * @param stream index into the device's streams. @param hwptId 0: it is detached. @param pasid NO_PASID: the stream itself.
 * @returns 0; -ENOENT no such device; -EINVAL no such stream, PASID or HWPT, or the HWPT is not for devices with PASIDs;
 *   -EBUSY the device is attached as a whole; -EOPNOTSUPP the driver has one configuration per device, or the HWPT has a
 *   fault queue; -ENOMEM; else as `reserveRegions` and the driver. On an error of an attach nothing has changed; what is to
 *   be detached is detached.
 */
export function attachStream(
  context: IommufdContext,
  devId: number,
  stream: number,
  hwptId: number,
  pasid: number,
): number {
  const device = context.objects.get(devId, 'device');
  if (device === null) return -E.NOENT;
  if (!(stream >= 0 && stream < device.dev.streams.length)) return -E.INVAL;
  const place = { device, stream, pasid };
  if (hwptId === 0) return detachStream(context, place);
  const hwpt = context.objects.any(hwptId);
  if (hwpt?.kind !== 'hwpt_paging' && hwpt?.kind !== 'hwpt_nested') return -E.INVAL;
  if (hwpt.domain.attachStream === undefined || hwpt.fault !== null) return -E.OPNOTSUPP;
  if (pasid !== NO_PASID && (!hwpt.pasidCompatible || pasid >= device.dev.maxPasids)) return -E.INVAL;
  const apart = standsApart(device);
  if (apart !== 0) return apart;
  const old = device.streams?.get(streamSlot(stream, pasid));
  return old?.hwpt === hwpt ? 0 : replace(context, place, hwpt, old);
}

function replace(
  context: IommufdContext,
  { device, stream, pasid }: StreamPlace,
  hwpt: Hwpt,
  old: StreamAttachment | undefined,
): number {
  const { dev, group } = device;
  const paging = pagingOf(hwpt);
  // Only requests without PASID have reserved regions; within one IOAS they stay as they are.
  const reserves = pasid === NO_PASID;
  const stays = old !== undefined && (!reserves || pagingOf(old.hwpt).ioas === paging.ioas);
  const owner = stays ? old.owner : {};
  const undo = new Undo();
  let r = 0;
  if (reserves) {
    r = stays ? installDoorbells(context, group, paging, undo) : reserveRegions(context, device, paging, undo, owner);
  }
  if (r === 0 && context.kernel.fails(FAILURE_STEP.ATTACHMENT)) r = -E.NOMEM;
  const nothing = reserves ? dev.iommu.blocked : null;
  if (r === 0) r = hwpt.domain.attachStream!(dev, stream, old?.hwpt.domain ?? nothing, pasid);
  if (r !== 0) {
    undo.run();
    return r;
  }
  hwpt.users++;
  device.streams ??= new Map();
  device.streams.set(streamSlot(stream, pasid), { hwpt, owner });
  if (old === undefined) {
    device.users++;
    return 0;
  }
  if (!stays) pagingOf(old.hwpt).ioas.unreserve(old.owner);
  context.putHwpt(old.hwpt);
  return 0;
}

/** @returns 0; -errno: the stream is detached, but the hardware did not confirm. */
function detachStream(context: IommufdContext, { device, stream, pasid }: StreamPlace): number {
  const slot = streamSlot(stream, pasid);
  const old = device.streams?.get(slot);
  if (old === undefined) return 0;
  const r = device.dev.iommu.blocked.attachStream?.(device.dev, stream, old.hwpt.domain, pasid) ?? 0;
  pagingOf(old.hwpt).ioas.unreserve(old.owner);
  device.streams?.delete(slot);
  device.users--;
  context.putHwpt(old.hwpt);
  return r;
}

/** The device goes: all its streams are detached, PASIDs first. */
export function detachStreams(context: IommufdContext, device: IommufdDevice): void {
  const slots = [...(device.streams?.keys() ?? [])].sort((a, b) => b - a);
  for (const slot of slots) {
    const stream = Math.floor(slot / STREAM_SLOTS);
    detachStream(context, { device, stream, pasid: (slot % STREAM_SLOTS) - 1 });
  }
}

/** Whether a device can be attached as a whole. @returns 0, or -EBUSY: streams of it are attached or have names. */
export function standsWhole(device: IommufdDevice): number {
  if ((device.streams?.size ?? 0) > 0 || (device.streamVdevices?.size ?? 0) > 0) return -E.BUSY;
  device.group.group.rejoin(device.dev);
  return 0;
}
