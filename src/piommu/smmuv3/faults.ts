import { TWO32 } from '../../core/bits.ts';
import type { VmsaWalker } from '../../lib/walk/vmsa.ts';
import { ACCESS } from '../../ports/dma.ts';
import type { HwEvents } from '../../ports/hw.ts';
import type { Tell } from '../../ports/tell.ts';
import { CLASS, EV3, EV3_CLASS_SHIFT, EVENT, EVENT_WORDS, encodeEvent } from '../../spec/smmuv3/events.ts';
import type { Smmuv3HwRegisters } from './registers.ts';

/** Bits of word 2 of F_BAD_ATS_TREQ (IHI 0070 §7.3.7). */
const TREQ = { P: 1 << 27, X: 1 << 28, W: 1 << 29, R: 1 << 30 } as const;

export interface Smmuv3HwFaultsParts {
  /** Shown in `tell`. */
  readonly name: string;
  readonly events: HwEvents;
  /** Its fields describe the fault of a walk. */
  readonly walker: VmsaWalker;
  readonly registers: Smmuv3HwRegisters;
}

/** Builds event records (IHI 0070 §7.3) and hands each to the host. Faults may allocate: a record is a fresh array. */
export class Smmuv3HwFaults {
  readonly #events: HwEvents;
  readonly #walker: VmsaWalker;
  readonly #registers: Smmuv3HwRegisters;
  readonly #name: string;
  tell: Tell | null = null;

  constructor(parts: Smmuv3HwFaultsParts) {
    this.#events = parts.events;
    this.#walker = parts.walker;
    this.#registers = parts.registers;
    this.#name = parts.name;
  }

  /** The event queue is on, and its interrupt: records reach the host. */
  get enabled(): boolean {
    return this.#registers.recordsFaults;
  }

  /** @param ats see `HwEvents.fault`. */
  send(record: Int32Array, ats = false): void {
    if (!this.enabled) return;
    if (this.tell !== null) this.tell({ what: 'fault', iommu: this.#name, record: Array.from(record) });
    this.#events.fault(record, ats);
  }

  /** Events that carry no transaction: C_BAD_*, F_STREAM_DISABLED, and the fetch errors with their address. */
  configuration(code: number, sid: number, ssid: number, fetch: number, ats = false): void {
    const address = code === EVENT.F_STE_FETCH || code === EVENT.F_CD_FETCH ? fetch : 0;
    const r = new Int32Array(EVENT_WORDS);
    encodeEvent(r, 0, code, sid, ssid, 0, 0, 0, address | 0, (address / TWO32) | 0);
    // The SubstreamID of C_BAD_SUBSTREAMID is always valid and has no SSV (IHI 0070 §7.3.9).
    if (code === EVENT.C_BAD_SUBSTREAMID) r[0] = code | (Math.max(0, ssid) << 12);
    this.send(r, ats);
  }

  /** F_TRANSL_FORBIDDEN. */
  forbidden(sid: number, ssid: number, lo: number, hi: number, access: number): void {
    const r = new Int32Array(EVENT_WORDS);
    encodeEvent(r, 0, EVENT.F_TRANSL_FORBIDDEN, sid, ssid, (access & ACCESS.WRITE) === 0 ? EV3.RNW : 0, lo, hi, 0, 0);
    this.send(r);
  }

  /** F_BAD_ATS_TREQ: a refused translation request for one 4 KiB unit (Span 0). */
  badTranslationRequest(sid: number, ssid: number, lo: number, hi: number, access: number): void {
    const r = new Int32Array(EVENT_WORDS);
    encodeEvent(r, 0, EVENT.F_BAD_ATS_TREQ, sid, ssid, 0, lo & ~0xfff, hi, 0, 0);
    r[2] =
      ((access & ACCESS.PRIV) !== 0 ? TREQ.P : 0) |
      ((access & ACCESS.EXEC) !== 0 ? TREQ.X : 0) |
      ((access & ACCESS.WRITE) !== 0 ? TREQ.W : 0) |
      TREQ.R;
    this.send(r);
  }

  /**
   * A fault of a stage, as the walker's fields describe it: F_WALK_EABT, F_TRANSLATION, F_ADDR_SIZE, F_ACCESS, F_PERMISSION.
   * @param stage 1 or 2. @returns the record; the caller sends it, stalls on it, or drops it.
   */
  translation(
    code: number,
    stage: number,
    sid: number,
    ssid: number,
    lo: number,
    hi: number,
    access: number,
  ): Int32Array {
    const w = this.#walker;
    const read = (access & ACCESS.WRITE) === 0;
    let w3 = w.cls << EV3_CLASS_SHIFT;
    if (read) w3 |= EV3.RNW;
    if (read && (access & ACCESS.EXEC) !== 0) w3 |= EV3.IND;
    if ((access & ACCESS.PRIV) !== 0) w3 |= EV3.PNU;
    if (stage === 2) w3 |= EV3.S2;
    if (w.cls === CLASS.TT && w.tableRead) w3 |= EV3.TTRNW;
    let address = 0;
    if (code === EVENT.F_WALK_EABT) address = w.fetch - (w.fetch % 8);
    else if (stage === 2) address = w.ipa - (w.ipa % 4096);
    const r = new Int32Array(EVENT_WORDS);
    encodeEvent(r, 0, code, sid, ssid, w3, lo, hi, address | 0, (address / TWO32) | 0);
    return r;
  }
}
