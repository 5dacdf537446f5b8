import { NO_PASID } from '../../ports/dma.ts';
import { E } from '../../spec/iommufd/errno.ts';
import { VFIO, VFIO_GROUP_FLAG, VFIO_GROUP_STATUS } from '../../spec/iommufd/vfio.ts';
import { VfioFile } from '../iommufd/vfio-device.ts';
import type { KernelDevice } from '../kernel/device.ts';
import type { VfioDriver } from '../vfio/driver.ts';
import type { Caller, KernelFile } from './caller.ts';
import { findIommufd } from './iommufd-node.ts';
import type { VfioGroup } from './vfio-group.ts';

/** A device with a VFIO driver. */
export interface GroupDevice {
  /** Its node below /dev/vfio/devices. */
  readonly name: string;
  /** Its place on the bus (0000:01:00.0), by which VFIO_GROUP_GET_DEVICE_FD takes it. */
  readonly address: string;
  readonly dev: KernelDevice;
  readonly function: VfioDriver;
}

/** The kernel copies a name of at most a page. */
const MAX_NAME = 4096;

/** A device of the group that is open: one binding, however many descriptors lead to it. */
interface OpenDevice {
  readonly file: VfioFile;
  opens: number;
}

/** An open /dev/vfio/N: VFIO's older way, in which a container stands for the address space. */
export class VfioGroupNode implements KernelFile {
  readonly #group: VfioGroup;
  readonly #devices: readonly GroupDevice[];
  readonly #open = new Map<GroupDevice, OpenDevice>();
  #closed = false;

  /** The group has been opened (`VfioGroup.open`); its last close releases it. */
  constructor(group: VfioGroup, devices: readonly GroupDevice[]) {
    this.#group = group;
    this.#devices = devices;
  }

  ioctl(request: number, arg: bigint, caller: Caller): number {
    switch (request) {
      case VFIO.GROUP_GET_STATUS:
        return this.#status(arg, caller);
      case VFIO.GROUP_SET_CONTAINER:
        return this.#setContainer(arg, caller);
      case VFIO.GROUP_UNSET_CONTAINER:
        return this.#group.unsetContainer();
      case VFIO.GROUP_GET_DEVICE_FD:
        return this.#getDevice(arg, caller);
      default:
        return -E.NOTTY;
    }
  }

  #status(arg: bigint, caller: Caller): number {
    const bytes = new Uint8Array(VFIO_GROUP_STATUS.bytes);
    if (!caller.read(arg, bytes)) return -E.FAULT;
    const v = VFIO_GROUP_STATUS.decode(bytes);
    if (v.argsz < bytes.length) return -E.INVAL;
    const { VIABLE, CONTAINER_SET } = VFIO_GROUP_FLAG;
    const owned = this.#devices.some((d) => d.dev.group.ownerCount > 0);
    v.flags = this.#group.iommufd !== null ? VIABLE | CONTAINER_SET : owned ? 0 : VIABLE;
    return caller.write(arg, VFIO_GROUP_STATUS.encode(v)) ? 0 : -E.FAULT;
  }

  #setContainer(arg: bigint, caller: Caller): number {
    const bytes = new Uint8Array(4);
    if (!caller.read(arg, bytes)) return -E.FAULT;
    const iommufd = findIommufd(caller, new DataView(bytes.buffer).getInt32(0, true), -E.BADFD);
    return typeof iommufd === 'number' ? iommufd : this.#group.setContainer(iommufd);
  }

  #getDevice(arg: bigint, caller: Caller): number {
    const name = readName(arg, caller);
    if (typeof name === 'number') return name;
    const device = this.#devices.find((d) => d.address === name);
    if (device === undefined) return -E.NODEV;
    const { iommufd } = this.#group;
    if (iommufd === null) return -E.INVAL;
    let open = this.#open.get(device);
    if (open === undefined) {
      const file = new VfioFile(device.dev);
      let r = file.bind(iommufd);
      // The first open attaches the container's address space.
      if (r === 0)
        r = iommufd.context.vfioIoas === null ? -E.NODEV : file.attach(iommufd.context.vfioIoas.id, NO_PASID);
      if (r !== 0) {
        file.close();
        return r;
      }
      open = { file, opens: 0 };
      this.#open.set(device, open);
      device.function.opened?.('group');
    }
    open.opens++;
    const node = new GroupDeviceNode(device.function, () => this.#closeDevice(device));
    const fd = caller.install(node);
    if (fd < 0) node.close();
    return fd;
  }

  #closeDevice(device: GroupDevice): void {
    const open = this.#open.get(device);
    if (open === undefined || --open.opens > 0) return;
    device.function.closed?.();
    open.file.close();
    this.#open.delete(device);
    this.#releaseUnused();
  }

  close(): void {
    this.#closed = true;
    this.#releaseUnused();
  }

  /** Devices hold the group's file: it is released when they are closed as well. */
  #releaseUnused(): void {
    if (this.#closed && this.#open.size === 0) this.#group.release();
  }
}

/** A device that was opened through its group. It is bound already. */
class GroupDeviceNode implements KernelFile {
  readonly #function: VfioDriver;
  #onClose: (() => void) | null;

  constructor(fn: VfioDriver, onClose: () => void) {
    this.#function = fn;
    this.#onClose = onClose;
  }

  ioctl(request: number, arg: bigint, caller: Caller): number {
    // A device of a group is bound by its group, and moved with its container.
    if (request === VFIO.DEVICE_BIND_IOMMUFD) return -E.INVAL;
    return this.#function.ioctl(request, arg, caller);
  }
  pread(offset: bigint, into: Uint8Array): number {
    return this.#function.pread(offset, into);
  }
  pwrite(offset: bigint, from: Uint8Array): number {
    return this.#function.pwrite(offset, from);
  }
  close(): void {
    this.#onClose?.();
    this.#onClose = null;
  }
}

/** A string of the caller (`strndup_user`): -EFAULT, -EINVAL it does not end within a page. */
function readName(arg: bigint, caller: Caller): string | number {
  const bytes: number[] = [];
  const one = new Uint8Array(1);
  caller.expect?.(arg, 64);
  while (bytes.length < MAX_NAME) {
    if (!caller.read(arg + BigInt(bytes.length), one)) return -E.FAULT;
    if (one[0] === 0) return String.fromCharCode(...bytes);
    bytes.push(one[0]!);
  }
  return -E.INVAL;
}
