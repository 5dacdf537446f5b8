import { fromWords } from '../../src/core/bits.ts';
import type { RegisterFile } from '../../src/core/registers.ts';
import { ACCESS } from '../../src/ports/dma.ts';
import type { Memory } from '../../src/ports/memory.ts';
import type { Tell } from '../../src/ports/tell.ts';
import {
  PAGE_REQUEST_BYTES,
  pageRequestWord0,
  pageRequestWord1,
  pageRequestWord2,
  RESPONSE,
} from '../../src/spec/vtd/page-request.ts';
import { PAGE, PRS } from '../../src/spec/vtd/registers.ts';
import type { EventMessage } from './interrupts.ts';
import type { VtdShape } from './properties.ts';

const POINTER = 0x7_ffe0;

/** What became of a page request. */
export const QUEUED = -1;
export const DROPPED = -2;

/** The guest's page request queue (VT-d §7.4): PQH, PQT, PQA, PRS and the page-request event. */
export class PageRequestQueue {
  readonly #regs: RegisterFile;
  readonly #shape: VtdShape;
  readonly #memory: Memory;
  readonly #event: EventMessage;
  readonly #device: string;
  tell: Tell | null = null;

  constructor(regs: RegisterFile, shape: VtdShape, memory: Memory, event: EventMessage, device: string) {
    this.#regs = regs;
    this.#shape = shape;
    this.#memory = memory;
    this.#event = event;
    this.#device = device;
  }

  /**
   * Queues one request.
   * @param access ACCESS bits. @param pasid -1: none.
   * @returns QUEUED; DROPPED (nothing more happens); or a response code the device must answer the group with.
   */
  push(sid: number, pasid: number, lo: number, hi: number, access: number, group: number, last: boolean): number {
    const prs = this.#regs.get(PAGE.PRS.at);
    if ((prs & PRS.PRO) !== 0) return this.#refused(last);
    const bytes = PAGE_REQUEST_BYTES << ((this.#regs.get(PAGE.PQA.at) & 7) + 7);
    const tail = this.#regs.get(PAGE.PQT.at) & POINTER & (bytes - 1);
    const head = this.#regs.get(PAGE.PQH.at) & POINTER & (bytes - 1);
    const next = (tail + PAGE_REQUEST_BYTES) & (bytes - 1);
    if (next === head) {
      this.#regs.set(PAGE.PRS.at, prs | PRS.PRO);
      if ((prs & (PRS.PPR | PRS.PRO)) === 0) this.#event.raise();
      return this.#refused(last);
    }
    const base = fromWords(this.#regs.get(PAGE.PQA.at) & ~0xfff, this.#regs.get(PAGE.PQA.at + 4) & 0xf_ffff);
    const w0 = pageRequestWord0(sid, pasid);
    const w1 = pageRequestWord1(pasid, (access & ACCESS.EXEC) !== 0, (access & ACCESS.PRIV) !== 0);
    const read = (access & ACCESS.READ) !== 0;
    const w2 = pageRequestWord2(lo, group, read, (access & ACCESS.WRITE) !== 0, last);
    const m = this.#memory;
    const at = base + tail;
    const stored = m.store64(at, w0, w1) && m.store64(at + 8, w2, hi) && m.store64(at + 16, 0, 0);
    // A queue that cannot be written loses the request as a full one does (undefined by §7.4; nothing else is safe).
    if (!stored || !m.store64(at + 24, 0, 0)) return this.#refused(last);
    this.#regs.set(PAGE.PQT.at, next);
    this.#regs.set(PAGE.PRS.at, prs | PRS.PPR);
    if (this.tell !== null) this.tell({ what: 'record', device: this.#device, address: at, words: [w0, w1, w2, hi] });
    if ((prs & PRS.PPR) === 0) this.#event.raise();
    return QUEUED;
  }

  /** Overflow: the last request of a group is answered Success, others vanish (§7.4.1). QEMU gives no answer. */
  #refused(last: boolean): number {
    if (this.#shape.deviations.overflowUnanswered) return last ? RESPONSE.FAILURE : DROPPED;
    return last ? RESPONSE.SUCCESS : DROPPED;
  }

  /** The guest wrote PRS. */
  statusWritten(): void {
    if ((this.#regs.get(PAGE.PRS.at) & (PRS.PPR | PRS.PRO)) === 0) this.#event.serviced();
  }
}
