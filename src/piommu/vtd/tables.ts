import { ConfigCache } from '../../lib/cache/config-cache.ts';
import type { Iotlb } from '../../lib/cache/iotlb.ts';
import type { VtdFeatures } from '../../lib/check/vtd-features.ts';
import type { VtdContext, VtdRegime } from '../../lib/walk/vtd-regime.ts';
import { VtdTables } from '../../lib/walk/vtd-tables.ts';
import { NO_PASID } from '../../ports/dma.ts';
import type { Memory } from '../../ports/memory.ts';
import { FAULT } from '../../spec/vtd/faults.ts';
import { TTM } from '../../spec/vtd/registers.ts';
import { PGTT } from '../../spec/vtd/tables.ts';
import type { VtdCacheSizes } from './options.ts';
import type { VtdHwRegisters } from './registers.ts';
import { takeLegacy, UNTAGGED, type VtdHwContext, type VtdHwStream, vtdHwContext, vtdHwStream } from './stream.ts';

export interface VtdHwTablesParts {
  /** Host-physical memory. */
  readonly memory: Memory;
  readonly features: VtdFeatures;
  readonly registers: VtdHwRegisters;
  readonly iotlb: Iotlb;
  readonly caches: VtdCacheSizes;
}

export interface VtdHwTablesData {
  readonly contexts: readonly { readonly rid: number; readonly context: object }[];
  readonly streams: readonly {
    readonly rid: number;
    readonly requested: number;
    readonly directory: number;
    readonly priv: boolean;
    readonly regime: object;
  }[];
}

/**
 * Root, context and PASID tables through the context cache and the PASID cache. What a cache holds stays in use until an
 * invalidation names it, however the tables in memory change; a bad entry is reported each time and never kept.
 */
export class VtdHwTables {
  /** Of the last failed look-up: the fault reason, and whether FPD was met on the way. */
  reason = 0;
  fpd = false;
  readonly #features: VtdFeatures;
  readonly #registers: VtdHwRegisters;
  readonly #iotlb: Iotlb;
  readonly #tables: VtdTables;
  readonly #contexts: ConfigCache<VtdHwContext>;
  readonly #streams: ConfigCache<VtdHwStream>;
  /** Changes whenever a context entry is dropped. */
  #stamp = 0;

  constructor(parts: VtdHwTablesParts) {
    this.#features = parts.features;
    this.#registers = parts.registers;
    this.#iotlb = parts.iotlb;
    this.#tables = new VtdTables(parts.memory, parts.features);
    this.#contexts = new ConfigCache(parts.caches.contexts ?? 256, vtdHwContext);
    this.#streams = new ConfigCache(parts.caches.pasids ?? 1024, vtdHwStream);
  }

