import { FAILURE_STEP } from '../../ports/failures.ts';
import { E } from '../../spec/iommufd/errno.ts';
import { HWPT_FLAG } from '../../spec/iommufd/uapi.ts';
import type { DriverData, NestedDomain } from '../kernel/driver.ts';
import type { IommufdContext } from './context.ts';
import type { IommufdDevice } from './device.ts';
import type { Ioas } from './ioas/ioas.ts';
import { NestedHwpt, type NestedHwptParts } from './nested-hwpt.ts';
import { PagingHwpt } from './paging-hwpt.ts';
import type { Viommu } from './viommu.ts';

const PAGING_FLAGS = HWPT_FLAG.NEST_PARENT | HWPT_FLAG.DIRTY_TRACKING | HWPT_FLAG.FAULT_ID_VALID | HWPT_FLAG.PASID;
const NESTED_FLAGS = HWPT_FLAG.FAULT_ID_VALID | HWPT_FLAG.PASID;

/** What a HWPT over an IOAS is asked for with. `flags` are HWPT_FLAG bits. */
export interface PagingRequest {
  readonly ioas: Ioas;
  readonly device: IommufdDevice;
  readonly flags: number;
  /** null: none given. */
  readonly data: DriverData | null;
}

/** What a nested HWPT directly on a parent is asked for with. */
export interface NestedRequest {
  readonly parent: PagingHwpt;
  readonly device: IommufdDevice;
  readonly flags: number;
  readonly data: DriverData;
}

/** What a nested HWPT through a vIOMMU is asked for with. */
export interface ViommuRequest {
  readonly viommu: Viommu;
  readonly flags: number;
  readonly data: DriverData;
}

/**
 * A HWPT over an IOAS, its id reserved but not published.
 * @param join brings it into the IOAS (and attaches, for an automatic one).
 * @returns the HWPT; -EOPNOTSUPP flags or data the driver cannot do; -EINVAL the device's coherency cannot be had; -ENOMEM;
 *   else what `join` says. Nothing is left on error.
 */
export function allocPagingHwpt(
  context: IommufdContext,
  request: PagingRequest,
  join: (hwpt: PagingHwpt) => number,
): PagingHwpt | number {
  const { ioas, flags, data } = request;
  const { dev } = request.device;
  if ((flags & ~PAGING_FLAGS) !== 0) return -E.OPNOTSUPP;
  if ((flags & HWPT_FLAG.DIRTY_TRACKING) !== 0 && !dev.iommu.dirtyCapable(dev)) return -E.OPNOTSUPP;
  if ((flags & HWPT_FLAG.FAULT_ID_VALID) !== 0 && (flags & HWPT_FLAG.NEST_PARENT) !== 0) return -E.OPNOTSUPP;
  const id = context.objects.reserve();
  if (id === 0) return -E.NOMEM;
  const domain = context.kernel.fails(FAILURE_STEP.DOMAIN)
    ? -E.NOMEM
    : dev.iommu.allocPaging(dev, flags & ~HWPT_FLAG.FAULT_ID_VALID, data);
  if (typeof domain === 'number') {
    context.objects.release(id);
    return domain;
  }
  const hwpt = new PagingHwpt({
    domain,
    ioas,
    nestParent: (flags & HWPT_FLAG.NEST_PARENT) !== 0,
    pasidCompatible: (flags & HWPT_FLAG.PASID) !== 0,
  });
  hwpt.id = id;
  // Some page tables carry the mode in every entry, so it is decided before the first mapping.
  if (dev.iommu.enforcesCoherency) hwpt.coherent = domain.enforceCacheCoherency();
  const r = dev.iommu.enforcesCoherency && !hwpt.coherent ? -E.INVAL : join(hwpt);
  if (r === 0) return hwpt;
  context.abort(hwpt);
  return r;
}

/**
 * A nested HWPT directly on a parent, its id reserved but not published.
 * @returns the HWPT; -EOPNOTSUPP flags, no data, or the driver nests through vIOMMUs only; -EINVAL the parent is automatic,
 *   not a nest parent, or of another driver; -ENOMEM; else what the driver says.
 */
export function allocNestedHwpt(context: IommufdContext, request: NestedRequest): NestedHwpt | number {
  const { parent, flags, data } = request;
  const { dev } = request.device;
  const alloc = dev.iommu.allocNested;
  if ((flags & ~NESTED_FLAGS) !== 0 || data.user.length === 0 || alloc === null) return -E.OPNOTSUPP;
  // Linux compares the drivers' operations, so another instance of the same driver passes here and fails at attach.
  const sameDriver = parent.domain.iommu.driver === dev.iommu.driver;
  if (parent.auto || !parent.nestParent || !sameDriver) return -E.INVAL;
  const id = reserve(context);
  if (id < 0) return id;
  const domain = alloc.call(dev.iommu, dev, parent.domain, flags & ~HWPT_FLAG.FAULT_ID_VALID, data);
  return finish(context, id, domain, { parent, viommu: null, flags });
}

/** A nested HWPT through a vIOMMU, its id reserved but not published. Errors as in `allocNestedHwpt`. */
export function allocViommuHwpt(context: IommufdContext, request: ViommuRequest): NestedHwpt | number {
  const { viommu, flags, data } = request;
  const { driver } = viommu;
  const alloc = driver.allocNested;
  if ((flags & ~NESTED_FLAGS) !== 0 || data.user.length === 0 || alloc === null) return -E.OPNOTSUPP;
  const id = reserve(context);
  if (id < 0) return id;
  const domain = alloc.call(driver, flags & ~HWPT_FLAG.FAULT_ID_VALID, data);
  return finish(context, id, domain, { parent: viommu.hwpt, viommu, flags });
}

/** An id for a nested HWPT; -ENOMEM: none, or no memory for its domain. */
function reserve(context: IommufdContext): number {
  const id = context.objects.reserve();
  if (id === 0) return -E.NOMEM;
  if (!context.kernel.fails(FAILURE_STEP.DOMAIN)) return id;
  context.objects.release(id);
  return -E.NOMEM;
}

/** Makes the HWPT of what the driver allocated; gives `id` back if that was an errno. */
function finish(
  context: IommufdContext,
  id: number,
  domain: NestedDomain | number,
  on: Pick<NestedHwptParts, 'parent' | 'viommu'> & { readonly flags: number },
): NestedHwpt | number {
  if (typeof domain === 'number') {
    context.objects.release(id);
    return domain;
  }
  const { parent, viommu, flags } = on;
  const hwpt = new NestedHwpt({ domain, parent, viommu, pasidCompatible: (flags & HWPT_FLAG.PASID) !== 0 });
  hwpt.id = id;
  return hwpt;
}
