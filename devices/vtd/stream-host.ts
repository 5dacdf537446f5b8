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

  constructor(core: VtdCore) {
    this.#core = core;
    this.#host = core.host;
  }

  /**
   * @returns 0 or more: done; -EOPNOTSUPP: the device can have one configuration only, and another stream of it has a
   *   different one; else -errno. Then what was attached still is (of a device as a whole: nothing).
   */
  attach(s: VtdStream, hwptId: number, pasid: number): VerbOutcome {
    const { upcalls } = this.#core.deps;
    const { device } = s;
    if (!device.several) return this.#host.attach(device.vfio, hwptId, pasid);
    if (upcalls !== null) return upcalls.attachStream(device.vfio.devId, s.index, hwptId, pasid);
    s.wanted.set(pasid, hwptId);
    const r = this.#agree(device, pasid);
    if (r >= 0 && !isApart(device, pasid)) return 0;
    s.wanted.delete(pasid);
    return r < 0 ? r : -E.OPNOTSUPP;
  }

  /** @returns 0 or more: nothing is attached; -errno. */
  detach(s: VtdStream, pasid: number): VerbOutcome {
    const { upcalls } = this.#core.deps;
    const { device } = s;
    if (!device.several) return this.#host.detach(device.vfio, pasid);
    if (upcalls !== null) return upcalls.attachStream(device.vfio.devId, s.index, 0, pasid);
    s.wanted.delete(pasid);
    return this.#agree(device, pasid);
  }

  /** Puts the whole device where all its streams want to be. */
  #agree(device: VtdStreamDevice, pasid: number): VerbOutcome {
    const { streams, vfio, agreed } = device;
    const wanted = streams[0]?.wanted.get(pasid) ?? 0;
    const all = streams.every((s) => (s.wanted.get(pasid) ?? 0) === wanted) ? wanted : 0;
    const now = agreed.get(pasid) ?? 0;
    if (all === now) return 0;
    const r = all === 0 ? this.#host.detach(vfio, pasid) : this.#host.attach(vfio, all, pasid);
    if (!isRefusal(r)) {
      agreed.set(pasid, all);
      return 0;
    }
    // What is attached is not what the streams ask for.
    if (all !== 0 && now !== 0 && !isRefusal(this.#host.detach(vfio, pasid))) agreed.delete(pasid);
    return r;
  }
}

/** Whether two streams of a device ask for different things. */
function isApart(device: VtdStreamDevice, pasid: number): boolean {
  const asked = device.streams.map((s) => s.wanted.get(pasid) ?? 0).filter((id) => id > 0);
  return new Set(asked).size > 1;
}
