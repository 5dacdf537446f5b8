import { inInterruptWindow } from '../../lib/walk/vtd.ts';
import { ACCESS, AT, ATS, type EndpointPort, NO_PASID } from '../../ports/dma.ts';
import { FAULT } from '../../spec/vtd/faults.ts';
import { pageRequestWord0, pageRequestWord1, pageRequestWord2, RESPONSE } from '../../spec/vtd/page-request.ts';
import { TTM } from '../../spec/vtd/registers.ts';
import { PGTT } from '../../spec/vtd/tables.ts';
import type { VtdInvalidation } from './commands.ts';
import type { RegimeSlot } from './tables.ts';
import type { VtdTranslation } from './translation.ts';

const RW = ACCESS.READ | ACCESS.WRITE;

/** Translation requests and page requests (VT-d §4.1, §4.2, §7.4). */
export class VtdAts {
  endpoints: EndpointPort | null = null;
  out = 0;
  shift = 0;
  perm = 0;
  untranslated = false;
  noSnoop = false;
  readonly #t: VtdTranslation;
  readonly #invalidation: VtdInvalidation;

  constructor(translation: VtdTranslation, invalidation: VtdInvalidation) {
    this.#t = translation;
    this.#invalidation = invalidation;
  }

  /** @returns an ATS value. */
  translation(rid: number, pasid: number, lo: number, hi: number, access: number): number {
    const t = this.#t;
    this.perm = 0;
    this.out = 0;
    this.shift = 12;
    this.untranslated = false;
    this.noSnoop = false;
    if (!t.enabled || !t.unit.deviceTlb) return ATS.UR;
    const slot = t.resolve(rid, pasid);
    if (slot === null) return this.#failed(rid, pasid, lo, hi, access);
    const context = t.context(rid);
    if (context === null || !context.dte) {
      t.reason = slot.regime.scalable ? FAULT.SM_DTE : FAULT.TRANSLATION_BLOCKED;
      t.fpd = slot.regime.fpd;
      t.report(rid, pasid, lo, hi, access, AT.TRANSLATION_REQUEST, false);
      return ATS.UR;
    }
    if (pasid === NO_PASID && inInterruptWindow(lo, hi)) return this.#window(access);
    return this.#walk(slot, rid, pasid, lo, hi, access);
  }

