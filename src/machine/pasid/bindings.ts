import type { PasidHandle } from '../../lib/pasid/pasid-space.ts';
import type { Clock } from '../../ports/clock.ts';
import { NO_PASID } from '../../ports/dma.ts';
import type { Iommufd, VfioDevice } from '../../ports/iommufd.ts';
import type { HostUpcalls } from '../../ports/upcalls.ts';
import { E } from '../../spec/iommufd/errno.ts';
import { type PasidInfo, pasidInfo } from './pasid-info.ts';
import type { PasidLayer } from './pasid-layer.ts';

/** Routing information: what selects an I/O page table is the device, or the device and a PASID. Nothing else. */
export interface Routing {
  /** The device. */
  readonly vfio: VfioDevice;
  /** NO_PASID: the requester id alone. */
  readonly pasid: number;
}

/** Who works with the address space behind a PASID: a driver with queued work, a process. */
export interface PasidUser {
  /**
   * The address space is about to go, or to be replaced by another one. The user stops its work and says when it is through;
   * until then, or until the grace period ends, everything stays as it is. The PASID itself is not used again before the user
   * has said so.
   * @param done at once or later.
   */
  leaving(routing: Routing, done: () => void): void;
}

/** How long users may take before the address space goes all the same. */
export interface Grace {
  /** The machine's clock. */
  readonly clock: Clock;
  /** From being told on. */
  readonly nanoseconds: number;
}

/** The address space that takes the place of another one. */
interface Replacement {
  /** HWPT to attach. */
  readonly hwptId: number;
  /** Private data of the binding. */
  readonly data: unknown;
  /** Told before the new address space goes. */
  readonly user: PasidUser | null;
  /** Hears how a replacement ended that had to wait: see `PasidBindings.bind`. */
  readonly replaced: ((result: number) => void) | null;
}

interface Binding {
  readonly routing: Routing;
  /** The device's id while it was open. */
  readonly devId: number;
  hwptId: number;
  data: unknown;
  user: PasidUser | null;
  /** Its user has been told; it stays until the user is through. */
  leaving: boolean;
  /** Comes when the user is through; null: nothing does. */
  next: Replacement | null;
  /** Counts the times a user was told: what belongs to an earlier time has no effect any more. */
  turn: number;
}

/**
 * What a program that is no vIOMMU does with PASIDs of its devices: binds address spaces to (device, PASID), keeps private
 * data with each binding, reserves PASIDs without any address space, and takes bindings back without reusing a PASID too
 * early. The verbs below it are the uAPI's: attach, replace, detach. Everything goes when it is closed, when its device's
 * file or the iommufd is closed, or when the VM's PASIDs are, in whatever order that happens.
 */
export class PasidBindings {
  readonly #iommufd: Iommufd;
  readonly #upcalls: HostUpcalls | null;
  readonly #layer: PasidLayer;
  readonly #grace: Grace | null;
  readonly #handle: PasidHandle;
  readonly #devices = new Map<VfioDevice, Map<number, Binding>>();
  /** Bindings of a PASID that are on their way out, and whether it is freed when they are through. */
  readonly #leaving = new Map<number, number>();
  readonly #freed = new Set<number>();
  readonly #reserved = new Set<number>();
  readonly #forget: () => void;
  #closed = false;

