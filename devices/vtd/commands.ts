import { lookWork } from '../../src/lib/access/work-budget.ts';
import type { VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { isRefusal } from '../../src/lib/uapi/refusals.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import { E } from '../../src/spec/iommufd/errno.ts';
import { CONTEXT_G, INV, type InvType, IOTLB_G, inv, PASID_IOTLB_G } from '../../src/spec/vtd/invalidation.ts';
import type { VtdCore } from './core.ts';
import type { VtdDomains } from './domains.ts';
import type { InterruptRemapper } from './interrupt-remapper.ts';
import type { VtdPageRequests } from './page-requests.ts';
import { RefusedDescriptor } from './refused-command.ts';
import type { VtdStreams } from './streams.ts';
import type { Waits } from './waits.ts';

/** Units of work of one verb about a first stage. */
const FIRST_WORK = 8;

/** What descriptors act on. */
export interface VtdCommandTargets {
  readonly core: VtdCore;
  readonly streams: VtdStreams;
  readonly domains: VtdDomains;
  readonly remapper: InterruptRemapper;
  readonly pageRequests: VtdPageRequests;
  readonly waits: Waits;
  /** A device-TLB invalidation of a requester was not answered in time. */
  readonly timedOut: (sid: number) => void;
}

/**
 * What each legal invalidation descriptor means for the host (VT-d §6.5.2). One small function per type; none allocates unless a
 * stream changes. Each is complete when it returns, up to the device-TLB completions that a wait waits for, unless
 * `WorkBudget.unfinished` says that it is to be called again.
 */
export class VtdCommands {
  readonly #c: VtdCommandTargets;
  readonly #refused: RefusedDescriptor;

  constructor(targets: VtdCommandTargets) {
    this.#c = targets;
    this.#refused = new RefusedDescriptor(targets.core, targets.streams, targets.pageRequests);
  }

  /**
   * Executes a descriptor of a type that there is (`invalidationType`) and that `illegal` passed.
   * @param w its words.
   * @returns 0: done; an IQEI code (> 0) that stops the queue at it; or the host's first refusal (-errno).
   */
  execute(type: InvType, w: Int32Array): number {
    this.#refused.next(w);
    const outcome = this.#execute(type, w);
    if (isRefusal(outcome)) this.#refused.set(type, w);
    return outcome;
  }

  /** See `RefusedDescriptor.reset`. */
  reset(): void {
    this.#refused.reset();
  }

  #execute(type: InvType, w: Int32Array): number {
    const w0 = w[0]!;
    const w1 = w[1]!;
    const w2 = w[2]!;
    const w3 = w[3]!;
    const g = inv.granularity(w0);
    switch (type) {
      case INV.CONTEXT:
        return this.contextCache(g, inv.did(w0), inv.sid(w1), g === CONTEXT_G.DEVICE ? inv.fm(w1) : 0);
      case INV.IOTLB:
        return this.iotlb(g, inv.did(w0), inv.page(w2, w3), inv.am(w2));
      case INV.DEVICE_TLB:
        return this.#deviceTlb(inv.sid(w1), NO_PASID, inv.deviceS(w2), w2, w3, false);
      case INV.IEC:
        if (inv.iecSelective(w0)) this.#c.remapper.invalidate(inv.iecIndex(w1), inv.iecMask(w0));
        else this.#c.remapper.invalidateAll();
        return 0;
      case INV.WAIT:
        return this.#wait(w0, w1, w2, w3);
      case INV.PASID_IOTLB:
        return this.#pasidIotlb(g, inv.did(w0), inv.pasid(w1), inv.page(w2, w3), inv.am(w2), inv.ih(w2));
      case INV.PASID_CACHE:
        return this.#finish(this.#c.streams.rounds.pasidInvalidated(g, inv.did(w0), inv.pasid(w1)));
      case INV.PASID_DEVICE_TLB:
        return this.#deviceTlb(inv.sidLow(w0), inv.pasid(w1), inv.pasidDeviceS(w2), w2, w3, inv.pasidDeviceG(w2));
      case INV.PAGE_GROUP_RESPONSE: {
        const pasid = inv.responsePP(w0) ? inv.pasid(w1) : NO_PASID;
        return this.#c.pageRequests.respond(inv.sidLow(w0), pasid, inv.responseGroup(w2), inv.responseCode(w0));
      }
    }
  }

  /** Not while anything may still be in use that was to go: what the guest has skipped, or the host's unit has not forgotten. */
  #wait(w0: number, w1: number, w2: number, w3: number): number {
    const { streams, waits, core } = this.#c;
    const forgotten = this.#refused.settle();
    if (forgotten < 0 || core.work.unfinished) return forgotten;
    const kept = streams.confirmed();
    return kept < 0 || core.work.unfinished ? kept : waits.add(w0, w1, w2, w3);
  }

  /** @param g CONTEXT_G. @param fm masks function bits of `sid`. */
  contextCache(g: number, did: number, sid: number, fm: number): VerbOutcome {
    return this.#finish(this.#c.streams.rounds.contextInvalidated(g, did, sid, fm));
  }

  /** @param g IOTLB_G. @param page 2^am pages around it, for a page-selective request. */
  iotlb(g: number, did: number, page: number, am: number): VerbOutcome {
    const { domains, core } = this.#c;
    const { work } = core;
    const pages = 2 ** am;
    const first = page - (page % pages);
    let refused = 0;
    const shadows = domains.shadows.list;
    work.spend(lookWork(shadows.length + domains.firsts.list.length));
    for (let i = 0; i < shadows.length; i++) {
      const shadow = shadows[i]!;
      if ((g !== IOTLB_G.GLOBAL && shadow.did !== did) || shadow.round === work.round) continue;
      if (work.over) return this.#unfinished(refused);
      const r = g === IOTLB_G.PAGE ? shadow.invalidate(first, pages, work) : shadow.empty(work);
      refused = r || refused;
      if (work.unfinished) return this.#finish(refused);
      shadow.round = work.round;
      if (!domains.eager) continue;
      refused = (g === IOTLB_G.PAGE ? shadow.fill(first, pages, work) : shadow.fillAll(work)) || refused;
    }
    // First-stage entries of the domain go whole, whatever the address (§6.5.2.3).
    const firsts = domains.firsts.list;
    for (let i = 0; i < firsts.length; i++) {
      const stage = firsts[i]!;
      if ((g !== IOTLB_G.GLOBAL && stage.did !== did) || stage.round === work.round) continue;
      if (work.over) return this.#unfinished(refused);
      stage.round = work.round;
      work.spend(FIRST_WORK);
      refused = stage.invalidateAll() || refused;
    }
    return this.#finish(refused);
  }

  /** The budget is spent: what has been done stays done, the rest comes when the operation is called again. */
  #unfinished(refused: VerbOutcome): VerbOutcome {
    this.#c.core.work.unfinished = true;
    return this.#finish(refused);
  }

  /** @param g PASID_IOTLB_G. @param leaf intermediate entries may stay cached. */
  #pasidIotlb(g: number, did: number, pasid: number, page: number, am: number, leaf: boolean): VerbOutcome {
    const { work } = this.#c.core;
    const { round } = work;
    const { eager } = this.#c.domains;
    const streams = this.#c.streams.list;
    let refused = 0;
    work.spend(lookWork(streams.length));
    for (let i = 0; i < streams.length; i++) {
      for (let which = 0; which < 2; which++) {
        const slot = streams[i]!.slotOf(pasid, which);
        if (slot === undefined || slot.did !== did) continue;
        if (work.over) return this.#unfinished(refused);
        if (slot.domain.kind === 'first') {
          const { first } = slot.domain;
          if (first.round === round) continue;
          first.round = round;
          work.spend(FIRST_WORK);
          const r = g === PASID_IOTLB_G.PAGE ? first.invalidate(page, am, leaf) : first.invalidateAll();
          refused = r || refused;
        } else if (slot.domain.kind === 'second' && g === PASID_IOTLB_G.PASID) {
          const { shadow } = slot.domain;
          if (shadow.round === round) continue;
          refused = shadow.empty(work) || refused;
          if (work.unfinished) return this.#finish(refused);
          shadow.round = round;
          if (eager) refused = shadow.fillAll(work) || refused;
        }
      }
    }
    return this.#finish(refused);
  }

  /**
   * The end of every invalidation of translations: what the host did not take away is detached, and whatever it refused
   * before is tried again.
   */
  #finish(refused: VerbOutcome): VerbOutcome {
    const { streams, domains, core } = this.#c;
    const { work } = core;
    const { healing } = streams;
    work.part(refused);
    if (refused < 0) work.part(healing.takeOffStale());
    if (!work.unfinished) work.part(domains.goOn());
    if (!work.unfinished) work.part(healing.heal());
    return work.refused;
  }

  /**
   * The range as on the bus: address words with S at bit 11 of `w2`. Behind a source id without a function nobody answers, and
   * neither does a function without ATS: to the unit that is a time-out (§6.5.2.10).
   */
  #deviceTlb(sid: number, pasid: number, s: boolean, w2: number, w3: number, global: boolean): VerbOutcome {
    const { streams, core } = this.#c;
    const { upcalls } = core.deps;
    const stream = streams.byRid(sid);
    if (stream === undefined) {
      this.#c.timedOut(sid);
      return 0;
    }
    if (upcalls === null || upcalls.invalidateDeviceTlb === undefined) return 0;
    const lo = (w2 & ~0xfff) | (s ? 0x800 : 0);
    const only = stream.device.several ? stream.index : undefined;
    const hosts = stream.mode.toHost(pasid);
    let refused = 0;
    let unanswered = false;
    for (let i = 0; i < hosts.length; i++) {
      const r = upcalls.invalidateDeviceTlb(stream.vfio.devId, hosts[i]!, lo, w3, global, only);
      if (r === -E.OPNOTSUPP) unanswered = true;
      else if (isRefusal(r)) refused = r;
    }
    if (unanswered && refused === 0) this.#c.timedOut(sid);
    return refused;
  }
}
