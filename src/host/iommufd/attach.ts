import { E } from '../../spec/iommufd/errno.ts';
import { attachHwpt, detachHwpt, replaceHwpt } from './attachment.ts';
import type { IommufdContext } from './context.ts';
import type { IommufdDevice } from './device.ts';
import { allocPagingHwpt } from './hwpt-alloc.ts';
import type { Ioas } from './ioas/ioas.ts';
import type { Hwpt } from './nested-hwpt.ts';
import type { PagingHwpt } from './paging-hwpt.ts';

/** What attach and replace do with a HWPT: 0 or -errno. */
type Change = (context: IommufdContext, device: IommufdDevice, pasid: number, hwpt: Hwpt) => number;

/**
 * `iommufd_device_attach`. @param pasid 0: the RID. @param ptId an IOAS or a HWPT.
 * @returns the id of the HWPT that is attached now, or -errno: -ENOENT no such object, -EINVAL it is neither, else see
 *   `attachHwpt`.
 */
export function attachDevice(context: IommufdContext, device: IommufdDevice, pasid: number, ptId: number): number {
  const r = change(context, device, pasid, ptId, attachHwpt);
  if (r > 0) device.users++;
  return r;
}

/** `iommufd_device_replace`: moves every device of the group. Arguments and result as in `attachDevice`. */
export function replaceDevice(context: IommufdContext, device: IommufdDevice, pasid: number, ptId: number): number {
  return change(context, device, pasid, ptId, replaceHwpt);
}

/** `iommufd_device_detach`: never fails, also when nothing is attached. */
export function detachDevice(context: IommufdContext, device: IommufdDevice, pasid: number): void {
  const hwpt = detachHwpt(device, pasid, false);
  if (hwpt === null) return;
  device.users--;
  context.putHwpt(hwpt);
}

function change(context: IommufdContext, device: IommufdDevice, pasid: number, ptId: number, how: Change): number {
  const pt = context.objects.any(ptId);
  if (pt === null) return -E.NOENT;
  switch (pt.kind) {
    case 'hwpt_paging':
    case 'hwpt_nested':
      return how(context, device, pasid, pt) || pt.id;
    case 'ioas':
      return changeToIoas(context, device, pasid, pt, how);
    default:
      return -E.INVAL;
  }
}

/** An automatic HWPT of the IOAS that suits the device is used again; without one a new one is made. */
function changeToIoas(context: IommufdContext, device: IommufdDevice, pasid: number, ioas: Ioas, how: Change): number {
  for (const hwpt of context.automatic.get(ioas) ?? []) {
    const r = how(context, device, pasid, hwpt);
    // EINVAL: this domain does not suit the device, another one might.
    if (r !== -E.INVAL) return r || hwpt.id;
  }
  // Attaching takes the hardware first and joins the IOAS then; replacing joins first. It decides which error is told.
  return how === attachHwpt
    ? attachThenJoin(context, device, pasid, ioas)
    : joinThenChange(context, device, pasid, ioas, how);
}

function attachThenJoin(context: IommufdContext, device: IommufdDevice, pasid: number, ioas: Ioas): number {
  const hwpt = allocPagingHwpt(context, { ioas, device, flags: 0, data: null }, (made: PagingHwpt) => {
    const r = attachHwpt(context, device, pasid, made);
    if (r !== 0) return r;
    const joined = made.join();
    if (joined !== 0) {
      detachHwpt(device, pasid, true);
      made.users--;
    }
    return joined;
  });
  if (typeof hwpt === 'number') return hwpt;
  context.publishAutomatic(hwpt);
  return hwpt.id;
}

function joinThenChange(
  context: IommufdContext,
  device: IommufdDevice,
  pasid: number,
  ioas: Ioas,
  how: Change,
): number {
  const hwpt = allocPagingHwpt(context, { ioas, device, flags: 0, data: null }, (made) => made.join());
  if (typeof hwpt === 'number') return hwpt;
  const r = how(context, device, pasid, hwpt);
  if (r !== 0) {
    context.abort(hwpt);
    return r;
  }
  context.publishAutomatic(hwpt);
  return hwpt.id;
}
