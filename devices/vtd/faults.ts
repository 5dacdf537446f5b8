import { VtdWalker } from '../../src/lib/walk/vtd.ts';
import type { VtdRegime } from '../../src/lib/walk/vtd-regime.ts';
import { ACCESS, AT } from '../../src/ports/dma.ts';
import { FAULT, frcd, frcdWord2, frcdWord3, isQualified } from '../../src/spec/vtd/faults.ts';
import { isInterruptAddress } from '../../src/spec/vtd/interrupt.ts';
import { TTM } from '../../src/spec/vtd/registers.ts';
import type { VtdCore } from './core.ts';
import type { PageRequest } from './page-request-queue.ts';
import { NO_FAULT, QemuReasons } from './qemu/reasons.ts';
import type { VtdRecords } from './records.ts';
import { guestLimits, VtdGuestTables } from './tables.ts';

/**
 * Decides what a hardware fault looks like to the guest: it repeats the lookup through the guest's own tables, with the
 * profile's codes. NO_FAULT means no record (a leaf outside RAM just fails). It never yields an address for DMA.
 */
export class VtdFaults {
  readonly #core: VtdCore;
  readonly #records: VtdRecords;
  readonly #tables: VtdGuestTables;
  readonly #walker: VtdWalker;
  readonly #qemu: QemuReasons;
  /** FPD as far as it counts for the last reason. */
  #fpd = false;

  constructor(core: VtdCore, records: VtdRecords) {
    const { memory } = core.deps;
    const limits = guestLimits(core);
    this.#core = core;
    this.#records = records;
    this.#tables = new VtdGuestTables(core);
    this.#walker = new VtdWalker(memory, limits);
    this.#qemu = new QemuReasons(memory, limits, core.deviations);
  }

  /**
   * @param record the hardware's FRCD, 4 words. @param rid,pasid as the guest names them.
   * @param refused what the host refused for this access: to set the requester up, or to map a page of its second stage.
   */
  fault(rid: number, pasid: number, record: Int32Array, refused: 'entry' | 'table' | null = null): void {
    const w2 = record[2]!;
    const w3 = record[3]!;
    const read = frcd.isRead(w3);
    const at = frcd.addressType(w3);
    const exec = frcd.isExec(w2);
    const priv = frcd.isPriv(w2);
    const access = (read ? ACCESS.READ : ACCESS.WRITE) | (exec ? ACCESS.EXEC : 0) | (priv ? ACCESS.PRIV : 0);
    const lo = record[0]! & ~0xfff;
    const hi = record[1]!;
    if (pasid < 0 && at === AT.UNTRANSLATED && isInterruptAddress(lo, hi)) {
      this.#interruptRange(rid, read);
      return;
    }
    let reason = this.#reason(rid, pasid, lo, hi, access, at);
    if (reason === NO_FAULT && refused !== null) reason = this.#refused(refused);
    if (reason === NO_FAULT || (this.#fpd && isQualified(reason))) return;
    this.#records.record(lo, hi, frcdWord2(rid, pasid, exec, priv), frcdWord3(read, at, pasid, reason));
  }

  /**
   * The tables are good and the host refused all the same. For the guest the unit could not get at the entry: "an attempt to
   * access it resulted in an error" (§7.1.3) is the one group of reasons that blames nothing in it. FPD does not hide them.
   * With translation off there are no faults.
   */
  #refused(what: 'entry' | 'table'): number {
    const { on, mode } = this.#core.root;
    if (!on) return NO_FAULT;
    const scalable = mode === TTM.SCALABLE;
    if (what === 'table') {
      return scalable && !this.#core.deviations.legacyCodes ? FAULT.SS_UNREADABLE : FAULT.TABLE_UNREADABLE;
    }
    return scalable ? FAULT.PASID_UNREADABLE : FAULT.CONTEXT_UNREADABLE;
  }

  /** A request without PASID to 0xFEEx_xxxx that is no interrupt message (§3.15). QEMU answers it without a record. */
  #interruptRange(rid: number, read: boolean): void {
    if (this.#core.deviations.interruptRangeSilent) return;
    this.#records.record(0, 0, frcdWord2(rid, -1, false, false), frcdWord3(read, 0, -1, FAULT.IR_REQUEST_TYPE));
  }

  #reason(rid: number, pasid: number, lo: number, hi: number, access: number, at: number): number {
    const { root, features } = this.#core;
    this.#fpd = false;
    if (!root.on) return NO_FAULT;
    if (root.mode === TTM.ABORT) return features.abortMode ? FAULT.ABORT_MODE : FAULT.TTM_UNSUPPORTED;
    if (root.mode === TTM.RESERVED) return FAULT.TTM_UNSUPPORTED;
    if (root.mode === TTM.SCALABLE && !features.scalable) return FAULT.TTM_UNSUPPORTED;
    if (root.mode === TTM.LEGACY && pasid >= 0) return FAULT.PASID_IN_LEGACY;
    const r = this.#find(rid, pasid);
    if (r === null) return this.#tables.reason;
    const { context } = this.#tables;
    if (at !== AT.UNTRANSLATED && !context.dte) return this.#qemu.notEnabled(context.scalable);
    if ((access & ACCESS.PRIV) !== 0 && context.scalable && !r.sre) return FAULT.PASID_SRE;
    const early = this.#qemu.beforeWalk(r, lo, hi);
    if (early >= 0) return early;
    // A walk that finds nothing wrong: the request failed for a reason the guest's unit would not know.
    if (this.#walker.walk(r, lo, hi, access)) return NO_FAULT;
    return this.#qemu.ofWalk(r, lo, hi, access, this.#walker.reason, features.scalable);
  }

  /** What the guest's tables say for a requester now, with its FPD. */
  #find(rid: number, pasid: number): VtdRegime | null {
    const r = this.#tables.find(rid, pasid);
    this.#fpd = r?.fpd ?? this.#tables.fpd;
    return r;
  }

  /** Whether a page request may be queued; else its fault is recorded (§7.4.1). */
  pageRequest(r: PageRequest): boolean {
    const reason = this.#pageRequestReason(r.rid, r.pasid);
    if (reason === NO_FAULT) return true;
    if (!(this.#fpd && isQualified(reason))) {
      const w3 = frcdWord3((r.access & ACCESS.READ) !== 0, 0, r.pasid, reason);
      const w2 = frcdWord2(r.rid, r.pasid, (r.access & ACCESS.EXEC) !== 0, (r.access & ACCESS.PRIV) !== 0);
      this.#records.record(r.lo, r.hi, w2, w3);
    }
    return false;
  }

  /** A page request needs tables that can be read and PRE=1. */
  #pageRequestReason(rid: number, pasid: number): number {
    const { root } = this.#core;
    this.#fpd = false;
    if (!root.on || root.mode === TTM.ABORT) return FAULT.ABORT_MODE;
    if (root.mode !== TTM.SCALABLE) return FAULT.PAGE_REQUEST_IN_LEGACY;
    if (this.#find(rid, pasid) === null) return this.#tables.reason;
    return this.#tables.context.pre ? NO_FAULT : FAULT.SM_PRE;
  }
}
