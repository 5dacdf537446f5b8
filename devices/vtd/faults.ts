import { VtdWalker } from '../../src/lib/walk/vtd.ts';
import { type VtdContext, VtdRegime } from '../../src/lib/walk/vtd-regime.ts';
import { ACCESS, AT } from '../../src/ports/dma.ts';
import { FAULT, frcd, frcdWord2, frcdWord3, isQualified } from '../../src/spec/vtd/faults.ts';
import { isInterruptAddress } from '../../src/spec/vtd/interrupt.ts';
import { TTM } from '../../src/spec/vtd/registers.ts';
import type { VtdCore } from './core.ts';
import type { PageRequest } from './page-request-queue.ts';
import { vtdWalkChoicesOf } from './qemu/choices.ts';
import { NO_FAULT, QemuReasons } from './qemu/reasons.ts';
import type { VtdRecords } from './records.ts';
import { guestLimits, VtdGuestTables } from './tables.ts';

/** What the guest's tables say about a (requester, PASID), as far as faults of its requests are judged by it. */
export interface VtdConfiguration {
  readonly regime: VtdRegime;
  /** Its context entry is one of scalable mode. */
  readonly scalable: boolean;
  /** DTE and PRE of that entry. */
  readonly dte: boolean;
  readonly pre: boolean;
}

/** A copy that stays as it is when the tables are looked at again. */
export function inForce({ scalable, dte, pre }: VtdContext, r: VtdRegime): VtdConfiguration {
  return { regime: Object.assign(new VtdRegime(), r), scalable, dte, pre };
}

/** Beside the fault itself: what the device made of the (requester, PASID) before. */
export interface VtdFaultSubject {
  /** Requester id and PASID as the guest names them. */
  readonly rid: number;
  readonly pasid: number;
  /** What is in force; null: nothing is, since the guest's tables had nothing valid a moment ago. */
  readonly configuration: VtdConfiguration | null;
  /** The guest's tables are repeated by the host, instead of read by its hardware. */
  readonly shadowed: boolean;
  /** What the host refused for this access: to set the requester up, or to map a page of its second stage. */
  readonly refused: 'entry' | 'table' | null;
}

