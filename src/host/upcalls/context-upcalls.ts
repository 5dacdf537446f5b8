import { NO_PASID } from '../../ports/dma.ts';
import type { HostUpcalls, ShadowTable, UpcallHandlers } from '../../ports/upcalls.ts';
import { E } from '../../spec/iommufd/errno.ts';
import type { IommufdContext } from '../iommufd/context.ts';
import type { IommufdFile } from '../iommufd/file.ts';
import { ShadowCopy } from '../iommufd/shadow-copy.ts';
import { attachStream } from '../iommufd/stream-attachment.ts';
import { allocStreamVdevice } from '../iommufd/verbs/stream-vdevice.ts';
import type { HostDevice } from '../kernel/driver.ts';
import type { UpcallObjects } from './driver-upcalls.ts';
import type { UpcallHub } from './upcall-hub.ts';

/** The objects of an open iommufd by id. */
export function objectsOf(context: IommufdContext): UpcallObjects {
  const { objects, kernel } = context;
  const said = (verb: string, args: Readonly<Record<string, number>>, result: number) => {
    kernel.tell?.({ what: 'host', verb, args, result });
    return result;
  };
  return {
    device: (id) => objects.get(id, 'device')?.dev ?? null,
    paging: (id) => objects.get(id, 'hwpt_paging')?.domain ?? null,
    shadowTable(id, ramIoasId) {
      const hwpt = objects.get(id, 'hwpt_paging');
      const ram = objects.get(ramIoasId, 'ioas');
      return hwpt === null || ram === null ? -E.NOENT : ShadowCopy.create(context, hwpt, ram);
    },
    streamVdevice(viommu, dev, stream, vsid) {
      const r = allocStreamVdevice(context, viommu, dev, stream, vsid);
      return said('STREAM_VDEVICE', { viommu, dev, stream, vsid }, r);
    },
    attachStream(dev, stream, pt, pasid) {
      const args = pasid === NO_PASID ? { dev, stream, pt } : { dev, stream, pt, pasid };
      return said('ATTACH_STREAM', args, attachStream(context, dev, stream, pt, pasid));
    },
  };
}

/** The device models' end of the way back, for one open iommufd: ids are those of its objects. */
export class ContextUpcalls implements HostUpcalls {
  readonly #hub: UpcallHub;
  readonly #objects: UpcallObjects;

  constructor(hub: UpcallHub, objects: UpcallObjects) {
    this.#hub = hub;
    this.#objects = objects;
  }

  /** Unknown ids are left out: a device that is not bound has no streams to serve. */
  serve(devIds: readonly number[], handlers: UpcallHandlers): () => void {
    const devs = devIds.map((id) => this.#objects.device(id)).filter((d): d is HostDevice => d !== null);
    return this.#hub.listen(devs, handlers);
  }

  outstanding(handlers: UpcallHandlers): number {
    return this.#hub.outstanding(handlers);
  }

  abandon(handlers: UpcallHandlers): void {
    this.#hub.abandon(handlers);
  }

  confirm(handlers: UpcallHandlers): number {
    return this.#hub.confirm(handlers);
  }

  /** See `allocStreamVdevice`. */
  streamVdevice(viommuId: number, devId: number, stream: number, vsid: number): number {
    return this.#objects.streamVdevice(viommuId, devId, stream, vsid);
  }

  /** See `attachStream`. */
  attachStream(devId: number, stream: number, hwptId: number, pasid: number = NO_PASID): number {
    return this.#objects.attachStream(devId, stream, hwptId, pasid);
  }

  /** @returns -ENOENT: no paging HWPT has this id. */
  shadow(hwptId: number, on: boolean): number {
    const domain = this.#objects.paging(hwptId);
    if (domain === null) return -E.NOENT;
    this.#hub.shadow(domain, on);
    return 0;
  }

  /** See `ShadowCopy`. */
  shadowTable(hwptId: number, ramIoasId: number): ShadowTable | number {
    return this.#objects.shadowTable(hwptId, ramIoasId);
  }

  invalidateDeviceTlb(devId: number, pasid: number, lo: number, hi: number, global: boolean, stream?: number): number {
    const dev = this.#objects.device(devId);
    if (dev === null) return -E.NOENT;
    return this.#hub.driverOf(dev)?.invalidateDeviceTlb?.(dev, pasid, lo, hi, global, stream) ?? -E.OPNOTSUPP;
  }

  respond(devId: number, pasid: number, group: number, code: number, stall: boolean, stream?: number): number {
    const dev = this.#objects.device(devId);
    if (dev === null) return -E.NOENT;
    return this.#hub.driverOf(dev)?.respond(dev, pasid, group, code, stall, stream) ?? -E.OPNOTSUPP;
  }

  terminateStalls(devId: number, stream: number): number {
    const dev = this.#objects.device(devId);
    if (dev === null) return -E.NOENT;
    return this.#hub.driverOf(dev)?.terminateStalls?.(dev, stream) ?? -E.OPNOTSUPP;
  }

  quiet(devId: number, pasid: number, on: boolean): number {
    const dev = this.#objects.device(devId);
    if (dev === null) return -E.NOENT;
    return this.#hub.driverOf(dev)?.quiet?.(dev, pasid, on) ?? -E.OPNOTSUPP;
  }
}

/** What device models of one VMM ask of the host beyond Linux. @param file the VMM's open /dev/iommu. */
export function upcallsOf(hub: UpcallHub, file: IommufdFile): HostUpcalls {
  return new ContextUpcalls(hub, objectsOf(file.context));
}
