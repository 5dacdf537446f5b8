import type { HostVerbs, VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import type { VfioDevice } from '../../src/ports/iommufd.ts';
import { E } from '../../src/spec/iommufd/errno.ts';
import type { Smmuv3Core } from './core.ts';
import type { Smmuv3Domain } from './domains.ts';
import type { Smmuv3Stream, Smmuv3StreamDevice } from './stream.ts';

/** The host has one configuration for the whole device, and another stream of it asks for a different one. */
export const APART = 3;

/** Whether the host knows the stream's device as a whole, so that what another device of its group has concerns it. */
function isWhole(s: Smmuv3Stream, upcalls: unknown): boolean {
  return s.device.streams.length === 1 || upcalls === null;
}

/**
 * How a stream reaches the host: a device with one stream by Linux's verbs, one with several by the verbs for single
 * streams. Without those (`linux-only`) the host knows the device as a whole: it gets a configuration once all its streams
 * ask for that one, and nothing, so that all abort, while they do not.
 */
export class Smmuv3StreamHost {
  readonly #core: Smmuv3Core;
  readonly #host: HostVerbs;
  /** The HWPT in which all DMA of a device is refused. @returns its id or -errno. */
  readonly #abort: (devId: number) => VerbOutcome;
  /** Gives a stream that has nothing its name in the vIOMMU of another one. @returns 0 or -errno. */
  readonly #name: (s: Smmuv3Stream, like: Smmuv3Stream) => VerbOutcome;

  constructor(
    core: Smmuv3Core,
    abort: (devId: number) => VerbOutcome,
    name: (s: Smmuv3Stream, like: Smmuv3Stream) => VerbOutcome,
  ) {
    this.#core = core;
    this.#host = core.host;
    this.#abort = abort;
    this.#name = name;
  }

  /** @returns 0, APART, or -errno, and then what was attached still is (a shared device: nothing). */
  attach(s: Smmuv3Stream, hwptId: number): VerbOutcome {
    const { upcalls } = this.#core.deps;
    const { device } = s;
    let r: VerbOutcome;
    if (s.shared) {
      s.hwptId = hwptId;
      r = this.#agree(device);
    } else if (isWhole(s, upcalls)) {
      r = this.#join(s, hwptId);
    } else {
      r = upcalls!.attachStream(s.vfio.devId, s.index, hwptId);
    }
    if (r >= 0) s.hwptId = hwptId;
    if (r >= 0) s.ownHwptId = hwptId;
    return r;
  }

  /**
   * A stream with a stage 1 takes its whole group along, and each device there needs a name: those that the guest has not set up
   * have none, or one in a vIOMMU that does not count for them any more.
   */
  #join(s: Smmuv3Stream, hwptId: number): VerbOutcome {
    const peers = this.#peers(s);
    let r = this.#host.attach(s.vfio, hwptId);
    if (r === -E.NOENT && peers.length > 0) {
      for (const peer of peers) if (peer.hwptId === 0 && this.#name(peer, s) < 0) return r;
      r = this.#host.attach(s.vfio, hwptId);
    }
    if (r >= 0) for (const peer of peers) if (peer.hwptId > 0) peer.hwptId = hwptId;
    return r;
  }

  /** Streams of the other devices of its group that the host moves along with it. */
  #peers(s: Smmuv3Stream): readonly Smmuv3Stream[] {
    const { upcalls } = this.#core.deps;
    if (s.device.group.size === 1) return [];
    return [...s.device.group].flatMap((d) => (d === s.device ? [] : d.streams.filter((p) => isWhole(p, upcalls))));
  }

  /** Whether others of its group are attached by names in another vIOMMU than a domain's: it cannot take them along there. */
  holdsElsewhere(s: Smmuv3Stream, domain: Smmuv3Domain): boolean {
    return this.#peers(s).some((p) => p.hwptId > 0 && p.vdeviceIn !== null && p.vdeviceIn !== domain);
  }

  /** One of the group leaves: another one that it took along gets back what it asked for. @returns whether others are attached. */
  #leaveToOthers(s: Smmuv3Stream): boolean {
    const attached = this.#peers(s).filter((p) => p.hwptId > 0);
    const moved = s.hwptId === 0 ? undefined : attached.find((p) => p.ownHwptId !== p.hwptId);
    if (moved !== undefined) {
      const { ownHwptId } = moved;
      const r = this.#host.attach(moved.vfio, ownHwptId);
      if (r >= 0) for (const p of attached) p.hwptId = ownHwptId;
      this.#core.refusals.note('undoing', r);
    }
    return attached.length > 0;
  }

  /** @returns 0: nothing is attached, and no cache of the host's SMMU knows what was; or -errno. */
  detach(s: Smmuv3Stream): VerbOutcome {
    const { deps, confirm } = this.#core;
    const { upcalls } = deps;
    const { device } = s;
    if (s.shared) {
      s.hwptId = 0;
      return Math.min(this.#agree(device), 0);
    }
    if (isWhole(s, upcalls)) {
      // What others of its group have stays in force, for its own requests too.
      const r = this.#leaveToOthers(s) ? this.#host.detach(s.vfio) : this.#leave(s.vfio);
      if (r >= 0) s.hwptId = s.ownHwptId = 0;
      return r < 0 ? r : confirm.ask();
    }
    const r = upcalls!.attachStream(s.vfio.devId, s.index, 0);
    // What the SMMU does not confirm is detached all the same.
    if (r >= 0 || r === -E.IO) s.hwptId = s.ownHwptId = 0;
    return r < 0 ? r : confirm.ask();
  }

  /**
   * A detach by Linux's verb, which never says that the SMMU did not confirm. Without upcalls, where nobody else could be
   * asked, the device aborts first: that is refused then.
   */
  #leave(vfio: VfioDevice): VerbOutcome {
    if (this.#core.deps.upcalls === null) {
      const abort = this.#abort(vfio.devId);
      const r = abort < 0 ? abort : this.#host.attach(vfio, abort);
      if (r < 0) return r;
    }
    return this.#host.detach(vfio);
  }

  /** Gives the stream its name in a vIOMMU. @returns the id of the vDEVICE, or -errno. */
  vdevice(s: Smmuv3Stream, viommuId: number): VerbOutcome {
    const { upcalls } = this.#core.deps;
    const { devId } = s.vfio;
    if (s.device.streams.length === 1 || upcalls === null) return this.#host.vdevice(viommuId, devId, s.sid);
    return upcalls.streamVdevice(viommuId, devId, s.index, s.sid);
  }

  /** Puts the whole device where all its streams want to be. */
  #agree(device: Smmuv3StreamDevice): VerbOutcome {
    const { streams, vfio } = device;
    const wanted = streams[0]!.hwptId;
    const agreed = streams.every((s) => s.hwptId === wanted) ? wanted : 0;
    const apart = new Set(streams.map((s) => s.hwptId).filter((id) => id > 0)).size > 1;
    if (agreed !== device.hwptId) {
      const r = agreed === 0 ? this.#leave(vfio) : this.#host.attach(vfio, agreed);
      if (r < 0) {
        // What is attached is not what the streams ask for.
        if (agreed === 0 || device.hwptId === 0) return r;
        const left = this.#leave(vfio);
        if (left >= 0) device.hwptId = 0;
        return Math.min(left, r);
      }
      device.hwptId = agreed;
    }
    return apart ? APART : 0;
  }
}
