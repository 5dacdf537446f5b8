import { lookWork } from '../../src/lib/access/work-budget.ts';
import type { VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import { E } from '../../src/spec/iommufd/errno.ts';
import { SQ_MASK } from '../../src/spec/vtd/interrupt.ts';
import { CONTEXT_G, PASID_CACHE_G } from '../../src/spec/vtd/invalidation.ts';
import type { VtdAttachments } from './attachments.ts';
import type { VtdCapture } from './capture.ts';
import type { VtdCore } from './core.ts';
import type { VtdDomains } from './domains.ts';
import type { VtdHealing } from './healing.ts';
import type { VtdSlot, VtdStream } from './stream.ts';

/** Units of work of one look at a PASID's entry. */
const LOOK_WORK = 8;

/** What a round works on. */
export interface VtdRoundTargets {
  readonly core: VtdCore;
  readonly list: readonly VtdStream[];
  readonly attachments: VtdAttachments;
  readonly capture: VtdCapture;
  readonly healing: VtdHealing;
  readonly domains: VtdDomains;
}

/**
 * What goes through all streams, as far as the budget of an access goes (`work.unfinished`: it is to be called again): a switch
 * of translation, and invalidations of what the unit has read of the guest's tables.
 */
export class VtdRounds {
  readonly #c: VtdRoundTargets;
  /**
   * Number of the switch in hand. It has a stamp of its own: an invalidation between two parts of it must not make streams look
   * as if the switch had been there, or they would keep what was in force before.
   */
  #switch = 0;
  /** The round in which a device with several streams had them ask for different things, where the host cannot tell them apart. */
  #apart = -1;

  constructor(targets: VtdRoundTargets) {
    this.#c = targets;
  }

  /** The registers ask for something else: `placeAll` begins with the first stream again. */
  beginSwitch(): void {
    this.#switch++;
  }

  /** TE, the root table or its mode changed: everything known about streams is void. */
  placeAll(): VerbOutcome {
    const { core, list, domains } = this.#c;
    const { work } = core;
    for (const s of list) {
      if (s.placed === this.#switch) continue;
      work.unfinished ||= work.over;
      if (work.unfinished) return work.refused;
      this.#part(this.#c.attachments.clearGroup(s, core.root.on));
      this.#part(this.place(s));
      if (work.unfinished) return work.refused;
      s.placed = this.#switch;
    }
    work.part(domains.goOn());
    return work.unfinished ? work.refused : this.#agreed();
  }

  /** What a stream has before its first use. */
  place(s: VtdStream): VerbOutcome {
    const { core, attachments, capture, healing, domains } = this.#c;
    const { root, work } = core;
    if (!root.on) return attachments.bypass(s, true);
    const refused = s.captured.round === work.round ? 0 : attachments.unset(s, true);
    if (work.unfinished) return refused;
    const captured = domains.eager || s.renamed ? capture.all(s, -1) : 0;
    // What could not be detached may still be replaced by what the tables say now.
    if (refused < 0) healing.tryFew(s);
    return refused || captured;
  }

  /** A context-cache invalidation. @param g granularity. @param fm masks function bits of `sid`. */
  contextInvalidated(g: number, did: number, sid: number, fm: number): VerbOutcome {
    const { core, list, domains } = this.#c;
    const { root, work } = core;
    if (!root.on) return 0;
    for (const s of list) {
      if (!this.#reaches(s, g, did, sid, fm) || !this.#begins(s)) continue;
      this.#refresh(s, -1, -1);
      if (work.unfinished) return work.refused;
      // Where another one of its group is attached already, no use of it would ever ask.
      if (domains.eager || s.device.group.size > 1) this.#part(this.#configure(s, NO_PASID));
      s.round = work.round;
    }
    return this.#agreed();
  }

  /** A PASID-cache invalidation. @param g granularity. */
  pasidInvalidated(g: number, did: number, pasid: number): VerbOutcome {
    const { core, list, capture } = this.#c;
    const { root, work } = core;
    if (!root.on) return 0;
    const domain = g === PASID_CACHE_G.GLOBAL ? -1 : did;
    const index = g === PASID_CACHE_G.PASID ? pasid : -1;
    for (const s of list) {
      if (!this.#begins(s)) continue;
      this.#refresh(s, domain, index);
      if (work.unfinished) return work.refused;
      this.#part(index >= 0 ? capture.one(s, index, domain) : capture.all(s, domain));
      if (work.unfinished) return work.refused;
      s.round = work.round;
    }
    return this.#agreed();
  }

  /**
   * What came of a part of the operation. A host with one configuration per device takes the first of its streams
   * that changes for a contradiction, which may be gone at the end: until then it must not stand for what was refused.
   */
  #part(outcome: VerbOutcome): void {
    const { core } = this.#c;
    const { work, deps } = core;
    if (outcome === -E.OPNOTSUPP && deps.upcalls === null) this.#apart = work.round;
    else work.part(outcome);
  }

  /** The end of an operation on all streams: what of its refusals counts. */
  #agreed(): VerbOutcome {
    const { core, healing } = this.#c;
    const { work } = core;
    const { refused } = work;
    const apart = this.#apart === work.round ? healing.agreed() : 0;
    return refused || apart;
  }

  /** Whether an invalidation is to go through a stream now: it has not yet, and the budget is not spent. */
  #begins(s: VtdStream): boolean {
    const { work } = this.#c.core;
    if (s.round === work.round) return false;
    work.unfinished ||= work.over;
    return !work.unfinished;
  }

  /** Whether a context-cache request reaches a stream: masked source id, or (in legacy mode) the domain. */
  #reaches(s: VtdStream, g: number, did: number, sid: number, fm: number): boolean {
    if (g === CONTEXT_G.DEVICE) {
      const mask = SQ_MASK[fm]!;
      return (s.rid & mask) === (sid & mask);
    }
    if (g === CONTEXT_G.GLOBAL || this.#c.core.features.scalable) return true;
    const slot = s.slots.get(NO_PASID);
    return slot === undefined || slot.did === did;
  }

  /** @returns 0 or the host's refusal; that the tables have nothing valid is none. */
  #configure(s: VtdStream, pasid: number): VerbOutcome {
    return Math.min(this.#c.attachments.configure(s, pasid), 0);
  }

  /** Looks again at every attached slot of the domain and PASID (-1: any), as far as the budget goes. */
  #refresh(s: VtdStream, did: number, index: number): void {
    const { work } = this.#c.core;
    const { slots } = s;
    if (index >= 0) {
      for (let which = 0; which < 2; which++) {
        const slot = s.slotOf(index, which);
        if (slot !== undefined) this.#look(s, slot, did);
      }
      return;
    }
    work.spend(lookWork(slots.list.length));
    for (const slot of [...slots.list]) {
      this.#look(s, slot, did);
      if (work.unfinished) return;
    }
  }

  /** Looks again at a slot if it is of the domain (-1: any). */
  #look(s: VtdStream, slot: VtdSlot, did: number): void {
    const { work } = this.#c.core;
    if ((did >= 0 && slot.did !== did) || slot.round === work.round) return;
    if (work.over) {
      work.unfinished = true;
      return;
    }
    slot.round = work.round;
    work.spend(LOOK_WORK);
    this.#part(this.#configure(s, slot.pasid));
  }
}