  /** A message address: the function may write there, untranslated. */
  #window(access: number): number {
    if ((access & ACCESS.WRITE) === 0) return ATS.SUCCESS;
    this.perm = ACCESS.WRITE;
    this.untranslated = true;
    return ATS.SUCCESS;
  }

  /** Asks for as much as was wanted, then for less: a translation may grant a part (VT-d §4.2.3). */
  #walk(slot: RegimeSlot, rid: number, pasid: number, lo: number, hi: number, access: number): number {
    const t = this.#t;
    // Without no-write support every request may be granted W, and then D is set.
    const wanted = (access & ACCESS.WRITE) !== 0 || !t.unit.noWrite ? RW : ACCESS.READ;
    const priv = access & ACCESS.PRIV;
    for (let ask = wanted; ; ask = ask === RW ? ACCESS.READ : ACCESS.WRITE) {
      if (t.walk(slot, rid, pasid, lo, hi, ask | priv)) {
        this.out = t.out - (t.out % 4096);
        this.shift = t.outShift;
        this.perm = t.outPerm & wanted;
        this.noSnoop = t.noSnoop;
        return ATS.SUCCESS;
      }
      if (!isRefusal(t.reason)) return this.#failed(rid, pasid, lo, hi, access);
      if (t.reason === FAULT.SS_NONE || t.reason === FAULT.US || ask === ACCESS.WRITE || wanted !== RW) {
        return ATS.SUCCESS;
      }
    }
  }

  /** Nothing mapped: success without permissions. Broken tables: CA. Not for this function: UR (VT-d §7.1.3). */
  #failed(rid: number, pasid: number, lo: number, hi: number, access: number): number {
    const t = this.#t;
    switch (t.reason) {
      case FAULT.FS_P:
      case FAULT.NON_CANONICAL:
      case FAULT.DIR_P:
      case FAULT.PASID_P:
      case FAULT.BEYOND_WIDTH:
      case FAULT.SS_BEYOND:
      case FAULT.PT_BEYOND:
      case FAULT.FS_ADDRESS:
      case FAULT.PASID_SRE:
        return ATS.SUCCESS;
    }
    t.report(rid, pasid, lo, hi, access, AT.TRANSLATION_REQUEST, false);
    switch (t.reason) {
      case FAULT.ROOT_P:
      case FAULT.CONTEXT_P:
      case FAULT.CONTEXT_INVALID:
      case FAULT.SM_ROOT_P:
      case FAULT.SM_CONTEXT_P:
      case FAULT.SM_CONTEXT_INVALID:
      case FAULT.SM_DTE:
      case FAULT.SM_PASIDE:
      case FAULT.SM_PASID_BEYOND:
      case FAULT.SM_RID_PASID:
      case FAULT.PASID_BEYOND_PSS:
      case FAULT.PASID_IN_LEGACY:
      case FAULT.TTM_UNSUPPORTED:
      case FAULT.ABORT_MODE:
      case FAULT.INTERRUPT_OUTPUT:
      case FAULT.SM_INTERRUPT:
        return ATS.UR;
      default:
        return ATS.CA;
    }
  }

  /**
   * A page request message: judged, then queued for the host. The last request of a refused group is answered at once,
   * others vanish (VT-d §7.4).
   */
  pageRequest(rid: number, pasid: number, lo: number, hi: number, access: number, group: number, last: boolean): void {
    const t = this.#t;
    const slot = t.enabled && t.unit.pageRequests ? this.#accept(rid, pasid) : null;
    if (slot === null) {
      if (t.enabled && t.unit.pageRequests) t.report(rid, pasid, lo, hi, access, AT.UNTRANSLATED, true);
      if (last) this.endpoints?.pageResponse(rid, pasid, group, RESPONSE.INVALID);
      return;
    }
    this.#forget(slot, lo, hi);
    const record = new Int32Array(8);
    record[0] = pageRequestWord0(rid, pasid);
    record[1] = pageRequestWord1(pasid, (access & ACCESS.EXEC) !== 0, (access & ACCESS.PRIV) !== 0);
    record[2] = pageRequestWord2(lo, group, (access & ACCESS.READ) !== 0, (access & ACCESS.WRITE) !== 0, last);
    record[3] = hi;
    t.events?.pageRequest(record);
  }

  #accept(rid: number, pasid: number): RegimeSlot | null {
    const t = this.#t;
    if (t.ttm === TTM.LEGACY) {
      t.reason = FAULT.PAGE_REQUEST_IN_LEGACY;
      t.fpd = false;
      return null;
    }
    const context = t.context(rid);
    if (context === null) return null;
    if (!context.pre) {
      t.reason = FAULT.SM_PRE;
      t.fpd = context.fpd;
      return null;
    }
    return t.resolve(rid, pasid);
  }

  /** Cached translations of the page go before the request can be seen (VT-d §7.4). */
  #forget(slot: RegimeSlot, lo: number, hi: number): void {
    const r = slot.regime;
    const tlb = this.#t.iotlb;
    if (r.pgtt === PGTT.FIRST) tlb.invalidateRange(slot.tags, lo & ~0xfff, hi, 1, true);
    else if (r.pgtt === PGTT.PASS_THROUGH) tlb.invalidateDomain(r.did, true);
    else this.#invalidation.pages(r.did, lo & ~0xfff, hi, 0, true);
  }
}

/** Reasons that deny a permission or find nothing: recoverable, never recorded for a translation request. */
function isRefusal(reason: number): boolean {
  switch (reason) {
    case FAULT.READ:
    case FAULT.WRITE:
    case FAULT.SS_NONE:
    case FAULT.SM_READ:
    case FAULT.SM_WRITE:
    case FAULT.US:
    case FAULT.FS_ROOT_SECOND_READ:
    case FAULT.FS_SECOND_READ:
    case FAULT.FS_SECOND_WRITE:
      return true;
    default:
      return false;
  }
}
