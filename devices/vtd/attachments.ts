import type { VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { isRefusal } from '../../src/lib/uapi/refusals.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import { E } from '../../src/spec/iommufd/errno.ts';
import type { VtdCore } from './core.ts';
import type { VtdDomains } from './domains.ts';
import { inForce } from './faults.ts';
import type { VtdSlot, VtdSlotPlace, VtdStream } from './stream.ts';
import { VtdStreamHost } from './stream-host.ts';
import type { VtdGuestTables } from './tables.ts';

/** The guest's tables have nothing valid for a (stream, PASID), so that nothing is attached. No refusal of the host. */
export const NOTHING_VALID = 1;
/** PASIDs of a stream that the host has refused and that are tried again without being used. */
const UNSETTLED = 256;
/** What Linux says of a HWPT with a fault queue for a function without PRI, and for a VF (iommufd_fault_iopf_enable). */
const WITHOUT_PRI: ReadonlySet<number> = new Set([-E.NODEV, -E.INVAL]);
/** Slots that are looked at to find one that can go. */
const LOOKED_AT = 64;
/**
 * No PASID of the host is to be had for one of the guest. Nothing that was to go is still there, so this stops no invalidation;
 * requests under the PASID are faults until a later call finds one.
 */
export const NO_HOST_PASID = 2;

/** Who waits for answers under PASIDs of streams. */
export interface VtdSlotListener {
  /** A PASID of a stream was taken away, while its host PASIDs still have their names. */
  forgotten(s: VtdStream, pasid: number): void;
  /** Whether an answer is awaited under it: then it stays. */
  awaited(s: VtdStream, pasid: number): boolean;
}

/** Makes the host follow the guest's tables for one (stream, PASID): attach, replace, detach. */
export class VtdAttachments {
  /** Hears of what has nothing and is not tried again; see `VtdStreams.onLost`. */
  onLost: ((rid: number, pasid: number) => void) | null = null;
  /** null: nobody waits for answers under PASIDs. */
  listener: VtdSlotListener | null = null;
  readonly #streams: VtdStreamHost;
  readonly #tables: VtdGuestTables;
  readonly #domains: VtdDomains;
  readonly #refusals: VtdCore['refusals'];
  readonly #work: VtdCore['work'];
  readonly #quota: VtdCore['quotas']['pasids'];
  /** Whether the hardware asks for what is not set up, so that it can be taken down. */
  readonly #asked: boolean;
  /** PASIDs that are set up, the oldest first. */
  readonly #order = new Set<VtdSlotPlace>();

  constructor(core: VtdCore, tables: VtdGuestTables, domains: VtdDomains) {
    this.#streams = new VtdStreamHost(core, (devId) => domains.nothing(devId));
    this.#tables = tables;
    this.#domains = domains;
    this.#refusals = core.refusals;
    this.#work = core.work;
    this.#quota = core.quotas.pasids;
    this.#asked = core.deps.upcalls !== null;
  }

  /**
   * Makes (stream, pasid) what the guest's tables say now.
   * @returns 0: it is attached to that; NOTHING_VALID: there is nothing to attach it to; NO_HOST_PASID; -errno: the host
   *   refuses. In the last two cases it is detached, since what was there is no longer what the tables say, and counts as
   *   unsettled until a later call succeeds.
   */
  configure(s: VtdStream, pasid: number): VerbOutcome {
    const outcome = this.#configure(s, pasid);
    if (outcome >= 0 && outcome !== NO_HOST_PASID) {
      s.unsettled.delete(pasid);
      return outcome;
    }
    if (outcome === NO_HOST_PASID) this.#refusals.note('first use', -E.NOSPC);
    this.detach(s, pasid);
    // What has nothing is asked for again at its next use; only so many are tried before. Without uses the guest is told of the
    // rest, and of what finds no room, which stops no invalidation.
    const tried = s.slots.has(pasid) || s.unsettled.size < UNSETTLED;
    if (!this.#asked && !s.unsettled.has(pasid) && (!tried || outcome === NO_HOST_PASID)) this.onLost?.(s.rid, pasid);
    if (tried) s.unsettled.add(pasid);
    return outcome;
  }

  #configure(s: VtdStream, pasid: number): VerbOutcome {
    const r = this.#tables.find(s.rid, pasid);
    if (r === null) {
      const gone = this.detach(s, pasid);
      return gone < 0 ? gone : NOTHING_VALID;
    }
    // An unsettled slot is on something that the host did not change as it should have: it does not stay there.
    const gone = s.unsettled.has(pasid) ? this.detach(s, pasid) : 0;
    if (gone < 0) return gone;
    const old = s.slots.get(pasid);
    const configuration = inForce(this.#tables.context, r);
    if (old !== undefined && old.domain.key === this.#domains.keyOf(r, s.faultId)) {
      s.slots.set(pasid, { ...old, index: r.pasid, did: r.did, configuration });
      return 0;
    }
    if (old === undefined && pasid !== NO_PASID && !this.#makeRoom()) return NO_HOST_PASID;
    const domain = this.#domains.acquire(s.vfio.devId, r, s.faultId);
    if (typeof domain === 'number') return domain;
    const { round } = this.#work;
    const place = old?.place ?? { stream: s, pasid };
    const slot = { pasid, index: r.pasid, did: r.did, domain, configuration, round, place };
    const host = old?.host ?? s.mode.acquire(pasid);
    const attached = host === null ? NO_HOST_PASID : this.#attach(s, host, domain.hwptId, old?.domain.hwptId);
    if (host === null || attached !== 0) {
      if (host !== null && old === undefined) s.mode.release(pasid);
      this.#domains.release(domain);
      return s.faultId !== 0 && WITHOUT_PRI.has(attached) ? this.#withoutFaults(s, pasid) : attached;
    }
    s.slots.set(pasid, { ...slot, host });
    if (old === undefined && pasid !== NO_PASID) {
      this.#order.add(place);
      this.#quota.used++;
    }
    if (pasid === NO_PASID) s.bypass = false;
    if (old !== undefined) this.#domains.release(old.domain);
    return 0;
  }

  /**
   * The host refuses a HWPT with a fault queue, perhaps because the function has no PRI: then it takes one without, from here on.
   * Where that is refused as well, the fault queue was not to blame, and the function keeps its page requests.
   */
  #withoutFaults(s: VtdStream, pasid: number): VerbOutcome {
    const { faultId } = s;
    s.faultId = 0;
    const outcome = this.#configure(s, pasid);
    if (outcome !== 0) s.faultId = faultId;
    return outcome;
  }

  /**
   * One more PASID is to be set up. At the quota the oldest goes that comes back with its next use and that nobody waits under.
   * @returns false: there is none.
   */
  #makeRoom(): boolean {
    if (this.#quota.room()) return true;
    if (!this.#asked) return false;
    let looked = 0;
    for (const place of this.#order) {
      const { stream, pasid } = place;
      // What cannot go moves behind the others, so that it is not looked at every time.
      if (looked++ === LOOKED_AT) return false;
      const kept = stream.renamed || stream.unsettled.has(pasid) || this.listener?.awaited(stream, pasid) === true;
      if (!kept && this.detach(stream, pasid) >= 0) return true;
      this.#order.delete(place);
      this.#order.add(place);
    }
    return false;
  }

  /** All of `host` or none: after a refusal the ones done before go back to `before`. */
  #attach(s: VtdStream, host: readonly number[], hwptId: number, before: number | undefined): VerbOutcome {
    for (let i = 0; i < host.length; i++) {
      const r = this.#streams.attach(s, hwptId, host[i]!);
      if (r >= 0) continue;
      for (let k = 0; k < i; k++) {
        const own = host[k]!;
        const undone = before === undefined ? this.#streams.detach(s, own) : this.#streams.attach(s, before, own);
        this.#refusals.note('undoing', undone);
      }
      return r;
    }
    return 0;
  }

  /** Takes a PASID of a stream away, its domain with the last user. @returns 0, also when nothing was attached, or -errno. */
  detach(s: VtdStream, pasid: number): VerbOutcome {
    const bypass = pasid === NO_PASID ? this.#leaveRam(s) : 0;
    const slot = s.slots.get(pasid);
    const refused = slot === undefined ? 0 : this.#detachSlot(s, slot);
    return bypass || refused;
  }

  /** See `VtdStreamHost.prove`. */
  prove(streams: readonly VtdStream[]): VerbOutcome {
    for (let i = 0; i < streams.length; i++) {
      const { device } = streams[i]!;
      const refused = device.unproved.size > 0 ? this.#streams.prove(device) : 0;
      if (refused < 0 || this.#work.unfinished) return refused;
    }
    return 0;
  }

  /** The stream is taken out of the VM: what the host did not detach goes when its file is closed. */
  abandon(s: VtdStream): void {
    for (const slot of [...s.slots.list]) this.#forget(s, slot);
    s.bypass = false;
  }

  #forget(s: VtdStream, slot: VtdSlot): void {
    s.slots.delete(slot.pasid);
    if (this.#order.delete(slot.place)) this.#quota.used--;
    this.listener?.forgotten(s, slot.pasid);
    // A detach empties the ATC.
    s.skipped.delete(slot.pasid);
    s.mode.release(slot.pasid);
    this.#domains.release(slot.domain);
  }

  #detachSlot(s: VtdStream, slot: VtdSlot): VerbOutcome {
    let refused = 0;
    for (const host of slot.host) {
      const r = this.#streams.detach(s, host);
      if (isRefusal(r)) refused ||= r;
    }
    if (refused < 0) {
      // It stays known, so that it is tried again.
      s.unsettled.add(slot.pasid);
      return refused;
    }
    s.unsettled.delete(slot.pasid);
    this.#forget(s, slot);
    return 0;
  }

  /** Every PASID of a stream goes, the requester id itself stays. @param part as far as the budget goes: `work.unfinished`. */
  #detachPasids(s: VtdStream, part: boolean): VerbOutcome {
    let refused = 0;
    for (const slot of [...s.slots.list]) {
      if (part && this.#work.over) {
        this.#work.unfinished = true;
        break;
      }
      const r = slot.pasid === NO_PASID ? 0 : this.#detachSlot(s, slot);
      if (r < 0) refused ||= r;
    }
    return refused;
  }

  /** Translation off: the stream sees guest RAM. @param part see `unset`. */
  bypass(s: VtdStream, part = false): VerbOutcome {
    let refused = this.#detachPasids(s, part);
    if (part && this.#work.unfinished) return refused;
    const old = s.slots.get(NO_PASID);
    if (!s.bypass) {
      const r = this.#attachRam(s);
      if (r < 0) refused ||= r;
      s.bypass = r >= 0;
    }
    if (!s.bypass) {
      // It may not go on translating either.
      this.detach(s, NO_PASID);
      s.unsettled.add(NO_PASID);
      return refused;
    }
    s.unsettled.delete(NO_PASID);
    s.slots.delete(NO_PASID);
    if (old === undefined) return refused;
    this.listener?.forgotten(s, NO_PASID);
    this.#domains.release(old.domain);
    return refused;
  }

  /**
   * Translation is switched: the host takes no device of a group to a place of its own while another one holds what was before.
   * @param on translation is on now.
   */
  clearGroup(s: VtdStream, on: boolean): VerbOutcome {
    const { group } = s.device;
    let refused = 0;
    if (group.size === 1) return refused;
    for (const { streams } of group) {
      for (const other of streams) {
        const before = on ? other.bypass : other.slots.has(NO_PASID);
        if (before && other.slice === undefined) refused = this.detach(other, NO_PASID) || refused;
      }
    }
    return refused;
  }

  #attachRam(s: VtdStream): VerbOutcome {
    const parent = this.#domains.parent(s.vfio.devId);
    return typeof parent === 'number' ? parent : this.#streams.attach(s, parent.hwptId, ownPasid(s));
  }

  /**
   * Nothing is attached: the hardware asks on first use. PASIDs go first, as VFIO does it.
   * @param part as far as the budget goes; `work.unfinished`: it is to be called again.
   */
  unset(s: VtdStream, part = false): VerbOutcome {
    const pasids = this.#detachPasids(s, part);
    if (part && this.#work.unfinished) return pasids;
    const configured = this.detach(s, NO_PASID);
    return pasids || configured;
  }

  /** Takes a stream off guest RAM. */
  #leaveRam(s: VtdStream): VerbOutcome {
    if (!s.bypass) return 0;
    const r = this.#streams.detach(s, ownPasid(s));
    s.bypass = isRefusal(r);
    if (!s.bypass) return 0;
    s.unsettled.add(NO_PASID);
    return r;
  }
}

/** What the requests of the function itself carry on the host: no PASID, or the one of its slice. */
function ownPasid(s: VtdStream): number {
  return s.mode.toHost(NO_PASID)[0]!;
}
