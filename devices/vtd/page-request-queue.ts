import { fromWords } from '../../src/core/bits.ts';
import { ACCESS } from '../../src/ports/dma.ts';
import { FAILURE_STEP } from '../../src/ports/failures.ts';
import {
  PAGE_REQUEST_BYTES,
  pageRequestWord0,
  pageRequestWord1,
  pageRequestWord2,
  RESPONSE,
} from '../../src/spec/vtd/page-request.ts';
import { PAGE, PRS } from '../../src/spec/vtd/registers.ts';
import type { VtdCore } from './core.ts';
import type { EventMessage } from './interrupts.ts';
import type { VtdRegisters } from './registers.ts';

const POINTER = 0x7_ffe0;

/** A page request waits for the guest's answer. */
export const QUEUED = -1;
/** A page request is lost, and nobody answers it. */
export const DROPPED = -2;

/** One page request in the guest's terms. */
export interface PageRequest {
  readonly rid: number;
  /** NO_PASID: none. */
  readonly pasid: number;
  /** Address of the page, as words. */
  readonly lo: number;
  readonly hi: number;
  /** ACCESS bits. */
  readonly access: number;
  /** Page request group index, 9 bits. */
  readonly group: number;
  /** The last one of its group, which is answered. */
  readonly last: boolean;
}

/** The guest's page request queue (VT-d §7.4): PQH, PQT, PQA, PRS and the page-request event. */
export class PageRequestQueue {
  readonly #core: VtdCore;
  readonly #regs: VtdRegisters;
  readonly #event: EventMessage;

  constructor(core: VtdCore) {
    this.#core = core;
    this.#regs = core.registers;
    this.#event = core.interrupts.pageRequest;
  }

  /**
   * Queues one request.
   * @returns QUEUED; DROPPED (nothing more happens); or a response code the device must answer the group with.
   */
  push(r: PageRequest): number {
    const { access, hi, last } = r;
    const prs = this.#regs.get(PAGE.PRS.at);
    if ((prs & PRS.PRO) !== 0) return this.#refused(last);
    const bytes = PAGE_REQUEST_BYTES << ((this.#regs.get(PAGE.PQA.at) & 7) + 7);
    const tail = this.#regs.get(PAGE.PQT.at) & POINTER & (bytes - 1);
    const head = this.#regs.get(PAGE.PQH.at) & POINTER & (bytes - 1);
    const next = (tail + PAGE_REQUEST_BYTES) & (bytes - 1);
    if (next === head || this.#core.deps.failures?.failures?.fails(FAILURE_STEP.QUEUE) === true) {
      this.#regs.set(PAGE.PRS.at, prs | PRS.PRO);
      if ((prs & (PRS.PPR | PRS.PRO)) === 0) this.#event.raise();
      return this.#refused(last);
    }
    const base = fromWords(this.#regs.get(PAGE.PQA.at) & ~0xfff, this.#regs.get(PAGE.PQA.at + 4) & 0xf_ffff);
    const w0 = pageRequestWord0(r.rid, r.pasid);
    const w1 = pageRequestWord1(r.pasid, (access & ACCESS.EXEC) !== 0, (access & ACCESS.PRIV) !== 0);
    const read = (access & ACCESS.READ) !== 0;
    const w2 = pageRequestWord2(r.lo, r.group, read, (access & ACCESS.WRITE) !== 0, last);
    const { memory: m, tell } = this.#core.deps;
    const at = base + tail;
    const stored = m.store64(at, w0, w1) && m.store64(at + 8, w2, hi) && m.store64(at + 16, 0, 0);
    // A queue that cannot be written loses the request as a full one does (undefined by §7.4; nothing else is safe).
    if (!stored || !m.store64(at + 24, 0, 0)) return this.#refused(last);
    this.#regs.set(PAGE.PQT.at, next);
    this.#regs.set(PAGE.PRS.at, prs | PRS.PPR);
    if (tell !== null) tell({ what: 'record', device: this.#core.name, address: at, words: [w0, w1, w2, hi] });
    if ((prs & PRS.PPR) === 0) this.#event.raise();
    return QUEUED;
  }

  /** Overflow: the last request of a group is answered Success, others vanish (§7.4.1). QEMU gives no answer. */
  #refused(last: boolean): number {
    if (this.#core.deviations.overflowUnanswered) return last ? RESPONSE.FAILURE : DROPPED;
    return last ? RESPONSE.SUCCESS : DROPPED;
  }

  /** The guest wrote PRS. */
  statusWritten(): void {
    if ((this.#regs.get(PAGE.PRS.at) & (PRS.PPR | PRS.PRO)) === 0) this.#event.serviced();
  }
}
