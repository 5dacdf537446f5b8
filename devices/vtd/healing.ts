import type { VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import type { VtdAttachments } from './attachments.ts';
import type { VtdCore } from './core.ts';
import { isStale } from './domains.ts';
import type { VtdStream } from './stream.ts';

/** What the host refused is tried again, and what it did not take away is detached. */
export class VtdHealing {
  readonly #core: VtdCore;
  readonly #list: readonly VtdStream[];
  readonly #attachments: VtdAttachments;

  constructor(core: VtdCore, list: readonly VtdStream[], attachments: VtdAttachments) {
    this.#core = core;
    this.#list = list;
    this.#attachments = attachments;
  }

  /**
   * What the host refused before is tried again: at every invalidation of translations, as far as the budget goes.
   * @param attached what is still not attached counts as well: nobody records its faults.
   * @param kept only streams that are still attached to what should have gone.
   * @returns 0, or -errno: something is still attached that should have gone. What is not attached yet is recorded as faults.
   */
  heal(attached = false, kept = false): VerbOutcome {
    const { work } = this.#core;
    let refused = 0;
    for (let i = 0; i < this.#list.length; i++) {
      const s = this.#list[i]!;
      const { healing } = s;
      if (healing.round !== work.round) {
        healing.round = work.round;
        const tried = kept ? s.keeps : s.unsettled.size > 0;
        healing.left = tried ? [...s.unsettled].reverse() : [];
      }
      for (let pasid = healing.left.pop(); pasid !== undefined; pasid = healing.left.pop()) {
        if (work.over) {
          healing.left.push(pasid);
          work.unfinished = true;
          return refused;
        }
        if (s.unsettled.has(pasid)) refused = this.#try(s, pasid, attached) || refused;
      }
    }
    return refused;
  }

  /** Tries those of a stream again that the access may cost now. The others stay unsettled: `heal` finds them. */
  tryFew(s: VtdStream): void {
    for (const pasid of [...s.unsettled]) {
      if (this.#core.work.over) return;
      this.#try(s, pasid, false);
    }
  }

  #try(s: VtdStream, pasid: number, attached: boolean): VerbOutcome {
    const { root, refusals } = this.#core;
    const attachments = this.#attachments;
    const r = root.on
      ? Math.min(attachments.configure(s, pasid), 0)
      : pasid === NO_PASID
        ? attachments.bypass(s)
        : attachments.detach(s, pasid);
    refusals.note('undoing', r);
    const kept = attached || s.slots.has(pasid) || (root.on && s.bypass);
    return kept && s.unsettled.has(pasid) ? r : 0;
  }

  /**
   * The host did not take away what it was asked to: whatever stands on a stale domain is detached, so that nothing of it
   * translates. The slots count as unsettled.
   * @returns 0, or -errno of a refused detach.
   */
  takeOffStale(): VerbOutcome {
    let refused = 0;
    for (const s of this.#list) {
      for (const slot of [...s.slots.list]) {
        if (!isStale(slot.domain)) continue;
        refused = this.#attachments.detach(s, slot.pasid) || refused;
        s.unsettled.add(slot.pasid);
      }
    }
    return refused;
  }

  /**
   * A host with one configuration per device takes the first of its streams that changes for a contradiction; once all of
   * them have changed there may be none. @returns 0, or -errno of what there still is.
   */
  agreed(): VerbOutcome {
    let still = 0;
    for (const s of this.#list) {
      if (s.device.several) for (const pasid of [...s.unsettled]) still = this.#try(s, pasid, true) || still;
    }
    return still;
  }
}
