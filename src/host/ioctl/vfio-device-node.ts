import { NO_PASID } from '../../ports/dma.ts';
import { E } from '../../spec/iommufd/errno.ts';
import {
  VFIO,
  VFIO_ATTACH,
  VFIO_BIND,
  VFIO_BIND_TOKEN,
  VFIO_DETACH,
  VFIO_PASID_FLAG,
} from '../../spec/iommufd/vfio.ts';
import { checkZero } from '../iommufd/verbs/invalidate.ts';
import type { VfioFile } from '../iommufd/vfio-device.ts';
import type { VfioDriver } from '../vfio/driver.ts';
import { type Caller, callerData, type KernelFile } from './caller.ts';
import { findIommufd } from './iommufd-node.ts';
import type { VfioGroup } from './vfio-group.ts';

/** An open VFIO device cdev (/dev/vfio/devices/NAME). Before it is bound only BIND is understood. */
export class VfioDeviceNode implements KernelFile {
  readonly #file: VfioFile;
  readonly #function: VfioDriver;
  readonly #group: VfioGroup;

  constructor(file: VfioFile, fn: VfioDriver, group: VfioGroup) {
    this.#file = file;
    this.#function = fn;
    this.#group = group;
  }

  ioctl(request: number, arg: bigint, caller: Caller): number {
    if (request === VFIO.DEVICE_BIND_IOMMUFD) return this.#bind(arg, caller);
    if (this.#file.device === null) return -E.INVAL;
    switch (request) {
      case VFIO.DEVICE_ATTACH_IOMMUFD_PT:
        return attach(this.#file, arg, caller);
      case VFIO.DEVICE_DETACH_IOMMUFD_PT:
        return detach(this.#file, arg, caller);
      default:
        return this.#function.ioctl(request, arg, caller);
    }
  }

  /** A device whose group is open belongs to the group's user, and the other way round. */
  #bind(arg: bigint, caller: Caller): number {
    const bound = this.#file.device !== null;
    if (!bound && !this.#group.blockForDevice()) return -E.BUSY;
    const r = bind(this.#file, arg, caller);
    if (bound) return r;
    if (r === 0) this.#function.opened?.('cdev');
    else this.#group.unblock();
    return r;
  }

  pread(offset: bigint, into: Uint8Array): number {
    return this.#file.device === null ? -E.INVAL : this.#function.pread(offset, into);
  }
  pwrite(offset: bigint, from: Uint8Array): number {
    return this.#file.device === null ? -E.INVAL : this.#function.pwrite(offset, from);
  }

  close(): void {
    const bound = this.#file.device !== null;
    // Interrupts and bus mastering end before the address space goes.
    if (bound) this.#function.closed?.();
    this.#file.close();
    if (bound) this.#group.unblock();
  }
}

function bind(file: VfioFile, arg: bigint, caller: Caller): number {
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
  const iommufd = findIommufd(caller, v.iommufd, -E.BADFD);
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
