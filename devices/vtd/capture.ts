import type { VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import { E } from '../../src/spec/iommufd/errno.ts';
import type { VtdAttachments } from './attachments.ts';
import type { VtdCore } from './core.ts';
import type { VtdStream } from './stream.ts';
import type { VtdGuestTables } from './tables.ts';

/**
 * PASIDs one invalidation looks at per device, and captures of those that are present; further ones wait for their first use.
 * Without upcalls there is no first use: all of them are set up, in as many parts as it takes.
 */
const CAPTURE = { look: 2048, take: 64 } as const;
/** Units of work of one look at a PASID's entry. */
const LOOK_WORK = 8;
/** Entries that are passed over for one unit of work, and looked at before the budget is. */
const PASSED = 16;
/** Units of work of finding the next entry that is present. */
const PRESENT_WORK = 0.5;
const STEP = 1024;

/** Sets PASIDs up that the guest announces, ahead of their first use. */
export class VtdCapture {
  readonly #core: VtdCore;
  readonly #tables: VtdGuestTables;
  readonly #attachments: VtdAttachments;

  constructor(core: VtdCore, tables: VtdGuestTables, attachments: VtdAttachments) {
    this.#core = core;
    this.#tables = tables;
    this.#attachments = attachments;
  }

  /** @returns 0 or the host's refusal; that the tables have nothing valid is none. */
  #configure(s: VtdStream, pasid: number): VerbOutcome {
    return Math.min(this.#attachments.configure(s, pasid), 0);
  }

  /** Attaches one PASID (by index) when its entry is present and of the domain. */
  one(s: VtdStream, index: number, did: number): VerbOutcome {
    const tables = this.#tables;
    const rid = tables.find(s.rid, NO_PASID);
    let refused = 0;
    if (rid !== null && rid.pasid === index && !s.slots.has(NO_PASID) && (did < 0 || rid.did === did)) {
      refused = this.#configure(s, NO_PASID);
    }
    if (index === tables.context.ridPasid || index >= 2 ** s.pasidBits || s.slots.has(index)) return refused;
    const r = tables.find(s.rid, index);
    return r !== null && (did < 0 || r.did === did) ? graver(refused, this.#configure(s, index)) : refused;
  }

  /**
   * Attaches the requester id and every present PASID of the domain (-1: any), as far as the budget goes. Where nobody asks for
   * the rest it goes on when it is called again: `work.unfinished`.
   */
  all(s: VtdStream, did: number): VerbOutcome {
    const tables = this.#tables;
    const { work, deps, quotas } = this.#core;
    const asked = deps.upcalls !== null;
    const at = s.captured;
    const begun = at.round === work.round;
    if (!begun) Object.assign(at, { round: work.round, next: 0, left: asked ? CAPTURE.take : Infinity });
    const r = tables.find(s.rid, NO_PASID);
    let refused = !begun && r !== null && (did < 0 || r.did === did) ? this.#configure(s, NO_PASID) : 0;
    const c = tables.context;
    if (s.pasidBits === 0 || !c.scalable || (r === null && c.pasids === 0)) return refused;
    const end = Math.min(2 ** s.pasidBits, c.pasids, asked ? CAPTURE.look : Infinity);
    while (at.next < end && at.left > 0) {
      if (work.over) {
        work.unfinished ||= !asked;
        break;
      }
      const step = Math.min(at.next + STEP, end);
      const i = tables.nextPresent(at.next, step);
      work.spend(((i < 0 ? step : i) - at.next) / PASSED);
      at.next = i < 0 ? step : i + 1;
      work.spend(PRESENT_WORK);
      if (i < 0 || i === c.ridPasid || s.slots.has(i)) continue;
      // What finds no room here is set up at its first use, in the place of an older one.
      if (asked && quotas.pasids.used >= quotas.pasids.limit) break;
      work.spend(LOOK_WORK);
      const found = tables.find(s.rid, i);
      if (found === null || (did >= 0 && found.did !== did)) continue;
      at.left--;
      refused = graver(refused, this.#configure(s, i));
    }
    return refused;
  }
}

/** The first refusal of two outcomes; a contradiction between the streams of a device, which may be gone later, comes last. */
function graver(first: VerbOutcome, second: VerbOutcome): VerbOutcome {
  return first === 0 || (first === -E.OPNOTSUPP && second < 0) ? second : first;
}
