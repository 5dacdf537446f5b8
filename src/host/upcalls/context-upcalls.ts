import type { HostUpcalls, UpcallHandlers } from '../../ports/upcalls.ts';
import { E } from '../../spec/iommufd/errno.ts';
import type { IommufdContext } from '../iommufd/context.ts';
import type { IommufdFile } from '../iommufd/file.ts';
import type { HostDevice } from '../kernel/driver.ts';
import type { UpcallObjects } from './driver-upcalls.ts';
import type { UpcallHub } from './upcall-hub.ts';

/** The objects of an open iommufd by id. */
export function objectsOf({ objects }: IommufdContext): UpcallObjects {
  return {
    device: (id) => objects.get(id, 'device')?.dev ?? null,
    paging: (id) => objects.get(id, 'hwpt_paging')?.domain ?? null,
    vdevice(id) {
      const v = objects.get(id, 'vdevice');
      return v === null ? null : { dev: v.device.dev, viommu: v.viommu.driver, virtId: v.virtId };
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

  /** @returns -ENOENT no such vDEVICE; -EINVAL `vsids` does not fit the device; -EEXIST a vSID is taken; -EOPNOTSUPP. */
  mapStreams(vdeviceId: number, vsids: readonly number[]): number {
    const v = this.#objects.vdevice(vdeviceId);
    if (v === null) return -E.NOENT;
    if (vsids.length !== v.dev.streams.length || BigInt(vsids[0] ?? -1) !== v.virtId) return -E.INVAL;
    if (new Set(vsids).size !== vsids.length) return -E.EXIST;
    return this.#hub.driverOf(v.dev)?.mapStreams(v.viommu, v.dev, vsids) ?? -E.OPNOTSUPP;
  }

  /** @returns -ENOENT: no paging HWPT has this id. */
  shadow(hwptId: number, on: boolean): number {
    const domain = this.#objects.paging(hwptId);
    if (domain === null) return -E.NOENT;
    this.#hub.shadow(domain, on);
    return 0;
  }

  invalidateDeviceTlb(devId: number, pasid: number, lo: number, hi: number, global: boolean): number {
    const dev = this.#objects.device(devId);
    if (dev === null) return -E.NOENT;
    return this.#hub.driverOf(dev)?.invalidateDeviceTlb?.(dev, pasid, lo, hi, global) ?? -E.OPNOTSUPP;
  }

  respond(devId: number, pasid: number, group: number, code: number, stall: boolean): number {
    const dev = this.#objects.device(devId);
    if (dev === null) return -E.NOENT;
    return this.#hub.driverOf(dev)?.respond(dev, pasid, group, code, stall) ?? -E.OPNOTSUPP;
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