  #failed(reason: number, fpd: boolean): null {
    this.reason = reason;
    this.fpd = fpd;
    return null;
  }

  /** What (requester, PASID) translated with last, when nothing was dropped since; null: ask `find`. */
  cached(rid: number, pasid: number): VtdHwStream | null {
    const slot = this.#streams.get(rid, pasid);
    return slot !== null && slot.stamp === this.#stamp ? slot : null;
  }

  /** The context of a requester, from the cache or the tables. @returns null: `reason` and `fpd`. */
  context(rid: number): VtdContext | null {
    const { ttm, root } = this.#registers;
    if (ttm === TTM.ABORT && this.#features.abortMode) return this.#failed(FAULT.ABORT_MODE, false);
    const scalable = ttm === TTM.SCALABLE && this.#features.scalable;
    if (ttm !== TTM.LEGACY && !scalable) return this.#failed(FAULT.TTM_UNSUPPORTED, false);
    const known = this.#contexts.get(rid, 0);
    if (known !== null) return known.context;
    const slot = this.#contexts.claim(rid, 0);
    const t = this.#tables;
    if (!t.context(root, scalable, rid, slot.context)) return this.#failed(t.reason, t.fpd);
    this.#contexts.keep(slot);
    return slot.context;
  }

  /** What (requester, PASID) translates with. @returns null: `reason` and `fpd`. */
  find(rid: number, pasid: number): VtdHwStream | null {
    const context = this.context(rid);
    if (context === null) return null;
    const t = this.#tables;
    if (pasid !== NO_PASID && !t.allowsPasid(context, pasid)) return this.#failed(t.reason, t.fpd);
    const directory = context.scalable ? context.directory : -1;
    let slot = this.#streams.get(rid, pasid);
    if (slot === null || slot.directory !== directory || !context.scalable) {
      slot = this.#streams.claim(rid, pasid);
      if (!context.scalable) takeLegacy(context.legacy, slot.regime);
      else if (!t.pasid(context, pasid === NO_PASID ? context.ridPasid : pasid, slot.regime)) {
        return this.#failed(t.reason, t.fpd);
      }
      slot.directory = directory;
      slot.tags = slot.secondTags = UNTAGGED;
      this.#streams.keep(slot);
    }
    if (slot.tags.tag === 0) this.tag(slot);
    slot.priv = pasid === NO_PASID && context.scalable && context.ridPriv;
    slot.stamp = this.#stamp;
    return slot;
  }

  /** First-stage and nested translations lie apart from second-stage ones: invalidations reach them differently. */
  tag(slot: VtdHwStream): void {
    const r: VtdRegime = slot.regime;
    slot.secondTags = this.#iotlb.context(r.did, r.pasid * 2);
    const first = r.pgtt === PGTT.FIRST || r.pgtt === PGTT.NESTED;
    slot.tags = first ? this.#iotlb.context(r.did, r.pasid * 2 + 1) : slot.secondTags;
  }

  dropContexts(): void {
    this.#stamp++;
    this.#contexts.dropAll();
  }

  /** Legacy entries of a domain. */
  dropContextsOf(did: number): void {
    this.#stamp++;
    const { slots } = this.#contexts;
    for (let i = 0; i < slots.length; i++) {
      const s = slots[i]!;
      if (s !== null && !s.context.scalable && s.context.legacy.did === did) s.generation = -1;
    }
  }

  /** @param fm function mask: how many low bits of the function number (0 to 3, from bit 2 down) are ignored. */
  dropDevice(sid: number, fm: number): void {
    this.#stamp++;
    if (fm === 0) {
      this.#contexts.drop(sid, 0);
      return;
    }
    const mask = fm === 1 ? 0xfffb : fm === 2 ? 0xfff9 : 0xfff8;
    const { slots } = this.#contexts;
    for (let i = 0; i < slots.length; i++) {
      const s = slots[i]!;
      if (s !== null && ((s.keyA ^ sid) & mask) === 0) s.generation = -1;
    }
  }

  dropPasids(): void {
    this.#streams.dropAll();
  }

  /** PASID entries of a domain, or one of them. @param pasid -1: all. */
  dropPasidsOf(did: number, pasid: number): void {
    const { slots } = this.#streams;
    for (let i = 0; i < slots.length; i++) {
      const s = slots[i]!;
      if (s === null || s.directory < 0 || s.regime.did !== did) continue;
      if (pasid < 0 || s.regime.pasid === pasid) s.generation = -1;
    }
  }

  save(): VtdHwTablesData {
    return {
      contexts: this.#contexts.live().map((s) => structuredClone({ rid: s.keyA, context: { ...s.context } })),
      streams: this.#streams.live().map(({ keyA: rid, keyB: requested, directory, priv, regime }) => {
        return structuredClone({ rid, requested, directory, priv, regime: { ...regime } });
      }),
    };
  }

  /** Slots come back unchecked: the next use compares them with the context cache and asks for its tags. */
  load(data: VtdHwTablesData): void {
    this.dropContexts();
    this.dropPasids();
    for (const { rid, context } of data.contexts) {
      const slot = this.#contexts.claim(rid, 0);
      const { legacy, ...rest } = context as VtdContext;
      Object.assign(slot.context, rest);
      Object.assign(slot.context.legacy, legacy);
      this.#contexts.keep(slot);
    }
    for (const { rid, requested, directory, priv, regime } of data.streams) {
      const slot = this.#streams.claim(rid, requested);
      Object.assign(slot.regime, regime);
      Object.assign(slot, { directory, priv, stamp: -1 });
      slot.tags = slot.secondTags = UNTAGGED;
      this.#streams.keep(slot);
    }
  }
}
