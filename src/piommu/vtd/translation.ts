import { TWO32 } from '../../core/bits.ts';
import { Iotlb } from '../../lib/cache/iotlb.ts';
import { VtdFeatures } from '../../lib/check/vtd-features.ts';
import { inInterruptWindow, VtdWalker } from '../../lib/walk/vtd.ts';
import type { VtdContext, VtdRegime } from '../../lib/walk/vtd-regime.ts';
import { VtdTables } from '../../lib/walk/vtd-tables.ts';
import { ACCESS, AT, DMA, NO_PASID, type TranslatePort } from '../../ports/dma.ts';
import type { HwEvents } from '../../ports/hw.ts';
import type { Memory } from '../../ports/memory.ts';
import type { Tell } from '../../ports/tell.ts';
import { FAULT, frcdWord2, frcdWord3, isQualified } from '../../spec/vtd/faults.ts';
import { TTM } from '../../spec/vtd/registers.ts';
import { PGTT } from '../../spec/vtd/tables.ts';
import { ContextCache, PasidCache, type RegimeSlot, UNTAGGED } from './tables.ts';
import { ContextWalks } from './walk-cache.ts';

const RW = ACCESS.READ | ACCESS.WRITE;
/** Second-stage misses one request may have filled: every first-stage table and the page, read and then write. */
const MISSES = 16;

export interface TranslationOptions {
  readonly name: string;
  readonly memory: Memory;
  readonly cap: bigint;
  readonly ecap: bigint;
  /** Host address width, bits. */
  readonly haw: number;
  readonly transient: boolean;
  /** Translations, context entries and PASID entries cached; powers of two. */
  readonly iotlbEntries: number;
  readonly contextEntries: number;
  readonly pasidEntries: number;
  /** Last-level tables cached; a power of two, 0: none. */
  readonly walkEntries: number;
}

/**
 * The translating half of the unit: tables and walks through their caches. A field holds what the last request gave. What
 * the caches hold stays in use until an invalidation names it, however the tables in memory change.
 */
export class VtdTranslation implements TranslatePort {
  out = 0;
  outShift = 0;
  outPerm = 0;
  guestShift = 0;
  tag = -1;
  /** The translation does not snoop, for ATS. */
  noSnoop = false;
  /** Of the last failure: reason, and whether FPD was met. */
  reason = 0;
  fpd = false;

  readonly unit: VtdFeatures;
  readonly name: string;
  events: HwEvents | null = null;
  tell: Tell | null = null;
  /** Latched root table and mode; translation enabled. */
  root = 0;
  ttm: number = TTM.LEGACY;
  enabled = false;
  readonly contexts: ContextCache;
  readonly pasids: PasidCache;
  readonly iotlb: Iotlb;
  readonly #tables: VtdTables;
  readonly #walker: VtdWalker;
  readonly #firstWalks: ContextWalks | null;
  readonly #secondWalks: ContextWalks | null;

  constructor(o: TranslationOptions) {
    this.name = o.name;
    this.unit = new VtdFeatures(o.cap, o.ecap, o.haw, o.transient);
    this.#tables = new VtdTables(o.memory, this.unit);
    this.#walker = new VtdWalker(o.memory, this.unit.limits);
    this.contexts = new ContextCache(o.contextEntries);
    this.pasids = new PasidCache(o.pasidEntries);
    this.iotlb = new Iotlb({ entries: o.iotlbEntries, walkEntries: o.walkEntries });
    this.#firstWalks = o.walkEntries === 0 ? null : new ContextWalks(this.iotlb, UNTAGGED);
    this.#secondWalks = o.walkEntries === 0 ? null : new ContextWalks(this.iotlb, UNTAGGED);
    this.#walker.cache = this.#firstWalks;
    this.#walker.second.cache = this.#secondWalks;
  }

