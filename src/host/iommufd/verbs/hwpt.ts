import type { GetDirtyBitmap, GetHwInfo, HwptAlloc, SetDirtyTracking, UserData } from '../../../ports/iommufd.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import {
  DIRTY_BITMAP_FLAG,
  DIRTY_FLAG,
  HW_CAP,
  HW_INFO_FLAG,
  HWPT_DATA,
  HWPT_FLAG,
} from '../../../spec/iommufd/uapi.ts';
import type { DriverData } from '../../kernel/driver.ts';
import type { IommufdContext, Respond } from '../context.ts';
import { allocNestedHwpt, allocPagingHwpt, allocViommuHwpt } from '../hwpt-alloc.ts';
import type { Hwpt } from '../nested-hwpt.ts';
import { DirtyBitmap } from './dirty.ts';

/** Data of length 0 at no address. */
export const NO_DATA: UserData = { length: 0, copyIn: () => true, copyOut: () => true };

export function hwptAlloc(context: IommufdContext, c: HwptAlloc, respond: Respond): number {
  const data: DriverData = { type: c.dataType, user: c.data ?? NO_DATA };
  const length = data.user.length;
  if (c.reserved !== 0) return -E.OPNOTSUPP;
  if ((c.dataType === HWPT_DATA.NONE) !== (length === 0)) return -E.INVAL;
  const { objects } = context;
  const device = objects.get(c.devId, 'device');
  if (device === null) return -E.NOENT;
  const pt = objects.any(c.ptId);
  if (pt === null) return -E.INVAL;
  let hwpt: Hwpt | number;
  switch (pt.kind) {
    case 'ioas':
      hwpt = allocPagingHwpt(context, { ioas: pt, device, flags: c.flags, data: length > 0 ? data : null }, (made) =>
        made.join(),
      );
      break;
    case 'hwpt_paging':
      hwpt = allocNestedHwpt(context, { parent: pt, device, flags: c.flags, data });
      break;
    case 'viommu':
      hwpt = pt.iommu === device.dev.iommu ? allocViommuHwpt(context, { viommu: pt, flags: c.flags, data }) : -E.INVAL;
      break;
    default:
      return -E.INVAL;
  }
  if (typeof hwpt === 'number') return hwpt;
  if ((c.flags & HWPT_FLAG.FAULT_ID_VALID) !== 0) {
    const fault = objects.get(c.faultId, 'fault');
    if (fault === null) {
      context.abort(hwpt);
      return -E.NOENT;
    }
    hwpt.fault = fault;
    hwpt.domain.iopf = true;
    fault.users++;
  }
  c.outHwptId = hwpt.id;
  return context.finish(hwpt, respond) ? 0 : -E.FAULT;
}

/** `reserved`: the structure's three reserved bytes, or-ed. */
export function getHwInfo(context: IommufdContext, c: GetHwInfo, reserved: number, respond: Respond): number {
  if ((c.flags & ~HW_INFO_FLAG.INPUT_TYPE) !== 0 || reserved !== 0) return -E.OPNOTSUPP;
  const device = context.objects.get(c.devId, 'device');
  if (device === null) return -E.NOENT;
  const { dev } = device;
  const info = dev.iommu.hwInfo(dev, (c.flags & HW_INFO_FLAG.INPUT_TYPE) !== 0 ? c.dataType : 0);
  if (info === null) return -E.OPNOTSUPP;
  const user = c.data ?? NO_DATA;
  const n = Math.min(c.dataLen, info.data.length);
  if (n > 0 && !user.copyOut(0, info.data.subarray(0, n))) return -E.FAULT;
  if (c.dataLen > n && !zeroTail(user, n, c.dataLen - n)) return -E.FAULT;
  c.dataLen = info.data.length;
  c.dataType = info.type;
  c.outCapabilities = dev.iommu.dirtyCapable(dev) ? HW_CAP.DIRTY_TRACKING : 0n;
  if (!dev.iommu.atsCapable(dev)) c.outCapabilities |= HW_CAP.PCI_ATS_NOT_SUPPORTED;
  c.outMaxPasidLog2 = 0;
  if (dev.maxPasids > 0) {
    c.outMaxPasidLog2 = Math.floor(Math.log2(dev.maxPasids));
    if (dev.pasidExec) c.outCapabilities |= HW_CAP.PCI_PASID_EXEC;
    if (dev.pasidPriv) c.outCapabilities |= HW_CAP.PCI_PASID_PRIV;
  }
  return respond() ? 0 : -E.FAULT;
}

const ZEROES = new Uint8Array(4096);

function zeroTail(user: UserData, from: number, bytes: number): boolean {
  for (let done = 0; done < bytes; ) {
    const n = Math.min(bytes - done, ZEROES.length);
    if (!user.copyOut(from + done, ZEROES.subarray(0, n))) return false;
    done += n;
  }
  return true;
}

export function setDirtyTracking(context: IommufdContext, c: SetDirtyTracking): number {
  if ((c.flags & ~DIRTY_FLAG.ENABLE) !== 0) return -E.OPNOTSUPP;
  const hwpt = context.objects.get(c.hwptId, 'hwpt_paging');
  if (hwpt === null) return -E.NOENT;
  const { dirty } = hwpt.domain;
  if (dirty === null) return -E.OPNOTSUPP;
  const enable = (c.flags & DIRTY_FLAG.ENABLE) !== 0;
  if (enable) {
    // A clean snapshot: nothing that was written before counts.
    for (const area of hwpt.ioas.areas) {
      const r = dirty.read(area.start, BigInt(area.length), false, { dirty() {} });
      if (r !== 0) return r;
    }
  }
  return dirty.set(enable);
}

export function getDirtyBitmap(context: IommufdContext, c: GetDirtyBitmap): number {
  if ((c.flags & ~DIRTY_BITMAP_FLAG.NO_CLEAR) !== 0 || c.reserved !== 0) return -E.OPNOTSUPP;
  const hwpt = context.objects.get(c.hwptId, 'hwpt_paging');
  if (hwpt === null) return -E.NOENT;
  if (c.length === 0n || c.iova + c.length - 1n > 0xffff_ffff_ffff_ffffn) return -E.OVERFLOW;
  const last = c.iova + c.length - 1n;
  const mask = BigInt(hwpt.ioas.alignment) - 1n;
  if ((c.iova & mask) !== 0n || ((last + 1n) & mask) !== 0n) return -E.INVAL;
  if (c.pageSize === 0n) return -E.INVAL;
  if ((c.iova & (c.pageSize - 1n)) !== 0n || ((last + 1n) & (c.pageSize - 1n)) !== 0n) return -E.INVAL;
  const { dirty } = hwpt.domain;
  if (dirty === null) return -E.OPNOTSUPP;
  const bitmap = new DirtyBitmap(c.data ?? NO_DATA, c.iova, c.pageSize);
  const noClear = (c.flags & DIRTY_BITMAP_FLAG.NO_CLEAR) !== 0;
  // A hole or a failing read ends the walk; what was found until then is reported, and the call succeeds.
  for (let at = c.iova; at <= last; ) {
    const area = hwpt.ioas.areas.first(at, at);
    if (area === null) break;
    const end = area.last < last ? area.last : last;
    if (dirty.read(at, end - at + 1n, noClear, bitmap) !== 0) break;
    at = end + 1n;
  }
  bitmap.flush();
  return 0;
}
