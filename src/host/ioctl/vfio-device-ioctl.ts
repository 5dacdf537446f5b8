import { NO_PASID } from '../../ports/dma.ts';
import { E } from '../../spec/iommufd/errno.ts';
import {
  VFIO,
  VFIO_ATTACH,
  VFIO_BIND,
  VFIO_BIND_TOKEN,
  VFIO_DETACH,
  VFIO_DEVICE_FLAG,
  VFIO_DEVICE_INFO,
  VFIO_PASID_FLAG,
} from '../../spec/iommufd/vfio.ts';
import type { IommufdFile } from '../iommufd/file.ts';
import { checkZero } from '../iommufd/verbs/invalidate.ts';
import type { VfioFile } from '../iommufd/vfio-device.ts';
import { type Caller, callerData } from './caller.ts';

/** PCI: BARs, ROM, configuration space and VGA; INTx, MSI, MSI-X, error and request interrupts. */
const PCI_REGIONS = 9;
const PCI_IRQS = 5;

/** Finds the iommufd behind a descriptor of the caller: the file, or -EBADF (not open), -EBADFD (something else). */
export type FindIommufd = (fd: number) => IommufdFile | number;

/** ioctl(2) on a VFIO device cdev. Before it is bound only BIND is understood. @returns ≥ 0 or -errno. */
export function vfioDeviceIoctl(
  file: VfioFile,
  request: number,
  arg: bigint,
  caller: Caller,
  find: FindIommufd,
): number {
  if (request === VFIO.DEVICE_BIND_IOMMUFD) return bind(file, arg, caller, find);
  if (file.device === null) return -E.INVAL;
  switch (request) {
    case VFIO.DEVICE_ATTACH_IOMMUFD_PT:
      return attach(file, arg, caller);
    case VFIO.DEVICE_DETACH_IOMMUFD_PT:
      return detach(file, arg, caller);
    case VFIO.DEVICE_GET_INFO:
      return getInfo(arg, caller);
    default:
      return -E.NOTTY;
  }
}

function bind(file: VfioFile, arg: bigint, caller: Caller, find: FindIommufd): number {
  const minimum = VFIO_BIND.at.token;
  const bytes = new Uint8Array(VFIO_BIND.bytes);
  if (!caller.read(arg, bytes.subarray(0, 4))) return -E.FAULT;
  const { argsz } = VFIO_BIND.decode(bytes);
  if (argsz < minimum) return -E.INVAL;
  if (argsz > bytes.length) {
    const tail = checkZero(callerData(caller, arg, argsz), bytes.length, argsz - bytes.length);
    if (tail !== 0) return tail;
  }
  if (!caller.read(arg, bytes.subarray(0, Math.min(argsz, bytes.length)))) return -E.FAULT;
  const v = VFIO_BIND.decode(bytes);
  if (v.iommufd < 0 || (v.flags & ~VFIO_BIND_TOKEN) !== 0) return -E.INVAL;
  if (file.device !== null) return -E.INVAL;
  const iommufd = find(v.iommufd);
  if (typeof iommufd === 'number') return iommufd;
  const r = file.bind(iommufd);
  if (r !== 0) return r;
  v.outDevid = file.devId;
  const out = VFIO_BIND.encode(v).subarray(VFIO_BIND.at.outDevid, minimum);
  if (caller.write(arg + BigInt(VFIO_BIND.at.outDevid), out)) return 0;
  file.close();
  return -E.FAULT;
}

function attach(file: VfioFile, arg: bigint, caller: Caller): number {
  const bytes = new Uint8Array(VFIO_ATTACH.bytes);
  const minimum = VFIO_ATTACH.at.pasid;
  if (!caller.read(arg, bytes.subarray(0, minimum))) return -E.FAULT;
  const head = VFIO_ATTACH.decode(bytes);
  if (head.argsz < minimum || (head.flags & ~VFIO_PASID_FLAG) !== 0) return -E.INVAL;
  if (head.flags !== 0) {
    if (head.argsz < bytes.length) return -E.INVAL;
    if (!caller.read(arg, bytes)) return -E.FAULT;
  }
  const v = VFIO_ATTACH.decode(bytes);
  const pasid = v.flags === 0 ? NO_PASID : v.pasid;
  const r = file.attach(v.ptId, pasid);
  if (r !== 0) return r;
  v.ptId = file.ptId;
  const at = VFIO_ATTACH.at.ptId;
  if (caller.write(arg + BigInt(at), VFIO_ATTACH.encode(v).subarray(at, at + 4))) return 0;
  file.detach(pasid);
  return -E.FAULT;
}

function detach(file: VfioFile, arg: bigint, caller: Caller): number {
  const bytes = new Uint8Array(VFIO_DETACH.bytes);
  const minimum = VFIO_DETACH.at.pasid;
  if (!caller.read(arg, bytes.subarray(0, minimum))) return -E.FAULT;
  const head = VFIO_DETACH.decode(bytes);
  if (head.argsz < minimum || (head.flags & ~VFIO_PASID_FLAG) !== 0) return -E.INVAL;
  if (head.flags !== 0) {
    if (head.argsz < bytes.length) return -E.INVAL;
    if (!caller.read(arg, bytes)) return -E.FAULT;
  }
  const v = VFIO_DETACH.decode(bytes);
  return file.detach(v.flags === 0 ? NO_PASID : v.pasid);
}

function getInfo(arg: bigint, caller: Caller): number {
  const minimum = VFIO_DEVICE_INFO.at.capOffset;
  const bytes = new Uint8Array(VFIO_DEVICE_INFO.bytes);
  if (!caller.read(arg, bytes.subarray(0, minimum))) return -E.FAULT;
  const v = VFIO_DEVICE_INFO.decode(bytes);
  if (v.argsz < minimum) return -E.INVAL;
  const given = Math.min(v.argsz, bytes.length);
  v.flags = VFIO_DEVICE_FLAG.RESET | VFIO_DEVICE_FLAG.PCI;
  v.numRegions = PCI_REGIONS;
  v.numIrqs = PCI_IRQS;
  v.capOffset = 0;
  return caller.write(arg, VFIO_DEVICE_INFO.encode(v).subarray(0, given)) ? 0 : -E.FAULT;
}