  translate(rid: number, pasid: number, lo: number, hi: number, access: number, at: number): number {
    if (pasid === NO_PASID && hi === 0 && lo >>> 20 === 0xfee) return this.#interruptWindow(rid, lo, access, at);
    if (at !== AT.UNTRANSLATED || !this.enabled) return this.#unwalked(rid, pasid, lo, hi, access, at);
    let slot = this.pasids.at(rid, pasid);
    const known = slot.rid === rid && slot.requested === pasid;
    if (!known || slot.stamp !== this.contexts.stamp || !this.pasids.isLive(slot)) {
      const found = this.resolve(rid, pasid);
      if (found === null) return this.#refuse(rid, pasid, lo, hi, access, at);
      slot = found;
    }
    const asked = slot.priv ? access | ACCESS.PRIV : access;
    if (slot.regime.pgtt !== PGTT.PASS_THROUGH && this.#cached(slot, lo, hi, asked)) {
      if (this.tell !== null) this.#say(rid, pasid, lo, hi, access, true);
      return DMA.OK;
    }
    if (!this.walk(slot, rid, pasid, lo, hi, asked)) return this.#refuse(rid, pasid, lo, hi, access, at);
    if (this.tell !== null) this.#say(rid, pasid, lo, hi, access, false);
    return DMA.OK;
  }