  /**
   * @param upcalls null: bindings that are taken back are not silent while they drain. @param layer the VM's PASIDs.
   * @param grace null: users are waited for, however long they take, except when this is closed.
   */
  constructor(iommufd: Iommufd, upcalls: HostUpcalls | null, layer: PasidLayer, grace: Grace | null = null) {
    this.#iommufd = iommufd;
    this.#upcalls = upcalls;
    this.#layer = layer;
    this.#grace = grace;
    this.#handle = layer.space.open();
    const closed = [layer.whenClosed(() => this.close()), iommufd.whenClosed?.(() => this.close())];
    this.#forget = () => {
      for (const forget of closed) forget?.();
    };
  }

  /** @param global the device's PASIDs have twins in the host's pool. */
  info(vfio: VfioDevice, global: boolean): PasidInfo {
    return pasidInfo(this.#iommufd, vfio, global, this.#layer.space.min);
  }

  /** A PASID of the host's pool, with no address space behind it. @returns -ENOSPC: none is free, or this is closed. */
  reserve(data: unknown = undefined): number {
    const pasid = this.#closed ? -1 : this.#handle.allocate(data);
    if (pasid < 0) return -E.NOSPC;
    this.#reserved.add(pasid);
    return pasid;
  }

  /**
   * Attaches an address space to (device, PASID), or replaces the one that is there. The user of that one is told before, and
   * the replacement waits until it is through or its grace period ends.
   * @param user told before the address space goes; null: nobody.
   * @param replaced called once after -EINPROGRESS: with 0, with what the attach answered (then the old address space stays,
   *   without a user), or with -ECANCELED when the binding was taken back meanwhile.
   * @returns 0; -EINPROGRESS: a replacement waits for the user; -EPERM: a PASID of the host's pool that is somebody else's;
   *   -EBUSY: what is there is just being taken back or replaced; -EBADFD: this is closed; or what the attach answered.
   */
  bind(
    routing: Routing,
    hwptId: number,
    data: unknown = undefined,
    user: PasidUser | null = null,
    replaced: ((result: number) => void) | null = null,
  ): number {
    const { vfio, pasid } = routing;
    if (this.#closed) return -E.BADFD;
    if (pasid >= this.#layer.space.min && !this.#handle.owns(pasid)) return -E.PERM;
    const known = this.#find(routing);
    if (known !== undefined) return this.#replace(known, { hwptId, data, user, replaced });
    const r = vfio.attach(hwptId, pasid);
    if (r !== 0) return r;
    const b = { routing, devId: vfio.devId, hwptId, data, user, leaving: false, next: null, turn: 0 };
    this.#bindingsOf(vfio).set(pasid, b);
    if (user !== null) this.#layer.space.hold(pasid);
    return 0;
  }

  #replace(b: Binding, by: Replacement): number {
    if (b.leaving || b.next !== null) return -E.BUSY;
    let result: number = -E.INPROGRESS;
    let inside = true;
    const ended = (r: number) => {
      if (inside) result = r;
      else by.replaced?.(r);
    };
    b.next = { ...by, replaced: ended };
    if (b.user === null) this.#swap(b);
    else this.#tell(b, b.user, this.#grace);
    inside = false;
    return result;
  }

  /** The old address space has nobody that works with it any more: the new one takes its place. */
  #swap(b: Binding): void {
    const { next, routing } = b;
    if (next === null) return;
    b.next = null;
    const r = routing.vfio.attach(next.hwptId, routing.pasid);
    b.user = null;
    if (r === 0) {
      b.hwptId = next.hwptId;
      b.data = next.data;
      b.user = next.user;
      if (next.user !== null) this.#layer.space.hold(routing.pasid);
    }
    next.replaced?.(r);
  }

  /** A user is told that its address space goes; when it is through, or time is up, what it has to make way for happens. */
  #tell(b: Binding, user: PasidUser, grace: Grace | null): void {
    const turn = ++b.turn;
    const through = () => {
      if (b.turn !== turn) return;
      b.turn++;
      if (b.leaving) this.#take(b);
      else this.#swap(b);
    };
    const { pasid } = b.routing;
    const done = once(() => {
      through();
      this.#layer.space.done(pasid);
    });
    user.leaving(b.routing, done);
    if (grace !== null && b.turn === turn) grace.clock.after(grace.nanoseconds, through);
  }

  #bindingsOf(vfio: VfioDevice): Map<number, Binding> {
    let list = this.#devices.get(vfio);
    if (list === undefined) {
      list = new Map();
      this.#devices.set(vfio, list);
      vfio.whenClosed?.(() => this.#gone(vfio));
    }
    return list;
  }

  #find({ vfio, pasid }: Routing): Binding | undefined {
    return this.#devices.get(vfio)?.get(pasid);
  }

  #all(): Binding[] {
    return [...this.#devices.values()].flatMap((list) => [...list.values()]);
  }

  /** The private data of a binding; undefined when nothing is bound there. */
  dataOf(routing: Routing): unknown {
    return this.#find(routing)?.data;
  }

  /** Every (device, PASID) an address space is bound to: where a change of it must be invalidated. */
  boundTo(hwptId: number): readonly Routing[] {
    return this.#all()
      .filter((b) => b.hwptId === hwptId)
      .map((b) => b.routing);
  }

  /**
   * Takes a binding back, when its user is through: not present and silent from then on, in use until everything in flight is
   * through.
   * @returns false: nothing was bound there.
   */
  unbind(routing: Routing): boolean {
    const b = this.#find(routing);
    if (b === undefined) return false;
    this.#leave(b, this.#grace);
    return true;
  }

  /** @param grace null: the user is waited for. */
  #leave(b: Binding, grace: Grace | null): void {
    if (b.leaving) return;
    b.leaving = true;
    const { pasid } = b.routing;
    this.#leaving.set(pasid, (this.#leaving.get(pasid) ?? 0) + 1);
    const { next, user } = b;
    if (next !== null) {
      // Its user knows already, and what it makes way for is that nothing is bound any more.
      b.next = null;
      next.replaced?.(-E.CANCELED);
    } else if (user === null) this.#take(b);
    else this.#tell(b, user, grace);
  }

  /** The address space goes now, whatever its user does. */
  #take(b: Binding): void {
    const { vfio, pasid } = b.routing;
    if (this.#find(b.routing) !== b) return;
    this.#devices.get(vfio)!.delete(pasid);
    vfio.detach(pasid);
    if (pasid === NO_PASID) {
      this.#left(pasid);
      return;
    }
    this.#upcalls?.quiet?.(b.devId, pasid, true);
    this.#layer.drain(pasid, () => {
      // A new binding has made the entry anew.
      if (this.#find(b.routing) === undefined) this.#upcalls?.quiet?.(b.devId, pasid, false);
      this.#left(pasid);
    });
  }

  #left(pasid: number): void {
    const left = this.#leaving.get(pasid)! - 1;
    if (left > 0) this.#leaving.set(pasid, left);
    else this.#leaving.delete(pasid);
    if (left === 0 && this.#freed.delete(pasid)) this.#layer.space.drained(pasid);
  }

  /**
   * Gives a reserved PASID back, with every binding of it. It is not reused before the users of all of them are through and
   * nothing is in flight.
   * @returns -EINVAL: not one of ours.
   */
  free(pasid: number): number {
    if (!this.#reserved.delete(pasid)) return -E.INVAL;
    for (const b of this.#all()) if (b.routing.pasid === pasid) this.#leave(b, this.#grace);
    this.#handle.free(pasid, true);
    if (this.#leaving.has(pasid)) this.#freed.add(pasid);
    else this.#layer.space.drained(pasid);
    return 0;
  }

  /** A device's file is closed: its address spaces cannot outlive it. */
  #gone(vfio: VfioDevice): void {
    for (const b of this.#all()) {
      if (b.routing.vfio !== vfio) continue;
      this.#leave(b, this.#grace);
      this.#take(b);
    }
    this.#devices.delete(vfio);
  }

  /** The owner is gone: users are told and have the grace period, if there is one; then everything is drained and released. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#forget();
    for (const b of this.#all()) {
      this.#leave(b, this.#grace);
      if (this.#grace === null) this.#take(b);
    }
    for (const pasid of [...this.#reserved]) this.free(pasid);
  }
}

/** Calls `action` the first time only. */
function once(action: () => void): () => void {
  let called = false;
  return () => {
    if (called) return;
    called = true;
    action();
  };
}
