import type { VtdWalker } from '../../src/lib/walk/vtd.ts';
import { VtdContext, VtdRegime } from '../../src/lib/walk/vtd-regime.ts';
import { ACCESS, AT } from '../../src/ports/dma.ts';
import { FAULT, frcd, frcdWord2, frcdWord3, isQualified } from '../../src/spec/vtd/faults.ts';
import { isInterruptAddress } from '../../src/spec/vtd/interrupt.ts';
import { RESPONSE } from '../../src/spec/vtd/page-request.ts';
import { TTM } from '../../src/spec/vtd/registers.ts';
import { PGTT } from '../../src/spec/vtd/tables.ts';
import type { RegisterUnit } from './device.ts';
import { DROPPED, type PageRequestQueue } from './page-request-queue.ts';
import type { TableReader } from './qemu/tables.ts';
import { canonicalInAw, type QemuWalk } from './qemu/walk.ts';

/** The walk found nothing wrong: the request failed for a reason the guest's unit would not know. */
const NOTHING = 0;

/**
 * Decides what a hardware fault looks like to the guest: it repeats the lookup through the guest's own tables, with the
 * profile's codes. Nothing found means no record (a leaf outside RAM just fails). It never yields an address for DMA.
 */
export class FaultJudge {
  #fpd = false;
  readonly #unit: RegisterUnit;
  readonly #tables: TableReader;
  readonly #walker: VtdWalker;
  /** QEMU's order of checks; null: the architecture's. */
  readonly #qemu: QemuWalk | null;
  readonly #context = new VtdContext();
  readonly #regime = new VtdRegime();

  constructor(unit: RegisterUnit, tables: TableReader, walker: VtdWalker, qemu: QemuWalk | null) {
    this.#qemu = qemu;
    this.#unit = unit;
    this.#tables = tables;
    this.#walker = walker;
  }

  /** @param record the hardware's FRCD, 4 words. @param rid,pasid as the guest names them. */
  fault(rid: number, pasid: number, record: Int32Array): void {
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
    const reason = this.#reason(rid, pasid, lo, hi, access, at);
    if (reason === NOTHING || (this.#fpd && isQualified(reason))) return;
    this.#unit.faults.record(lo, hi, frcdWord2(rid, pasid, exec, priv), frcdWord3(read, at, pasid, reason));
  }

  /** A request without PASID to 0xFEEx_xxxx that is no interrupt message (§3.15). QEMU answers it without a record. */
  #interruptRange(rid: number, read: boolean): void {
    if (this.#unit.shape.deviations.interruptRangeSilent) return;
    this.#unit.faults.record(0, 0, frcdWord2(rid, -1, false, false), frcdWord3(read, 0, -1, FAULT.IR_REQUEST_TYPE));
  }

  #reason(rid: number, pasid: number, lo: number, hi: number, access: number, at: number): number {
    const unit = this.#unit;
    this.#fpd = false;
    if (!unit.root.on) return NOTHING;
    const mode = unit.root.mode;
    if (mode === TTM.ABORT) return unit.shape.abortMode ? FAULT.ABORT_MODE : FAULT.TTM_UNSUPPORTED;
    if (mode === TTM.RESERVED) return FAULT.TTM_UNSUPPORTED;
    if (mode === TTM.SCALABLE && !unit.shape.props.scalableMode) return FAULT.TTM_UNSUPPORTED;
    if (mode === TTM.LEGACY && pasid >= 0) return FAULT.PASID_IN_LEGACY;
    const r = this.#regimeOf(rid, pasid);
    if (r === null) {
      this.#fpd = this.#tables.fpd;
      return this.#tables.reason;
    }
    this.#fpd = r.fpd;
    const legacyCodes = unit.shape.deviations.legacyCodes;
    if (at !== AT.UNTRANSLATED && !this.#context.dte) {
      return this.#context.scalable && !legacyCodes ? FAULT.SM_DTE : FAULT.TRANSLATION_BLOCKED;
    }
    if ((access & ACCESS.PRIV) !== 0 && this.#context.scalable && !r.sre) return FAULT.PASID_SRE;
    if (r.pgtt === PGTT.PASS_THROUGH && unit.shape.deviations.passThroughUnchecked) return NOTHING;
    const byAw = unit.shape.deviations.canonicalByAw && r.pgtt === PGTT.FIRST;
    if (byAw && !canonicalInAw(r.secondLevels, lo, hi)) return FAULT.NON_CANONICAL;
    if (this.#walker.walk(r, lo, hi, access)) return NOTHING;
    const reason = this.#qemu?.reason(r, lo, hi, access) || this.#walker.reason;
    if (legacyCodes && reason === FAULT.INTERRUPT_OUTPUT && unit.shape.props.scalableMode) return FAULT.SM_INTERRUPT;
    return reason;
  }

  #regimeOf(rid: number, pasid: number): VtdRegime | null {
    const c = this.#context;
    const { base, mode } = this.#unit.root;
    const tables = this.#tables;
    if (!tables.context(base, mode === TTM.SCALABLE, rid, c)) return null;
    if (pasid >= 0 && !tables.allowsPasid(c, pasid)) return null;
    if (!c.scalable) return c.legacy;
    return tables.pasid(c, pasid < 0 ? c.ridPasid : pasid, this.#regime) ? this.#regime : null;
  }

  /**
   * A page request, judged and queued under the guest's `rid` and `pasid`.
   * @param access ACCESS bits.
   * @returns QUEUED, DROPPED, or the code it is answered with at once (§7.4.1).
   */
  pageRequest(
    rid: number,
    pasid: number,
    lo: number,
    hi: number,
    access: number,
    group: number,
    last: boolean,
    queue: PageRequestQueue,
  ): number {
    const reason = this.#requestReason(rid, pasid);
    if (reason === NOTHING) return queue.push(rid, pasid, lo, hi, access, group, last);
    if (!(this.#fpd && isQualified(reason))) {
      const w3 = frcdWord3((access & ACCESS.READ) !== 0, 0, pasid, reason);
      const w2 = frcdWord2(rid, pasid, (access & ACCESS.EXEC) !== 0, (access & ACCESS.PRIV) !== 0);
      this.#unit.faults.record(lo, hi, w2, w3);
    }
    return last ? RESPONSE.INVALID : DROPPED;
  }

  /** A page request needs tables that can be read and PRE=1. */
  #requestReason(rid: number, pasid: number): number {
    const unit = this.#unit;
    this.#fpd = false;
    if (!unit.root.on || unit.root.mode === TTM.ABORT) return FAULT.ABORT_MODE;
    if (unit.root.mode !== TTM.SCALABLE) return FAULT.PAGE_REQUEST_IN_LEGACY;
    const r = this.#regimeOf(rid, pasid);
    if (r === null) {
      this.#fpd = this.#tables.fpd;
      return this.#tables.reason;
    }
    this.#fpd = r.fpd;
    return this.#context.pre ? NOTHING : FAULT.SM_PRE;
  }
}
