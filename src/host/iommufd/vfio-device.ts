import { NO_PASID } from '../../ports/dma.ts';
import type { Iommufd, VfioDevice } from '../../ports/iommufd.ts';
import { E } from '../../spec/iommufd/errno.ts';
import type { KernelDevice } from '../kernel/device.ts';
import { attachDevice, bindDevice, type Device, detachDevice, replaceDevice, unbindDevice } from './attach.ts';
import { IommufdFile } from './file.ts';

/** VFIO keeps attached PASIDs in a table of positive ints. */
const MAX_PASID = 0x7fff_ffff;

/** An open VFIO device cdev. The first ATTACH attaches, the next ones replace. */
export class VfioFile implements VfioDevice {
  devId = 0;
  ptId = 0;
  readonly #dev: KernelDevice;
  #device: Device | null = null;
  #ridAttached = false;
  readonly #pasids = new Set<number>();

  constructor(dev: KernelDevice) {
    this.#dev = dev;
  }

  #said(verb: string, args: Readonly<Record<string, number | bigint | string>>, result: number): number {
    this.#device?.context.kernel.tell?.({ what: 'host', verb, args, result });
    return result;
  }

  get device(): Device | null {
    return this.#device;
  }

  /** @returns 0; -EINVAL bound already, or its DMA is not coherent; -ENODEV no group; -EBADFD not an iommufd; -EPERM, -EBUSY (see `bindDevice`). */
  bind(iommufd: Iommufd): number {
    if (this.#device !== null) return -E.INVAL;
    if (!(iommufd instanceof IommufdFile)) return -E.BADFD;
    const device = bindDevice(iommufd.context, this.#dev);
    if (typeof device === 'number') return device;
    iommufd.context.hold();
    this.#device = device;
    this.devId = device.id;
    return this.#said('BIND', { device: this.#dev.name, dev: device.id }, 0);
  }

  attach(ptId: number, pasid: number): number {
    const device = this.#device;
    if (device === null) return -E.INVAL;
    const rid = pasid === NO_PASID;
    if (!rid && !this.#dev.vfioPasids) return -E.OPNOTSUPP;
    if (!rid && (pasid < 0 || pasid > MAX_PASID)) return -E.NOSPC;
    const slot = rid ? 0 : pasid;
    const again = rid ? this.#ridAttached : this.#pasids.has(pasid);
    const r = again ? replaceDevice(device, slot, ptId) : attachDevice(device, slot, ptId);
    if (r === 0) {
      this.ptId = device.context.changedTo;
      if (rid) this.#ridAttached = true;
      else this.#pasids.add(pasid);
    }
    return this.#said(again ? 'REPLACE' : 'ATTACH', { dev: device.id, pt: ptId, pasid }, r);
  }

  detach(pasid: number): number {
    const device = this.#device;
    if (device === null) return -E.INVAL;
    if (pasid !== NO_PASID && !this.#dev.vfioPasids) return -E.OPNOTSUPP;
    if (pasid === NO_PASID) {
      if (this.#ridAttached) detachDevice(device, 0);
      this.#ridAttached = false;
    } else if (this.#pasids.delete(pasid)) {
      detachDevice(device, pasid);
    }
    return this.#said('DETACH', { dev: device.id, pasid }, 0);
  }

  close(): void {
    const device = this.#device;
    if (device === null) return;
    for (const pasid of this.#pasids) this.detach(pasid);
    this.detach(NO_PASID);
    this.#said('UNBIND', { dev: device.id }, 0);
    unbindDevice(device);
    this.#device = null;
    this.devId = 0;
    device.context.drop();
  }
}
