import type { HostVerbs, VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { isRefusal } from '../../src/lib/uapi/refusals.ts';
import { E } from '../../src/spec/iommufd/errno.ts';
import type { VtdCore } from './core.ts';
import type { VtdStream, VtdStreamDevice } from './stream.ts';

/**
 * How a (stream, host PASID) reaches the host: a device with one requester id by Linux's verbs, one with several by the verb
 * for single streams. Without that (`linux-only`) the host knows the device as a whole: a PASID gets what all its streams
 * ask for, and nothing while they do not ask for the same.
 */
export class VtdStreamHost {
  readonly #core: VtdCore;
  readonly #host: HostVerbs;
  /** A HWPT over no memory at all, for a device. @returns its id or -errno. */
  readonly #nothing: (devId: number) => VerbOutcome;

  constructor(core: VtdCore, nothing: (devId: number) => VerbOutcome) {
    this.#core = core;
    this.#host = core.host;
    this.#nothing = nothing;
  }

  /**
   * @returns 0 or more: done; -EOPNOTSUPP: the device can have one configuration only, and another stream of it has a
   *   different one; else -errno. Then what was attached still is (of a device as a whole: nothing).
   */
  attach(s: VtdStream, hwptId: number, pasid: number): VerbOutcome {
    const { upcalls } = this.#core.deps;
    const { device } = s;
    if (!device.several) return this.#join(device, hwptId, pasid);
    if (upcalls !== null) return upcalls.attachStream(device.vfio.devId, s.index, hwptId, pasid);
    s.wanted.set(pasid, hwptId);
    const r = this.#agree(device, pasid);
    if (r >= 0 && !isApart(device, pasid)) return 0;
    s.wanted.delete(pasid);
    return r < 0 ? r : -E.OPNOTSUPP;
  }

  /** @returns 0 or more: nothing is attached, and (with upcalls) no cache of the host's unit knows what was; -errno. */
  detach(s: VtdStream, pasid: number): VerbOutcome {
    const { deps, confirm } = this.#core;
    const { upcalls } = deps;
    const { device } = s;
    if (!device.several) return this.#leave(device, pasid);
    if (upcalls !== null) {
      const r = upcalls.attachStream(device.vfio.devId, s.index, 0, pasid);
      return isRefusal(r) ? r : confirm.ask();
    }
    s.wanted.delete(pasid);
    return this.#agree(device, pasid);
  }

  /**
   * A detach by Linux's verb, which never says that the unit did not confirm. With upcalls one asks. Without, the next attach
   * is refused then; `prove` is for where none follows.
   */
  #leave(device: VtdStreamDevice, pasid: number): VerbOutcome {
    const others = this.#leaveToOthers(device, pasid);
    const r = this.#host.detach(device.vfio, pasid);
    if (isRefusal(r)) return r;
    device.attached.delete(pasid);
    // What others of its group have stays in force, for its own requests too.
    if (this.#core.deps.upcalls === null && !others) device.unproved.add(pasid);
    return this.#core.confirm.ask();
  }

  #join(device: VtdStreamDevice, hwptId: number, pasid: number): VerbOutcome {
    const r = this.#host.attach(device.vfio, hwptId, pasid);
    if (isRefusal(r)) return r;
    // The host has moved its whole group, and what any of it had before is proved to be gone with it.
    for (const d of device.group) d.unproved.delete(pasid);
    device.attached.set(pasid, hwptId);
    for (const d of peers(device)) if (d.attached.has(pasid)) d.attached.set(pasid, hwptId);
    return r;
  }

  /** One of the group leaves: another one that it took along gets back what it asked for. @returns whether others are attached. */
  #leaveToOthers(device: VtdStreamDevice, pasid: number): boolean {
    const attached = peers(device).filter((d) => d.attached.has(pasid));
    for (const d of attached) {
      const own = ownOf(d, pasid);
      if (own === 0 || own === d.attached.get(pasid) || !device.attached.has(pasid)) continue;
      this.#core.refusals.note('undoing', this.#join(d, own, pasid));
      break;
    }
    return attached.length > 0;
  }

  /**
   * Without upcalls: what the unit may not have confirmed to be detached goes where there is no memory, which is refused
   * unless it has. As far as the budget goes: `work.unfinished`.
   * @returns 0 or -errno: something detached may still be in use.
   */
  prove(device: VtdStreamDevice): VerbOutcome {
    const { work } = this.#core;
    for (const pasid of device.unproved) {
      if (work.over) {
        work.unfinished = true;
        return 0;
      }
      const nothing = this.#nothing(device.vfio.devId);
      const r = nothing < 0 ? nothing : this.#join(device, nothing, pasid);
      const left = r < 0 ? r : this.#host.detach(device.vfio, pasid);
      if (isRefusal(left)) return left;
    }
    return 0;
  }

  /** Puts the whole device where all its streams want to be. */
  #agree(device: VtdStreamDevice, pasid: number): VerbOutcome {
    const { streams, agreed } = device;
    const wanted = streams[0]?.wanted.get(pasid) ?? 0;
    const all = streams.every((s) => (s.wanted.get(pasid) ?? 0) === wanted) ? wanted : 0;
    const now = agreed.get(pasid) ?? 0;
    if (all === now) return 0;
    const r = all === 0 ? this.#leave(device, pasid) : this.#join(device, all, pasid);
    if (!isRefusal(r)) {
      agreed.set(pasid, all);
      return 0;
    }
    // What is attached is not what the streams ask for.
    if (all !== 0 && now !== 0 && !isRefusal(this.#leave(device, pasid))) agreed.delete(pasid);
    return r;
  }
}

/** The other devices of its group that the host moves along with it. */
function peers(device: VtdStreamDevice): VtdStreamDevice[] {
  return device.group.size === 1 ? [] : [...device.group].filter((d) => d !== device && !d.several);
}

/** What a device asked for under a host PASID; 0: nothing, or guest RAM. */
function ownOf(device: VtdStreamDevice, pasid: number): number {
  for (const { slots } of device.streams) {
    for (const { host, domain } of slots.list) if (host.includes(pasid)) return domain.hwptId;
  }
  return 0;
}

/** Whether two streams of a device ask for different things. */
function isApart(device: VtdStreamDevice, pasid: number): boolean {
  const asked = device.streams.map((s) => s.wanted.get(pasid) ?? 0).filter((id) => id > 0);
  return new Set(asked).size > 1;
}