/**
 * Decides what a hardware fault looks like to the guest, with the profile's codes. It is judged by the configuration that was
 * in force, also when the guest has changed its tables since; its paging entries are looked at again to refine the reason.
 * NO_FAULT means no record (a leaf outside RAM just fails). It never yields an address for DMA.
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
    this.#walker = new VtdWalker(memory, limits, vtdWalkChoicesOf(core.deviations));
    this.#qemu = new QemuReasons(memory, limits, core.deviations);
  }

  /** @param record the hardware's FRCD, 4 words. */
  fault(subject: VtdFaultSubject, record: Int32Array): void {
    const { rid, pasid, refused } = subject;
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
    let reason = this.#reason(subject, lo, hi, access, at);
    if (reason === NO_FAULT) reason = refused !== null ? this.#refused(refused) : this.#seen(subject, frcd.reason(w3));
    if (reason === NO_FAULT || (this.#fpd && isQualified(reason))) return;
    this.#records.record(lo, hi, frcdWord2(rid, pasid, exec, priv), frcdWord3(read, at, pasid, reason));
  }

  /** A request that no hardware has seen. @param access ACCESS bits. */
  unsent(subject: VtdFaultSubject, lo: number, hi: number, access: number): void {
    const { rid, pasid } = subject;
    const w2 = frcdWord2(rid, pasid, (access & ACCESS.EXEC) !== 0, (access & ACCESS.PRIV) !== 0);
    const w3 = frcdWord3((access & ACCESS.WRITE) === 0, AT.UNTRANSLATED, pasid, 0);
    this.fault(subject, Int32Array.of(lo, hi, w2, w3));
  }

  /**
   * The processor has no PASID of the host to put into an ENQCMD, although the guest's tables are good. No function has sent
   * anything, and on bare metal the work would have been queued, so it is recorded as what its first request would then have
   * met: a write at address 0 under the guest's PASID, whose entry the unit could not get at.
   */
  unpaired(rid: number, pasid: number): void {
    const reason = this.#refused('entry');
    if (reason === NO_FAULT) return;
    this.#records.record(0, 0, frcdWord2(rid, pasid, false, false), frcdWord3(false, AT.UNTRANSLATED, pasid, reason));
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

  /**
   * The guest's tables show no fault now, but the hardware met one: it walked what they were before, as far as it had that in
   * its caches. Its own reason counts where it is about what the guest owns.
   */
  #seen({ configuration, shadowed }: VtdFaultSubject, reason: number): number {
    const { root, deps } = this.#core;
    // Nothing is in force though the tables are good: the host has no such (requester, PASID), as PASID 0 with a prefix.
    if (configuration === null) return this.#refused('entry');
    if (!root.on || shadowed) return NO_FAULT;
    switch (reason) {
      case FAULT.FS_P:
      case FAULT.FS_RESERVED:
      case FAULT.FS_UNREADABLE:
      case FAULT.FS_ROOT_UNREADABLE:
      case FAULT.FS_UPDATE:
      case FAULT.NON_CANONICAL:
      case FAULT.US:
      case FAULT.SM_INTERRUPT:
        return reason;
      case FAULT.FS_SECOND_WRITE:
        // The host maps the guest's table read-only: to the guest its memory refuses the store.
        return FAULT.FS_UPDATE;
      case FAULT.SM_WRITE:
        // Both stages have this reason; memory that the host maps read-only is nothing of the guest's tables.
        return isIn(deps.ram(), this.#walker.out) ? reason : NO_FAULT;
      default:
        return NO_FAULT;
    }
  }

  #reason({ rid, pasid, configuration }: VtdFaultSubject, lo: number, hi: number, access: number, at: number): number {
    const { root, features } = this.#core;
    this.#fpd = false;
    if (!root.on) return NO_FAULT;
    if (root.mode === TTM.ABORT) return features.abortMode ? FAULT.ABORT_MODE : FAULT.TTM_UNSUPPORTED;
    if (root.mode === TTM.RESERVED) return FAULT.TTM_UNSUPPORTED;
    if (root.mode === TTM.SCALABLE && !features.scalable) return FAULT.TTM_UNSUPPORTED;
    if (root.mode === TTM.LEGACY && pasid >= 0) return FAULT.PASID_IN_LEGACY;
    const c = configuration ?? this.#find(rid, pasid);
    if (c === null) return this.#tables.reason;
    const r = c.regime;
    this.#fpd = r.fpd;
    if (at !== AT.UNTRANSLATED && !c.dte) return this.#qemu.notEnabled(c.scalable);
    if ((access & ACCESS.PRIV) !== 0 && c.scalable && !r.sre) return FAULT.PASID_SRE;
    const early = this.#qemu.beforeWalk(r);
    if (early >= 0) return early;
    // A walk that finds nothing wrong: the request failed for a reason the guest's unit would not know.
    if (this.#walker.walk(r, lo, hi, access)) return NO_FAULT;
    return this.#qemu.ofWalk(r, lo, hi, access, this.#walker.reason, features.scalable);
  }

  /** What the guest's tables say for a requester now; null: FPD of what they have is left in `#fpd`. */
  #find(rid: number, pasid: number): VtdConfiguration | null {
    const r = this.#tables.find(rid, pasid);
    this.#fpd = r?.fpd ?? this.#tables.fpd;
    return r === null ? null : inForce(this.#tables.context, r);
  }

  /**
   * Whether a page request may be queued; else its fault is recorded (§7.4.1).
   * @param configuration what is in force for it; null: nothing.
   */
  pageRequest(r: PageRequest, configuration: VtdConfiguration | null): boolean {
    const reason = this.#pageRequestReason(r.rid, r.pasid, configuration);
    if (reason === NO_FAULT) return true;
    if (!(this.#fpd && isQualified(reason))) {
      const w3 = frcdWord3((r.access & ACCESS.READ) !== 0, 0, r.pasid, reason);
      const w2 = frcdWord2(r.rid, r.pasid, (r.access & ACCESS.EXEC) !== 0, (r.access & ACCESS.PRIV) !== 0);
      this.#records.record(r.lo, r.hi, w2, w3);
    }
    return false;
  }

  /** A page request needs tables that can be read and PRE=1. */
  #pageRequestReason(rid: number, pasid: number, configuration: VtdConfiguration | null): number {
    const { root } = this.#core;
    this.#fpd = false;
    if (!root.on || root.mode === TTM.ABORT) return FAULT.ABORT_MODE;
    if (root.mode !== TTM.SCALABLE) return FAULT.PAGE_REQUEST_IN_LEGACY;
    const c = configuration ?? this.#find(rid, pasid);
    if (c === null) return this.#tables.reason;
    this.#fpd = c.regime.fpd;
    return c.pre ? NO_FAULT : FAULT.SM_PRE;
  }
}

function isIn(regions: readonly { readonly gpa: number; readonly bytes: number }[], at: number): boolean {
  return regions.some(({ gpa, bytes }) => at >= gpa && at < gpa + bytes);
}
