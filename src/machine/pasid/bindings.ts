import type { PasidManagement } from '../../lib/pasid/pasid-management.ts';
import type { PasidHandle } from '../../lib/pasid/pasid-space.ts';
import { NO_PASID } from '../../ports/dma.ts';
import type { GetHwInfo, Iommufd, VfioDevice } from '../../ports/iommufd.ts';
import type { HostUpcalls } from '../../ports/upcalls.ts';
import { E } from '../../spec/iommufd/errno.ts';
import { HW_INFO } from '../../spec/iommufd/uapi.ts';
import type { PasidLayer } from './pasid-layer.ts';

/** What a device can do with PASIDs, and who chooses them. */
export interface PasidInfo {
  /** The device can have several address spaces at once. */
  readonly several: boolean;
  /** PASID width in bits as the device has it; 0: none. */
  readonly bits: number;
  /** How its PASIDs are managed. */
  readonly management: PasidManagement;
  /** The user chooses PASIDs in [first, end). Empty: the space is not delegated. */
  readonly first: number;
  /** One more than the last PASID the user may choose. */
  readonly end: number;
}

/** Routing information: what selects an I/O page table is the device, or the device and a PASID. Nothing else. */
export interface Routing {
  /** The device. */
  readonly vfio: VfioDevice;
  /** NO_PASID: the requester id alone. */
  readonly pasid: number;
}

interface Binding {
  readonly routing: Routing;
  hwptId: number;
  data: unknown;
}

/**
 * What a program that is no vIOMMU does with PASIDs of its devices: binds address spaces to (device, PASID), keeps private
 * data with each binding, reserves PASIDs without any address space, and takes bindings back without reusing a PASID too
 * early. The verbs below it are the uAPI's: attach, replace, detach.
 */
export class PasidBindings {
  readonly #iommufd: Iommufd;
  readonly #upcalls: HostUpcalls | null;
  readonly #layer: PasidLayer;
  readonly #handle: PasidHandle;
  readonly #bindings = new Map<string, Binding>();
  /** Bindings of an own PASID that are drained now, and whether it is freed when they are through. */
  readonly #leaving = new Map<number, number>();
  readonly #freed = new Set<number>();
  readonly #reserved = new Set<number>();

  /**
   * @param upcalls null: bindings that are taken back are not silent while they drain. @param layer the VM's PASIDs.
   */
  constructor(iommufd: Iommufd, upcalls: HostUpcalls | null, layer: PasidLayer) {
    this.#iommufd = iommufd;
    this.#upcalls = upcalls;
    this.#layer = layer;
    this.#handle = layer.space.open();
  }

  /** @param global the device's PASIDs have twins in the host's pool. */
  info(vfio: VfioDevice, global: boolean): PasidInfo {
    const c: GetHwInfo = {
      flags: 0,
      devId: vfio.devId,
      dataLen: 0,
      data: null,
      dataType: 0,
      outMaxPasidLog2: 0,
      outCapabilities: 0n,
    };
    const bits = this.#iommufd.getHwInfo(c) === 0 ? c.outMaxPasidLog2 : 0;
    const guestTable = c.dataType === HW_INFO.ARM_SMMUV3 || c.dataType === HW_INFO.AMD;
    const management = guestTable ? 'guest-table' : global ? 'global' : 'host-table';
    const all = bits === 0 ? 0 : 2 ** bits;
    const end = management === 'global' ? Math.min(all, this.#layer.space.min) : all;
    return { several: bits > 0, bits, management, first: bits === 0 ? 0 : 1, end };
  }

  /** A PASID of the host's pool, with no address space behind it. @returns -ENOSPC: none is free. */
  reserve(data: unknown = undefined): number {
    const pasid = this.#handle.allocate(data);
    if (pasid < 0) return -E.NOSPC;
    this.#reserved.add(pasid);
    return pasid;
  }

  /**
   * Attaches an address space to (device, PASID), or replaces the one that is there.
   * @returns 0; -EPERM: a PASID of the host's pool that is somebody else's; or what the attach answered.
   */
  bind(routing: Routing, hwptId: number, data: unknown = undefined): number {
    const { vfio, pasid } = routing;
    if (pasid >= this.#layer.space.min && !this.#handle.owns(pasid)) return -E.PERM;
    const r = vfio.attach(hwptId, pasid);
    if (r !== 0) return r;
    const known = this.#bindings.get(key(routing));
    if (known === undefined) this.#bindings.set(key(routing), { routing, hwptId, data });
    else {
      known.hwptId = hwptId;
      known.data = data;
    }
    return 0;
  }

  /** The private data of a binding; undefined when nothing is bound there. */
  dataOf(routing: Routing): unknown {
    return this.#bindings.get(key(routing))?.data;
  }

  /** Every (device, PASID) an address space is bound to: where a change of it must be invalidated. */
  boundTo(hwptId: number): readonly Routing[] {
    return [...this.#bindings.values()].filter((b) => b.hwptId === hwptId).map((b) => b.routing);
  }

  /**
   * Takes a binding back: not present and silent from now on, in use until everything in flight is through.
   * @returns false: nothing was bound there.
   */
  unbind(routing: Routing): boolean {
    if (!this.#bindings.delete(key(routing))) return false;
    const { vfio, pasid } = routing;
    vfio.detach(pasid);
    if (pasid === NO_PASID) return true;
    const { devId } = vfio;
    this.#upcalls?.quiet?.(devId, pasid, true);
    this.#leaving.set(pasid, (this.#leaving.get(pasid) ?? 0) + 1);
    this.#layer.drain(pasid, () => {
      // A new binding has made the entry anew.
      if (!this.#bindings.has(key(routing))) this.#upcalls?.quiet?.(devId, pasid, false);
      this.#left(pasid);
    });
    return true;
  }

  #left(pasid: number): void {
    const left = this.#leaving.get(pasid)! - 1;
    if (left > 0) this.#leaving.set(pasid, left);
    else this.#leaving.delete(pasid);
    if (left === 0 && this.#freed.delete(pasid)) this.#layer.space.drained(pasid);
  }

  /**
   * Gives a reserved PASID back, with every binding of it. It is not reused before all of them are drained.
   * @returns -EINVAL: not one of ours.
   */
  free(pasid: number): number {
    if (!this.#reserved.delete(pasid)) return -E.INVAL;
    for (const b of [...this.#bindings.values()]) if (b.routing.pasid === pasid) this.unbind(b.routing);
    this.#handle.free(pasid, true);
    if (this.#leaving.has(pasid)) this.#freed.add(pasid);
    else this.#layer.space.drained(pasid);
    return 0;
  }

  /** The owner is gone: everything is drained and released. */
  close(): void {
    for (const b of [...this.#bindings.values()]) this.unbind(b.routing);
    for (const pasid of [...this.#reserved]) this.free(pasid);
  }
}

function key({ vfio, pasid }: Routing): string {
  return `${vfio.devId}/${pasid}`;
}
