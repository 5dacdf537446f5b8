import type { HostVerbs, VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import type { VtdCore } from './core.ts';
import type { VtdDomains } from './domains.ts';
import type { VtdSlot, VtdStream } from './stream.ts';
import type { VtdGuestTables } from './tables.ts';

/** The guest's tables have nothing valid for a (stream, PASID), so that nothing is attached. No refusal of the host. */
export const NOTHING_VALID = 1;
/** No PASID of the host is left for a new one of the guest. */
const NO_HOST_PASID = 2;

/** Makes the host follow the guest's tables for one (stream, PASID): attach, replace, detach. */
export class VtdAttachments {
  readonly #host: HostVerbs;
  readonly #tables: VtdGuestTables;
  readonly #domains: VtdDomains;
  readonly #refusals: VtdCore['refusals'];

  constructor(core: VtdCore, tables: VtdGuestTables, domains: VtdDomains) {
    this.#host = core.host;
    this.#tables = tables;
    this.#domains = domains;
    this.#refusals = core.refusals;
  }

  /**
   * Makes (stream, pasid) what the guest's tables say now.
   * @returns 0: it is attached to that; NOTHING_VALID or another value above 0: it is not; -errno: the host refuses.
   */
  configure(s: VtdStream, pasid: number): VerbOutcome {
    const r = this.#tables.find(s.rid, pasid);
    if (r === null) {
      const gone = this.detach(s, pasid);
      return gone < 0 ? gone : NOTHING_VALID;
    }
    const old = s.slots.get(pasid);
    if (old !== undefined && old.domain.key === this.#domains.keyOf(r, s.faultId)) return 0;
    const domain = this.#domains.acquire(s.vfio.devId, r, s.faultId);
    if (typeof domain === 'number') return domain;
    const slot = { pasid, index: r.pasid, did: r.did, domain };
    const host = old?.host ?? s.mode.acquire(pasid);
    const attached = host === null ? NO_HOST_PASID : this.#attach(s, host, domain.hwptId, old?.domain.hwptId);
    if (host === null || attached !== 0) {
      if (host !== null && old === undefined) s.mode.release(pasid);
      this.#domains.release(domain);
      if (s.faultId === 0) return attached;
      // A function without PRI cannot be attached to a HWPT with a fault queue (ENODEV).
      s.faultId = 0;
      return this.configure(s, pasid);
    }
    s.slots.set(pasid, { ...slot, host });
    if (old !== undefined) this.#domains.release(old.domain);
    return 0;
  }

  /** All of `host` or none: after a refusal the ones done before go back to `before`. */
  #attach(s: VtdStream, host: readonly number[], hwptId: number, before: number | undefined): VerbOutcome {
    for (let i = 0; i < host.length; i++) {
      const r = this.#host.attach(s.vfio, hwptId, host[i]!);
      if (r >= 0) continue;
      for (let k = 0; k < i; k++) {
        const own = host[k]!;
        const undone = before === undefined ? this.#host.detach(s.vfio, own) : this.#host.attach(s.vfio, before, own);
        this.#refusals.note('undoing', undone);
      }
      return r;
    }
    return 0;
  }

  /** Takes a PASID of a stream away, its domain with the last user. @returns 0, also when nothing was attached, or -errno. */
  detach(s: VtdStream, pasid: number): VerbOutcome {
    const slot = s.slots.get(pasid);
    return slot === undefined ? 0 : this.#detachSlot(s, slot);
  }

  #detachSlot(s: VtdStream, slot: VtdSlot): VerbOutcome {
    let refused = 0;
    s.slots.delete(slot.pasid);
    for (const host of slot.host) {
      const r = this.#host.detach(s.vfio, host);
      if (r < 0) refused ||= r;
    }
    s.mode.release(slot.pasid);
    this.#domains.release(slot.domain);
    return refused;
  }

  /** Every PASID of a stream goes, the requester id itself stays. */
  #detachPasids(s: VtdStream): VerbOutcome {
    let refused = 0;
    for (const slot of [...s.slots.list]) {
      const r = slot.pasid === NO_PASID ? 0 : this.#detachSlot(s, slot);
      if (r < 0) refused ||= r;
    }
    return refused;
  }

  /** Translation off: the stream sees guest RAM. */
  bypass(s: VtdStream): VerbOutcome {
    let refused = this.#detachPasids(s);
    const old = s.slots.get(NO_PASID);
    if (!s.bypass) {
      const r = this.#attachRam(s);
      if (r < 0) refused ||= r;
      s.bypass = r >= 0;
    }
    s.slots.delete(NO_PASID);
    if (old !== undefined) this.#domains.release(old.domain);
    return refused;
  }

  #attachRam(s: VtdStream): VerbOutcome {
    const parent = this.#domains.parent(s.vfio.devId);
    return typeof parent === 'number' ? parent : this.#host.attach(s.vfio, parent.hwptId, ownPasid(s));
  }

  /** Nothing is attached: the hardware asks on first use. PASIDs go first, as VFIO does it. */
  unset(s: VtdStream): VerbOutcome {
    const pasids = this.#detachPasids(s);
    const configured = this.detach(s, NO_PASID);
    const bypass = s.bypass ? this.#host.detach(s.vfio, ownPasid(s)) : 0;
    s.bypass = false;
    return pasids || configured || bypass;
  }
}

/** What the requests of the function itself carry on the host: no PASID, or the one of its slice. */
function ownPasid(s: VtdStream): number {
  return s.mode.toHost(NO_PASID)[0]!;
}
