import type { Iotlb } from '../../lib/cache/iotlb.ts';
import type { VtdFeatures } from '../../lib/check/vtd-features.ts';
import { VtdWalker } from '../../lib/walk/vtd.ts';
import type { VtdWalkChoices } from '../../lib/walk/vtd-choices.ts';
import { ACCESS } from '../../ports/dma.ts';
import type { HwEvents } from '../../ports/hw.ts';
import type { Memory } from '../../ports/memory.ts';
import { FAULT } from '../../spec/vtd/faults.ts';
import { PGTT } from '../../spec/vtd/tables.ts';
import { UNTAGGED, type VtdHwStream } from './stream.ts';
import type { VtdHwTables } from './tables.ts';
import { ContextWalks } from './walk-cache.ts';

const RW = ACCESS.READ | ACCESS.WRITE;
/** Second-stage misses one request may have filled: every first-stage table and the page, read and then write. */
const MISSES = 16;

export interface VtdHwResolverParts {
  /** Host-physical memory. */
  readonly memory: Memory;
  readonly features: VtdFeatures;
  readonly tables: VtdHwTables;
  readonly iotlb: Iotlb;
  /** Who is asked about missing entries and second-stage pages. */
  readonly events: HwEvents;
  /** Last-level tables are cached. */
  readonly cachesWalks: boolean;
  /** What first-stage walks leave in memory; absent: what the architecture says. */
  readonly walk?: VtdWalkChoices | undefined;
}

/**
 * One request from configuration to translation, with the questions to the host: a missing entry and a second-stage miss
 * are reported before they become a fault, each once, and looked at again.
 */
export class VtdHwResolver {
  /** Of the last failure: reason, and whether FPD was met. */
  reason = 0;
  fpd = false;
  /** Output address of the byte; log2 bytes the translation holds for; ACCESS bits granted. */
  out = 0;
  outShift = 0;
  outPerm = 0;
  /** log2 bytes of the first-stage leaf; 0: no first stage took part. */
  guestShift = 0;
  /** Domain id. */
  tag = -1;
  /** The translation does not snoop, for ATS. */
  noSnoop = false;
  readonly #tables: VtdHwTables;
  readonly #iotlb: Iotlb;
  readonly #events: HwEvents;
  readonly #walker: VtdWalker;
  readonly #firstWalks: ContextWalks | null;
  readonly #secondWalks: ContextWalks | null;

  constructor(parts: VtdHwResolverParts) {
    this.#tables = parts.tables;
    this.#iotlb = parts.iotlb;
    this.#events = parts.events;
    this.#walker = new VtdWalker(parts.memory, parts.features.limits, parts.walk);
    this.#firstWalks = parts.cachesWalks ? new ContextWalks(parts.iotlb, UNTAGGED) : null;
    this.#secondWalks = parts.cachesWalks ? new ContextWalks(parts.iotlb, UNTAGGED) : null;
    this.#walker.cache = this.#firstWalks;
    this.#walker.second.cache = this.#secondWalks;
  }

  /**
   * What (requester, PASID) translates with. An absent entry is offered to the host once before it counts.
   * @returns null: `reason` and `fpd`.
   */
  resolve(rid: number, pasid: number): VtdHwStream | null {
    const tables = this.#tables;
    const slot = tables.find(rid, pasid);
    if (slot !== null) return slot;
    // The callback may use this unit, so everything it could change is taken out first.
    const { reason, fpd } = tables;
    if (isAbsent(reason) && this.#events.streamMiss(rid, pasid)) {
      const again = tables.find(rid, pasid);
      if (again !== null) return again;
      this.#failed(tables.reason, tables.fpd);
    } else this.#failed(reason, fpd);
    return null;
  }

  /**
   * Walks and caches. Asks once per missing second-stage page whether it can be filled.
   * @returns false: `reason` and `fpd`.
   */
  walk(slot: VtdHwStream, rid: number, pasid: number, lo: number, hi: number, access: number): boolean {
    let s = slot;
    const w = this.#walker;
    let lastIpa = -1;
    let lastAccess = 0;
    for (let n = 0; n < MISSES; n++) {
      const r = s.regime;
      if ((access & ACCESS.PRIV) !== 0 && !r.sre && (r.pgtt === PGTT.FIRST || r.pgtt === PGTT.NESTED)) {
        return this.#failed(FAULT.PASID_SRE, r.fpd);
      }
      this.#selectWalks(s);
      if (w.walk(r, lo, hi, access)) {
        this.#take(s, lo, hi, access);
        return true;
      }
      if (!w.secondMissing || (w.ipa === lastIpa && w.ipaAccess === lastAccess)) break;
      lastIpa = w.ipa;
      lastAccess = w.ipaAccess;
      if (!this.#events.stageTwoMiss(rid, pasid, lastIpa, lastAccess, lo, hi)) break;
      const again = this.resolve(rid, pasid);
      if (again === null) return false;
      s = again;
    }
    return this.#failed(w.reason, s.regime.fpd);
  }

  #failed(reason: number, fpd: boolean): boolean {
    this.reason = reason;
    this.fpd = fpd;
    return false;
  }

  /** Takes the walker's answer into the result fields and the cache. */
  #take(slot: VtdHwStream, lo: number, hi: number, access: number): void {
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
    this.#iotlb.insertWords(slot.tags, lo, hi, w.outLo, w.outHi, w.shift, perm, w.firstShift, this.noSnoop ? 0 : 1);
  }

  /** The walker's caches are those of this request's contexts. */
  #selectWalks(slot: VtdHwStream): void {
    // The cache may have forgotten every context when it made room for one of them.
    if (slot.tags.tag === 0 || slot.secondTags.tag === 0) this.#tables.tag(slot);
    if (this.#firstWalks === null || this.#secondWalks === null) return;
    this.#firstWalks.context = slot.tags;
    this.#secondWalks.context = slot.secondTags;
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
