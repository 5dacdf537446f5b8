import { NO_PASID } from '../../ports/dma.ts';
import type { Iommufd, VfioDevice } from '../../ports/iommufd.ts';
import { E } from '../../spec/iommufd/errno.ts';
import type { KernelDevice } from '../kernel/device.ts';
import { attachDevice, detachDevice, replaceDevice } from './attach.ts';
import { bindDevice, unbindDevice } from './bind.ts';
import type { IommufdContext } from './context.ts';
import { type IommufdDevice, RID_SLOT } from './device.ts';
import { IommufdFile } from './file.ts';
import { detachStreams } from './stream-attachment.ts';

/** VFIO keeps attached PASIDs in a table of positive ints. */
const MAX_PASID = 0x7fff_ffff;

/** What a bound device belongs to. */
interface Binding {
  readonly context: IommufdContext;
  readonly device: IommufdDevice;
}

/** An open VFIO device cdev. The first ATTACH attaches, the next ones replace. */
export class VfioFile implements VfioDevice {
  devId = 0;
  ptId = 0;
  readonly #dev: KernelDevice;
  #bound: Binding | null = null;
  #ridAttached = false;
  readonly #pasids = new Set<number>();
  readonly #closing = new Set<() => void>();

  /** @param dev the function whose cdev is opened. Several files may be open; one of them can bind it. */
  constructor(dev: KernelDevice) {
    this.#dev = dev;
  }

  #said(verb: string, args: Readonly<Record<string, number | bigint | string>>, result: number): number {
    this.#bound?.context.kernel.tell?.({ what: 'host', verb, args, result });
    return result;
  }

  /** @internal Its object in the iommufd; null: not bound. */
  get device(): IommufdDevice | null {
    return this.#bound?.device ?? null;
  }

  /** @returns 0; -EINVAL bound already, or its DMA is not coherent; -ENODEV no group; -EBADFD not an iommufd; -EPERM, -EBUSY (see `bindDevice`). */
  bind(iommufd: Iommufd): number {
    if (this.#bound !== null) return -E.INVAL;
    if (!(iommufd instanceof IommufdFile)) return -E.BADFD;
    const { context } = iommufd;
    const device = bindDevice(context, this.#dev);
    if (typeof device === 'number') return device;
    context.hold();
    this.#bound = { context, device };
    this.devId = device.id;
    return this.#said('BIND', { device: this.#dev.name, dev: device.id }, 0);
  }

  attach(ptId: number, pasid: number): number {
    if (this.#bound === null) return -E.INVAL;
    const { context, device } = this.#bound;
    const rid = pasid === NO_PASID;
    if (!rid && !this.#dev.vfioPasids) return -E.OPNOTSUPP;
    if (!rid && (pasid < 0 || pasid > MAX_PASID)) return -E.NOSPC;
    const slot = rid ? RID_SLOT : pasid;
    const again = rid ? this.#ridAttached : this.#pasids.has(pasid);
    const r = again ? replaceDevice(context, device, slot, ptId) : attachDevice(context, device, slot, ptId);
    if (r > 0) {
      this.ptId = r;
      if (rid) this.#ridAttached = true;
      else this.#pasids.add(pasid);
    }
    return this.#said(again ? 'REPLACE' : 'ATTACH', { dev: device.id, pt: ptId, pasid }, Math.min(r, 0));
  }

  detach(pasid: number): number {
    if (this.#bound === null) return -E.INVAL;
    const { context, device } = this.#bound;
    if (pasid !== NO_PASID && !this.#dev.vfioPasids) return -E.OPNOTSUPP;
    if (pasid === NO_PASID) {
      if (this.#ridAttached) detachDevice(context, device, RID_SLOT);
      this.#ridAttached = false;
    } else if (this.#pasids.delete(pasid)) {
      detachDevice(context, device, pasid);
    }
    return this.#said('DETACH', { dev: device.id, pasid }, 0);
  }

  whenClosed(action: () => void): () => void {
    this.#closing.add(action);
    return () => this.#closing.delete(action);
  }

  close(): void {
    if (this.#bound === null) return;
    for (const action of [...this.#closing]) action();
    const { context, device } = this.#bound;
    for (const pasid of this.#pasids) this.detach(pasid);
    this.detach(NO_PASID);
    detachStreams(context, device);
    this.#said('UNBIND', { dev: device.id }, 0);
    unbindDevice(context, device);
    this.#bound = null;
    this.devId = 0;
    context.drop();
  }
}
