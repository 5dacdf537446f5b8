import { E } from '../../spec/iommufd/errno.ts';
import { HWPT_FLAG } from '../../spec/iommufd/uapi.ts';
import type { DriverData } from '../kernel/driver.ts';
import type { Device } from './attach.ts';
import type { Context } from './context.ts';
import { NestedHwpt, PagingHwpt } from './hwpt.ts';
import type { Ioas } from './ioas/ioas.ts';
import type { Viommu } from './viommu.ts';

const PAGING_FLAGS = HWPT_FLAG.NEST_PARENT | HWPT_FLAG.DIRTY_TRACKING | HWPT_FLAG.FAULT_ID_VALID | HWPT_FLAG.PASID;
const NESTED_FLAGS = HWPT_FLAG.FAULT_ID_VALID | HWPT_FLAG.PASID;

/**
 * A HWPT over an IOAS, its id reserved but not published.
 * @param join brings it into the IOAS (and attaches, for an automatic one). @returns the HWPT or -errno; nothing is left then.
 */
export function allocPagingHwpt(
  context: Context,
  ioas: Ioas,
  device: Device,
  flags: number,
  data: DriverData | null,
  join: (hwpt: PagingHwpt) => number,
): PagingHwpt | number {
  const { dev } = device;
  if ((flags & ~PAGING_FLAGS) !== 0) return -E.OPNOTSUPP;
  if ((flags & HWPT_FLAG.DIRTY_TRACKING) !== 0 && !dev.iommu.dirtyCapable(dev)) return -E.OPNOTSUPP;
  if ((flags & HWPT_FLAG.FAULT_ID_VALID) !== 0 && (flags & HWPT_FLAG.NEST_PARENT) !== 0) return -E.OPNOTSUPP;
  const id = context.objects.reserve();
  const domain = dev.iommu.allocPaging(dev, flags & ~HWPT_FLAG.FAULT_ID_VALID, data);
  if (typeof domain === 'number') {
    context.objects.release(id);
    return domain;
  }
  const hwpt = new PagingHwpt(domain, ioas, (flags & HWPT_FLAG.NEST_PARENT) !== 0, (flags & HWPT_FLAG.PASID) !== 0);
  hwpt.id = id;
  // Some page tables carry the mode in every entry, so it is decided before the first mapping.
  if (dev.iommu.enforcesCoherency) hwpt.coherent = domain.enforceCacheCoherency();
  const r = dev.iommu.enforcesCoherency && !hwpt.coherent ? -E.INVAL : join(hwpt);
  if (r === 0) return hwpt;
  context.abort(hwpt);
  return r;
}

/** A nested HWPT directly on a parent. The id is reserved but not published. */
export function allocNestedHwpt(
  context: Context,
  parent: PagingHwpt,
  device: Device,
  flags: number,
  data: DriverData,
): NestedHwpt | number {
  const { dev } = device;
  const alloc = dev.iommu.allocNested;
  if ((flags & ~NESTED_FLAGS) !== 0 || data.user.length === 0 || alloc === null) return -E.OPNOTSUPP;
  if (parent.auto || !parent.nestParent || !sameDriver(parent, device)) return -E.INVAL;
  const id = context.objects.reserve();
  const domain = alloc.call(dev.iommu, dev, parent.domain, flags & ~HWPT_FLAG.FAULT_ID_VALID, data);
  return finish(context, id, domain, parent, null, flags);
}

/** A nested HWPT through a vIOMMU. */
export function allocViommuHwpt(
  context: Context,
  viommu: Viommu,
  flags: number,
  data: DriverData,
): NestedHwpt | number {
  const { driver } = viommu;
  if ((flags & ~NESTED_FLAGS) !== 0 || data.user.length === 0) return -E.OPNOTSUPP;
  if (driver.allocNested === null) return -E.OPNOTSUPP;
  const id = context.objects.reserve();
  const domain = driver.allocNested.call(driver, flags & ~HWPT_FLAG.FAULT_ID_VALID, data);
  return finish(context, id, domain, viommu.hwpt, viommu, flags);
}

function finish(
  context: Context,
  id: number,
  domain: NestedHwpt['domain'] | number,
  parent: PagingHwpt,
  viommu: Viommu | null,
  flags: number,
): NestedHwpt | number {
  if (typeof domain === 'number') {
    context.objects.release(id);
    return domain;
  }
  const hwpt = new NestedHwpt(domain, parent, viommu, (flags & HWPT_FLAG.PASID) !== 0);
  hwpt.id = id;
  return hwpt;
}

/** Linux compares the drivers' ops, so instances of one driver pass here and fail at attach. */
function sameDriver(parent: PagingHwpt, device: Device): boolean {
  return parent.domain.iommu.driver === device.dev.iommu.driver;
}
