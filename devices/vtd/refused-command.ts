import type { VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { isRefusal } from '../../src/lib/uapi/refusals.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import { E } from '../../src/spec/iommufd/errno.ts';
import { INV, type InvType, inv, invType } from '../../src/spec/vtd/invalidation.ts';
import type { VtdCore } from './core.ts';
import type { VtdPageRequests } from './page-requests.ts';
import type { VtdStream } from './stream.ts';
import type { VtdStreams } from './streams.ts';

/** Units of work of one device-TLB invalidation. */
const DEVICE_TLB_WORK = 8;
/** A device-TLB invalidation of all addresses: S, and every address bit but the highest (PCIe 5.0 §10.2.3.1). */
const ALL = { lo: 0xffff_f800 | 0, hi: 0x7fff_ffff } as const;

/**
 * The descriptor that the host refused last, and what the guest has skipped of such ones: after IQE it may put a wait into the
 * place of a descriptor, as Linux does. What such a descriptor should have taken away is taken away by the next wait, and no wait
 * completes before that.
 *
 * Descriptors about translations and configurations need no place here: what the host did not take away for them is detached, or
 * counts as unsettled (`VtdHealing`).
 */
export class RefusedDescriptor {
  readonly #core: VtdCore;
  readonly #streams: VtdStreams;
  readonly #pageRequests: VtdPageRequests;
  readonly #words = new Int32Array(4);
  #held = false;

  constructor(core: VtdCore, streams: VtdStreams, pageRequests: VtdPageRequests) {
    this.#core = core;
    this.#streams = streams;
    this.#pageRequests = pageRequests;
  }

  /** The host refused a descriptor. @param w its words. */
  set(type: InvType, w: Int32Array): void {
    if (type !== INV.DEVICE_TLB && type !== INV.PASID_DEVICE_TLB && type !== INV.PAGE_GROUP_RESPONSE) return;
    const own = this.#words;
    for (let i = 0; i < own.length; i++) own[i] = w[i]!;
    this.#held = true;
  }

  /** A descriptor is executed: the one that was refused, again, or one that the guest has gone on with. @param w its words. */
  next(w: Int32Array): void {
    if (!this.#held) return;
    this.#held = false;
    const own = this.#words;
    if (own[0] !== w[0] || own[1] !== w[1] || own[2] !== w[2] || own[3] !== w[3]) this.#skipped(own);
  }

  #skipped(w: Int32Array): void {
    const w0 = w[0]!;
    const w1 = w[1]!;
    const w2 = w[2]!;
    const type = invType(w0);
    if (type === INV.PAGE_GROUP_RESPONSE) {
      const pasid = inv.responsePP(w0) ? inv.pasid(w1) : NO_PASID;
      this.#pageRequests.skipped(inv.sidLow(w0), pasid, inv.responseGroup(w2), inv.responseCode(w0));
      return;
    }
    const s = this.#streams.byRid(type === INV.DEVICE_TLB ? inv.sid(w1) : inv.sidLow(w0));
    if (s === undefined) return;
    if (type === INV.DEVICE_TLB) s.skipped.add(NO_PASID);
    else if (!inv.pasidDeviceG(w2)) s.skipped.add(inv.pasid(w1));
    else for (const slot of s.slots.list) s.skipped.add(slot.pasid);
  }

  /**
   * Does what was skipped, as far as the budget goes (`work.unfinished`): ATCs forget everything of what a skipped descriptor named.
   * An answer that a function waits for is tried again as well; nobody else has to wait for it.
   * @returns 0 or the host's refusal.
   */
  settle(): VerbOutcome {
    const { list } = this.#streams;
    for (let i = 0; i < list.length; i++) {
      if (list[i]!.skipped.size === 0) continue;
      const r = this.#forget(list[i]!);
      if (r < 0 || this.#core.work.unfinished) return r;
    }
    this.#pageRequests.answerSkipped();
    return 0;
  }

  #forget(s: VtdStream): VerbOutcome {
    const { work, deps } = this.#core;
    const only = s.device.several ? s.index : undefined;
    for (const pasid of s.skipped) {
      if (work.over) {
        work.unfinished = true;
        return 0;
      }
      for (const host of s.mode.toHost(pasid)) {
        work.spend(DEVICE_TLB_WORK);
        const r = deps.upcalls?.invalidateDeviceTlb?.(s.vfio.devId, host, ALL.lo, ALL.hi, false, only) ?? 0;
        // A function that has no ATS enabled (any more) has nothing to forget.
        if (isRefusal(r) && r !== -E.OPNOTSUPP) return r;
      }
      s.skipped.delete(pasid);
    }
    return 0;
  }

  /** Reset, or a state was loaded: no function has anything cached. */
  reset(): void {
    this.#held = false;
    for (const s of this.#streams.list) s.skipped.clear();
  }
}
