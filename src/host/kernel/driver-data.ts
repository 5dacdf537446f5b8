import { E } from '../../spec/iommufd/errno.ts';
import type { DriverData } from './driver.ts';

/**
 * Copies a driver's data structure in (`iommu_copy_struct_from_user`).
 * @param type the type the driver expects. @param minimum bytes of the first version of the structure.
 * @param into the kernel's structure; zero-filled behind what the user gave.
 * @returns 0; -EINVAL wrong type, shorter than `minimum` or longer than `into`; -EFAULT.
 */
export function copyDriverData(data: DriverData | null, type: number, minimum: number, into: Uint8Array): number {
  if (data === null || data.type !== type) return -E.INVAL;
  const n = data.user.length;
  if (n < minimum || n > into.length) return -E.INVAL;
  into.fill(0);
  return data.user.copyIn(0, n === into.length ? into : into.subarray(0, n)) ? 0 : -E.FAULT;
}

/**
 * Copies the driver's answer back over what `copyDriverData` took (`iommu_copy_struct_to_user`): no more than the user has.
 * @returns 0 or -EFAULT.
 */
export function answerDriverData(data: DriverData, from: Uint8Array): number {
  const n = Math.min(data.user.length, from.length);
  return data.user.copyOut(0, n === from.length ? from : from.subarray(0, n)) ? 0 : -E.FAULT;
}