  /** A cached translation that grants the access. Bits the cache does not keep (63:57) must be the sign, or 0. */
  #cached(slot: RegimeSlot, lo: number, hi: number, access: number): boolean {
    const tlb = this.iotlb;
    const r = slot.regime;
    if (r.pgtt === PGTT.SECOND) {
      if (hi >>> 25 !== 0) return false;
    } else {
      const top = hi >> 24;
      if (top !== 0 && top !== -1) return false;
    }
    if (slot.tags.tag === 0 || !tlb.lookup(slot.tags, lo, hi)) return false;
    const priv = (access & ACCESS.PRIV) !== 0;
    const perm = priv ? tlb.perm >>> 2 : tlb.perm & RW;
    const need = (access & RW) | ((access >>> 2) & ACCESS.READ);
    // Too little may only mean that a dirty flag is still to be written: the walk decides.
    if ((need & ~perm) !== 0 || (priv && r.scalable && !r.sre)) return false;
    this.out = tlb.out;
    this.outShift = tlb.shift;
    this.outPerm = perm;
    this.guestShift = tlb.guestShift;
    this.tag = r.did;
    this.noSnoop = (tlb.attr & 1) === 0;
    return true;
  }

  /**
   * Walks and caches. Asks once per missing second-stage page whether it can be filled.
   * @returns false: `reason` and `fpd`.
   */
  walk(slot: RegimeSlot, rid: number, pasid: number, lo: number, hi: number, access: number): boolean {
    let s = slot;
    const w = this.#walker;
    let lastIpa = -1;
    let lastAccess = 0;
    for (let n = 0; n < MISSES; n++) {
      const r = s.regime;
      if ((access & ACCESS.PRIV) !== 0 && !r.sre && (r.pgtt === PGTT.FIRST || r.pgtt === PGTT.NESTED)) {
        return this.#because(FAULT.PASID_SRE, r.fpd);
      }
      this.#selectWalks(s);
      if (w.walk(r, lo, hi, access)) {
        this.#take(s, lo, hi, access);
        return true;
      }
      if (!w.secondMissing || this.events === null || (w.ipa === lastIpa && w.ipaAccess === lastAccess)) break;
      lastIpa = w.ipa;
      lastAccess = w.ipaAccess;
      if (!this.events.stageTwoMiss(rid, pasid, lastIpa, lastAccess, lo, hi)) break;
      const again = this.resolve(rid, pasid);
      if (again === null) return false;
      s = again;
    }
    return this.#because(w.reason, s.regime.fpd);
  }

  #because(reason: number, fpd: boolean): boolean {
    this.reason = reason;
    this.fpd = fpd;
    return false;
  }

  /** Takes the walker's answer into the result fields and the cache. */
  #take(slot: RegimeSlot, lo: number, hi: number, access: number): void {
    const w = this.#walker;
    const r = slot.regime;
    // Until the dirty flag is set, the cached copy must not let a write pass.
    const writable = w.dirty ? RW : ACCESS.READ;
    this.out = w.out;
    this.outShift = w.shift;
    this.outPerm = w.dirty ? w.perm : w.perm & ((access & RW) | ACCESS.READ);
    this.guestShift = w.firstShift;
    this.tag = r.did;
    this.noSnoop = !w.snp && !r.pgsnp;
    if (r.pgtt === PGTT.PASS_THROUGH) return;
    const perm = (w.userPerm & writable) | ((w.privPerm & writable) << 2);
    this.iotlb.insertWords(slot.tags, lo, hi, w.outLo, w.outHi, w.shift, perm, w.firstShift, this.noSnoop ? 0 : 1);
  }

  /** First-stage and nested translations lie apart from second-stage ones: invalidations reach them differently. */
  #tagsOf(slot: RegimeSlot): void {
    const r = slot.regime;
    slot.secondTags = this.iotlb.context(r.did, r.pasid * 2);
    const first = r.pgtt === PGTT.FIRST || r.pgtt === PGTT.NESTED;
    slot.tags = first ? this.iotlb.context(r.did, r.pasid * 2 + 1) : slot.secondTags;
  }

  /** The walker's caches are those of this request's contexts. */
  #selectWalks(slot: RegimeSlot): void {
    // The cache may have forgotten every context when it made room for one of them.
    if (slot.tags.tag === 0 || slot.secondTags.tag === 0) this.#tagsOf(slot);
    if (this.#firstWalks === null || this.#secondWalks === null) return;
    this.#firstWalks.context = slot.tags;
    this.#secondWalks.context = slot.secondTags;
  }

  /**
   * What (requester, PASID) translates with. An absent entry is offered to the host once before it counts.
   * @returns null: `reason` and `fpd`.
   */
  resolve(rid: number, pasid: number): RegimeSlot | null {
    const slot = this.#look(rid, pasid);
    if (slot !== null || this.events === null || !isAbsent(this.reason)) return slot;
    return this.events.streamMiss(rid, pasid) ? this.#look(rid, pasid) : null;
  }

  #lookFailed(reason: number, fpd: boolean): null {
    this.reason = reason;
    this.fpd = fpd;
    return null;
  }

  /** The context of a requester, from the cache or the tables. null: `reason` and `fpd`. */
  context(rid: number): VtdContext | null {
    if (this.ttm === TTM.ABORT && this.unit.abortMode) return this.#lookFailed(FAULT.ABORT_MODE, false);
    const scalable = this.ttm === TTM.SCALABLE && this.unit.scalable;
    if (this.ttm !== TTM.LEGACY && !scalable) return this.#lookFailed(FAULT.TTM_UNSUPPORTED, false);
    const known = this.contexts.find(rid);
    if (known !== null) return known.context;
    const slot = this.contexts.claim(rid);
    const t = this.#tables;
    if (!t.context(this.root, scalable, rid, slot.context)) return this.#lookFailed(t.reason, t.fpd);
    this.contexts.keep(slot, rid);
    return slot.context;
  }

  #look(rid: number, pasid: number): RegimeSlot | null {
    const context = this.context(rid);
    if (context === null) return null;
    const t = this.#tables;
    if (pasid !== NO_PASID && !t.allowsPasid(context, pasid)) return this.#lookFailed(t.reason, t.fpd);
    const slot = this.pasids.at(rid, pasid);
    const directory = context.scalable ? context.directory : -1;
    const same = slot.rid === rid && slot.requested === pasid && slot.directory === directory;
    if (!same || !context.scalable || !this.pasids.isLive(slot)) {
      slot.rid = -1;
      if (!context.scalable) copyRegime(context.legacy, slot.regime);
      else if (!t.pasid(context, pasid === NO_PASID ? context.ridPasid : pasid, slot.regime)) {
        return this.#lookFailed(t.reason, t.fpd);
      }
      slot.rid = rid;
      slot.requested = pasid;
      slot.directory = directory;
      this.pasids.keep(slot);
      slot.tags = slot.secondTags = UNTAGGED;
    }
    if (slot.tags.tag === 0) this.#tagsOf(slot);
    slot.priv = pasid === NO_PASID && context.scalable && context.ridPriv;
    slot.stamp = this.contexts.stamp;
    return slot;
  }

  /** A write without PASID is an interrupt message; anything else to the window is refused (VT-d §3.15). */
  #interruptWindow(rid: number, lo: number, access: number, at: number): number {
    if (at === AT.UNTRANSLATED && (access & RW) === ACCESS.WRITE) {
      this.out = lo >>> 0;
      return DMA.INTERRUPT;
    }
    this.reason = FAULT.IR_REQUEST_TYPE;
    this.fpd = false;
    return this.#refuse(rid, NO_PASID, lo, 0, access, at);
  }

  /** Requests that need no walk: translation is off, or the function translated the address itself. */
  #unwalked(rid: number, pasid: number, lo: number, hi: number, access: number, at: number): number {
    this.out = (hi >>> 0) * TWO32 + (lo >>> 0);
    this.outShift = 12;
    this.outPerm = RW;
    this.guestShift = 0;
    this.tag = -1;
    if (!this.enabled) return at === AT.UNTRANSLATED && pasid === NO_PASID && hi >>> 20 === 0 ? DMA.OK : DMA.ABORT;
    const context = this.context(rid);
    if (context === null) return this.#refuse(rid, pasid, lo, hi, access, at);
    if (at !== AT.TRANSLATED || !context.dte || !this.unit.deviceTlb) {
      this.reason = context.scalable ? FAULT.SM_DTE : FAULT.TRANSLATION_BLOCKED;
      this.fpd = context.fpd;
      return this.#refuse(rid, pasid, lo, hi, access, at);
    }
    return inInterruptWindow(lo, hi) || hi >>> 20 !== 0 ? DMA.ABORT : DMA.OK;
  }

  #refuse(rid: number, pasid: number, lo: number, hi: number, access: number, at: number): number {
    this.report(rid, pasid, lo, hi, access, at, false);
    return DMA.ABORT;
  }

  /** Writes a fault record for `reason`, unless FPD suppresses it (VT-d §7.1, §11.4.7.6). */
  report(rid: number, pasid: number, lo: number, hi: number, access: number, at: number, pageRequest: boolean): void {
    if (this.fpd && isQualified(this.reason)) return;
    const events = this.events;
    if (events === null && this.tell === null) return;
    const both = (access & RW) === RW;
    const read = !pageRequest && (access & (ACCESS.READ | ACCESS.EXEC)) !== 0;
    const record = new Int32Array(4);
    record[0] = lo & ~0xfff;
    record[1] = hi;
    record[2] =
      frcdWord2(rid, pasid, (access & ACCESS.EXEC) !== 0, (access & ACCESS.PRIV) !== 0) |
      (pageRequest || both ? 0x1000_0000 : 0);
    record[3] = frcdWord3(read, at, pasid, this.reason) | (0x8000_0000 | 0);
    if (this.tell !== null) this.tell({ what: 'fault', iommu: this.name, record: Array.from(record) });
    if (events !== null) events.fault(record);
  }

  #say(rid: number, pasid: number, lo: number, hi: number, access: number, hit: boolean): void {
    const iova = (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
    this.tell?.({
      what: 'translate',
      iommu: this.name,
      rid,
      pasid,
      iova,
      access,
      out: this.out,
      shift: this.outShift,
      hit,
    });
  }
}

/** Reasons that say an entry is not there (rather than wrong). */
function isAbsent(reason: number): boolean {
  switch (reason) {
    case FAULT.ROOT_P:
    case FAULT.CONTEXT_P:
    case FAULT.SM_ROOT_P:
    case FAULT.SM_CONTEXT_P:
    case FAULT.DIR_P:
    case FAULT.PASID_P:
      return true;
    default:
      return false;
  }
}

function copyRegime(from: VtdRegime, to: VtdRegime): void {
  to.pgtt = from.pgtt;
  to.scalable = from.scalable;
  to.secondRoot = from.secondRoot;
  to.secondLevels = from.secondLevels;
  to.ssade = false;
  to.did = from.did;
  to.sre = from.sre;
  to.pgsnp = from.pgsnp;
  to.fpd = from.fpd;
  to.pasid = 0;
}
