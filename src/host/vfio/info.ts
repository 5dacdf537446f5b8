import { E } from '../../spec/iommufd/errno.ts';
import {
  VFIO_DEVICE_FLAG,
  VFIO_DEVICE_INFO,
  VFIO_FEATURE,
  VFIO_FEATURE_HEAD,
  VFIO_IRQ_FLAG,
  VFIO_IRQ_INFO,
  VFIO_PCI_IRQ,
  VFIO_PCI_OFFSET_SHIFT,
  VFIO_PCI_REGION,
  VFIO_REGION_FLAG,
  VFIO_REGION_INFO,
} from '../../spec/iommufd/vfio.ts';
import type { Caller } from '../ioctl/caller.ts';

/** VFIO_DEVICE_GET_INFO of a PCI function. @returns 0; -EFAULT; -EINVAL the structure is too short. */
export function deviceInfo(arg: bigint, caller: Caller): number {
  const minimum = VFIO_DEVICE_INFO.at.capOffset;
  const bytes = new Uint8Array(VFIO_DEVICE_INFO.bytes);
  if (!caller.read(arg, bytes.subarray(0, minimum))) return -E.FAULT;
  const v = VFIO_DEVICE_INFO.decode(bytes);
  if (v.argsz < minimum) return -E.INVAL;
  const given = Math.min(v.argsz, bytes.length);
  v.flags = VFIO_DEVICE_FLAG.RESET | VFIO_DEVICE_FLAG.PCI;
  v.numRegions = VFIO_PCI_REGION.COUNT;
  v.numIrqs = VFIO_PCI_IRQ.COUNT;
  v.capOffset = 0;
  return caller.write(arg, VFIO_DEVICE_INFO.encode(v).subarray(0, given)) ? 0 : -E.FAULT;
}

/** VFIO_DEVICE_GET_REGION_INFO. @param bytes size of a region by index, 0: there is none. */
export function regionInfo(arg: bigint, caller: Caller, bytes: (index: number) => number): number {
  const raw = new Uint8Array(VFIO_REGION_INFO.bytes);
  if (!caller.read(arg, raw)) return -E.FAULT;
  const v = VFIO_REGION_INFO.decode(raw);
  if (v.argsz < raw.length || v.index >= VFIO_PCI_REGION.VGA) return -E.INVAL;
  const size = bytes(v.index);
  v.flags = size > 0 ? VFIO_REGION_FLAG.READ | VFIO_REGION_FLAG.WRITE : 0;
  v.capOffset = 0;
  v.size = BigInt(size);
  v.offset = BigInt(v.index) << VFIO_PCI_OFFSET_SHIFT;
  return caller.write(arg, VFIO_REGION_INFO.encode(v)) ? 0 : -E.FAULT;
}

/**
 * VFIO_DEVICE_GET_IRQ_INFO.
 * @param count interrupts of an index. @param dynamic MSI-X vectors can be added while others are in use.
 */
export function irqInfo(arg: bigint, caller: Caller, count: (index: number) => number, dynamic: boolean): number {
  const bytes = new Uint8Array(VFIO_IRQ_INFO.bytes);
  if (!caller.read(arg, bytes)) return -E.FAULT;
  const v = VFIO_IRQ_INFO.decode(bytes);
  if (v.argsz < bytes.length || v.index >= VFIO_PCI_IRQ.COUNT) return -E.INVAL;
  const { INTX, MSIX, ERR } = VFIO_PCI_IRQ;
  // A conventional function has no error interrupt; the request to give the device back is everybody's.
  if (v.index === ERR && count(ERR) === 0) return -E.INVAL;
  const { EVENTFD, MASKABLE, AUTOMASKED, NORESIZE } = VFIO_IRQ_FLAG;
  const more = v.index === INTX ? MASKABLE | AUTOMASKED : v.index === MSIX && dynamic ? 0 : NORESIZE;
  v.flags = EVENTFD | more;
  v.count = count(v.index);
  return caller.write(arg, VFIO_IRQ_INFO.encode(v)) ? 0 : -E.FAULT;
}

/** VFIO_DEVICE_FEATURE of a driver without any. @returns -ENOTTY; -EFAULT, -EINVAL the words do not fit each other. */
export function noFeature(arg: bigint, caller: Caller): number {
  const bytes = new Uint8Array(VFIO_FEATURE_HEAD.bytes);
  if (!caller.read(arg, bytes)) return -E.FAULT;
  const { argsz, flags } = VFIO_FEATURE_HEAD.decode(bytes);
  const { GET, SET, PROBE, NUMBER } = VFIO_FEATURE;
  if (argsz < bytes.length || (flags & ~(NUMBER | GET | SET | PROBE)) !== 0) return -E.INVAL;
  const both = (flags & GET) !== 0 && (flags & SET) !== 0;
  return both && (flags & PROBE) === 0 ? -E.INVAL : -E.NOTTY;
}

/** Index of the region an offset of the device's file lies in. */
export function regionOf(offset: bigint): number {
  return Number(BigInt.asUintN(64, offset) >> VFIO_PCI_OFFSET_SHIFT);
}

/** Offset in its region. */
export function inRegion(offset: bigint): number {
  return Number(BigInt.asUintN(Number(VFIO_PCI_OFFSET_SHIFT), offset));
}
