import type { VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import type { VtdAttachments } from './attachments.ts';
import type { VtdCore } from './core.ts';
import type { VtdStream } from './stream.ts';
import type { VtdGuestTables } from './tables.ts';

/**
 * PASIDs one invalidation looks at per device, and captures of those that are present; further ones wait for their first use.
 * Without upcalls there is no first use.
 */
const CAPTURE = { look: 2048, take: 64 } as const;
const CAPTURE_WITHOUT_MISSES = { look: 1 << 20, take: 1024 } as const;
/** Units of work of one look at a PASID's entry. */
const LOOK_WORK = 2;

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
    return r !== null && (did < 0 || r.did === did) ? this.#configure(s, index) || refused : refused;
  }

  /** Attaches the requester id and every present PASID of the domain (-1: any). */
  all(s: VtdStream, did: number): VerbOutcome {
    const tables = this.#tables;
    const r = tables.find(s.rid, NO_PASID);
    let refused = r !== null && (did < 0 || r.did === did) ? this.#configure(s, NO_PASID) : 0;
    const c = tables.context;
    if (s.pasidBits === 0 || !c.scalable || (r === null && c.pasids === 0)) return refused;
    const { work, deps, quotas } = this.#core;
    const most = deps.upcalls === null ? CAPTURE_WITHOUT_MISSES : CAPTURE;
    const end = Math.min(2 ** s.pasidBits, c.pasids, most.look);
    let left: number = most.take;
    work.spend(end / 16);
    for (let i = tables.nextPresent(0, end); i >= 0; i = tables.nextPresent(i + 1, end)) {
      if (i === c.ridPasid || s.slots.has(i)) continue;
      // What finds no room here is set up at its first use, in the place of an older one.
      if (deps.upcalls !== null && (work.over || quotas.pasids.used >= quotas.pasids.limit)) break;
      work.spend(LOOK_WORK);
      const found = tables.find(s.rid, i);
      if (found === null || (did >= 0 && found.did !== did)) continue;
      if (left-- <= 0) break;
      refused = this.#configure(s, i) || refused;
    }
    return refused;
  }
}
