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
  /** Why the guest's own second stage did not serve the last miss: its input address (bytes), and a reason; 0: it did. */
  readonly missed: { readonly ipa: number; readonly reason: number };
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
  /** The same walk as the hardware makes it, which can do more than the guest is shown. */
  readonly #repeat: VtdWalker;
  readonly #qemu: QemuReasons;
  /** FPD as far as it counts for the last reason. */
  #fpd = false;
  /** The last walk found nothing wrong. */
  #walked = true;

  constructor(core: VtdCore, records: VtdRecords) {
    const { memory } = core.deps;
    const limits = guestLimits(core);
    this.#core = core;
    this.#records = records;
    this.#tables = new VtdGuestTables(core);
    const choices = vtdWalkChoicesOf(core.deviations);
    this.#walker = new VtdWalker(memory, limits, choices);
    this.#repeat = new VtdWalker(memory, HARDWARE_LIMITS, choices);
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
    let reason = this.#reason(subject, frcd.reason(w3), lo, hi, access, at);
    if (reason === NO_FAULT) reason = refused !== null ? this.#refused(refused) : this.#seen(subject, frcd.reason(w3));
    if (reason === NO_FAULT || (this.#fpd && isQualified(reason))) return;
    this.#records.record(lo, hi, frcdWord2(rid, pasid, exec, priv), frcdWord3(read, at, pasid, reason));
  }

  /** A request that no hardware has seen, since the host has nothing for its PASID. @param access ACCESS bits. */
  unsent(
    rid: number,
    pasid: number,
    configuration: VtdConfiguration | null,
    lo: number,
    hi: number,
    access: number,
  ): void {
    const w2 = frcdWord2(rid, pasid, (access & ACCESS.EXEC) !== 0, (access & ACCESS.PRIV) !== 0);
    const w3 = frcdWord3((access & ACCESS.WRITE) === 0, AT.UNTRANSLATED, pasid, 0);
    const missed = { ipa: 0, reason: 0 };
    const record = Int32Array.of(lo, hi, w2, w3);
    this.fault({ rid, pasid, configuration, shadowed: false, refused: 'entry', missed }, record);
  }

  /**
   * The host cannot have a requester or PASID although the guest's tables are good, and no request will show it: the processor
   * has no PASID of the host to put into an ENQCMD, or Linux reports nothing. It is recorded as what the first request would
   * have met: a write at address 0 whose entry the unit could not get at.
   */
  lost(rid: number, pasid: number): void {
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
  #seen({ configuration, shadowed, missed }: VtdFaultSubject, reason: number): number {
    const { root, deps } = this.#core;
    // Nothing is in force though the tables are good: the host has no such (requester, PASID), as PASID 0 with a prefix.
    if (configuration === null) return this.#refused('entry');
    if (!root.on || shadowed) return NO_FAULT;
    if (missed.reason !== 0 && isOfSecond(reason)) return missed.reason;
    if (isOfFirst(reason)) return reason;
    switch (reason) {
      case FAULT.FS_UNREADABLE:
      case FAULT.FS_ROOT_UNREADABLE:
      case FAULT.FS_UPDATE:
      case FAULT.SM_INTERRUPT:
        return reason;
      case FAULT.FS_SECOND_WRITE:
        // The host maps the guest's table read-only: to the guest its memory refuses the store.
        return FAULT.FS_UPDATE;
      case FAULT.SM_WRITE:
        // Both stages have this reason; memory that the host maps read-only is nothing of the guest's tables.
        return !this.#walked || isIn(deps.ram(), this.#walker.out) ? reason : NO_FAULT;
      default:
        return NO_FAULT;
    }
  }

  /** @param hardware the hardware's reason. */
  #reason(subject: VtdFaultSubject, hardware: number, lo: number, hi: number, access: number, at: number): number {
    const { rid, pasid, configuration } = subject;
    const { root, features } = this.#core;
    this.#fpd = false;
    this.#walked = true;
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
    this.#walked = this.#walker.walk(r, lo, hi, access);
    if (this.#walked || !this.#repeats(subject, hardware, lo, hi, access)) return NO_FAULT;
    return this.#qemu.ofWalk(r, lo, hi, access, this.#walker.reason, features.scalable);
  }

  /**
   * Whether the guest's tables are still those that the hardware met. It may have gone through a table that it had in its
   * caches and that the guest has replaced since; what is wrong with today's is then nothing that the request met.
   */
  #repeats(subject: VtdFaultSubject, hardware: number, lo: number, hi: number, access: number): boolean {
    const { configuration, shadowed, missed } = subject;
    // A copy of the guest's tables was looked at a moment ago, by the miss.
    if (configuration === null || shadowed) return true;
    const w = this.#repeat;
    const reason = w.walk(configuration.regime, lo, hi, access) ? NO_FAULT : w.reason;
    if (reason === hardware) return true;
    if (isOfFirst(hardware)) return false;
    const first = isOfFirst(reason) || (reason === FAULT.SM_WRITE && !w.secondMissing);
    if (missed.reason !== 0 && isOfSecond(hardware)) {
      return !first && isOfSecond(reason) && (!w.secondMissing || w.ipa === missed.ipa);
    }
    if (hardware === FAULT.SM_WRITE) return reason === NO_FAULT;
    // What is left is the host's: it has no memory for a table, which then is not in RAM, or for the page.
    return !isOfSecond(hardware) || !first || !isIn(this.#core.deps.ram(), w.table);
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

/** What the paging entries of the machine's hardware may hold. */
const HARDWARE_LIMITS = { haw: 48, ss2m: true, ss1g: true, fs1g: true, snp: true, tm: false } as const;

/** Reasons that only an entry of a first stage, or its input address, can have: the guest's own in every case. */
function isOfFirst(reason: number): boolean {
  return reason === FAULT.FS_P || reason === FAULT.FS_RESERVED || reason === FAULT.NON_CANONICAL || reason === FAULT.US;
}

/** Reasons that a second stage can have, for a page or for a table of a first stage. */
function isOfSecond(reason: number): boolean {
  switch (reason) {
    case FAULT.SS_NONE:
    case FAULT.SM_READ:
    case FAULT.SM_WRITE:
    case FAULT.SS_RESERVED:
    case FAULT.SS_UNREADABLE:
    case FAULT.SS_ROOT_UNREADABLE:
    case FAULT.SS_BEYOND:
    case FAULT.FS_ADDRESS:
    case FAULT.FS_ROOT_SECOND_READ:
    case FAULT.FS_SECOND_READ:
    case FAULT.FS_SECOND_WRITE:
      return true;
    default:
      return false;
  }
}

function isIn(regions: readonly { readonly gpa: number; readonly bytes: number }[], at: number): boolean {
  return regions.some(({ gpa, bytes }) => at >= gpa && at < gpa + bytes);
}
