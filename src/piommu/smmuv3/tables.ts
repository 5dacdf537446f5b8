import { alignDown, POW2, TWO32 } from '../../core/bits.ts';
import { ConfigCache } from '../../lib/cache/config-cache.ts';
import type { Iotlb } from '../../lib/cache/iotlb.ts';
import { checkCd } from '../../lib/check/cd.ts';
import type { Smmuv3Features } from '../../lib/check/smmuv3-features.ts';
import { checkSte } from '../../lib/check/ste.ts';
import { fetchWords } from '../../lib/memory/fetch-words.ts';
import type { VmsaWalker } from '../../lib/walk/vmsa.ts';
import type { VmsaChoices } from '../../lib/walk/vmsa-choices.ts';
import type { Memory } from '../../ports/memory.ts';
import { CD_BYTES, CD_SPLIT_4K, CD_SPLIT_64K, CD_WORDS, l1CdL2Ptr, l1CdValid } from '../../spec/smmuv3/cd.ts';
import { CLASS, EVENT } from '../../spec/smmuv3/events.ts';
import { CONFIG, l1StdL2Ptr, l1StdSpan, S1DSS, S1FMT, STE_BYTES, STE_WORDS, steValid } from '../../spec/smmuv3/ste.ts';
import type { Smmuv3CacheSizes } from './options.ts';
import type { StreamTableLocation } from './registers.ts';
import {
  decodeContext,
  decodeStream,
  type Smmuv3HwContext,
  type Smmuv3HwStream,
  smmuv3HwContext,
  smmuv3HwStream,
} from './stream.ts';

/** A transaction's whole configuration, found before: what a hit needs, without asking the two caches. */
export interface Route {
  sid: number;
  ssid: number;
  /** `epoch` of the tables it was found in; anything else is stale. */
  epoch: number;
  stream: Smmuv3HwStream;
  /** null: stage 2 alone. */
  context: Smmuv3HwContext | null;
}

const ROUTES = 64;

/** CD fetches are data reads by the SMMU: stage 2 must allow reading. */
const READ = 1;

export interface Smmuv3HwTablesData {
  readonly stamp: number;
  readonly streams: readonly { readonly sid: number; readonly stamp: number; readonly words: number[] }[];
  readonly contexts: readonly {
    readonly sid: number;
    readonly ssid: number;
    readonly stamp: number;
    readonly vmid: number;
    readonly words: number[];
  }[];
}

export interface Smmuv3HwTablesParts {
  /** Host-physical memory. */
  readonly memory: Memory;
  readonly features: Smmuv3Features;
  /** For CD tables behind stage 2; describes the stage-2 fault of a CD fetch. */
  readonly walker: VmsaWalker;
  readonly tlb: Iotlb;
  readonly caches: Smmuv3CacheSizes;
  readonly choices: VmsaChoices;
}

/**
 * Stream table and context descriptor tables: look-up, validity, and the caches of both. `find` leaves its answer in
 * `stream` and `context`; bad configuration is reported each time and never kept.
 */
export class Smmuv3HwTables {
  readonly #memory: Memory;
  readonly #features: Smmuv3Features;
  readonly #walker: VmsaWalker;
  readonly #choices: VmsaChoices;
  readonly #tlb: Iotlb;
  readonly #streams: ConfigCache<Smmuv3HwStream>;
  readonly #contexts: ConfigCache<Smmuv3HwContext>;
  #table: StreamTableLocation = { base: 0, log2size: 0, twoLevel: false, split: 6 };
  #split = 6;
  #stamp = 0;
  atschk = false;
  readonly #routes: Route[];
  readonly #cacheless: boolean;
  /** Grows with every drop of configuration. */
  #epoch = 0;

  /** The stream of the last `find`; null when it had none. */
  stream: Smmuv3HwStream | null = null;
  /** The CD of the last `find`; null when stage 1 does not take part. */
  context: Smmuv3HwContext | null = null;
  /** F_STE_FETCH, F_CD_FETCH: address of the fetch. */
  fetch = 0;
  /** The stream has no entry at all (V = 0, or no level-2 table): somebody may still install one. */
  unset = false;

  constructor(parts: Smmuv3HwTablesParts) {
    const { caches } = parts;
    this.#memory = parts.memory;
    this.#choices = parts.choices;
    this.#features = parts.features;
    this.#walker = parts.walker;
    this.#tlb = parts.tlb;
    this.#streams = new ConfigCache(caches.streams ?? 1024, smmuv3HwStream);
    this.#contexts = new ConfigCache(caches.contexts ?? 1024, smmuv3HwContext);
    this.#cacheless = caches.streams === 0 || caches.contexts === 0;
    const nobody = smmuv3HwStream();
    this.#routes = Array.from({ length: ROUTES }, () => ({
      sid: -1,
      ssid: -1,
      epoch: -1,
      stream: nobody,
      context: null,
    }));
  }

  /** STRTAB_BASE and STRTAB_BASE_CFG have changed. What is cached stays until an invalidation names it (§6.3.24). */
  locate(table: StreamTableLocation): void {
    const log2size = Math.min(table.log2size, this.#features.sidSize);
    // Reserved SPLIT values behave as 6.
    this.#split = table.split === 8 || table.split === 10 ? table.split : 6;
    const bytes = table.twoLevel ? 8 * 2 ** Math.max(3, log2size - this.#split) : STE_BYTES * 2 ** log2size;
    this.#table = { ...table, log2size, base: alignDown(table.base, Math.max(64, bytes)) };
  }

  /** A cached stream, without fetching. */
  cached(sid: number): Smmuv3HwStream | null {
    return this.#streams.get(sid, 0);
  }

  /** The route of a translating transaction seen since configuration last changed; null: ask `find`. */
  route(sid: number, ssid: number): Route | null {
    const r = this.#routes[(sid ^ (sid >> 8) ^ ssid) & (ROUTES - 1)]!;
    return r.sid === sid && r.ssid === ssid && r.epoch === this.#epoch ? r : null;
  }

  /** Remembers the last `find`, which ended well, as a route. */
  #keepRoute(sid: number, ssid: number): number {
    const s = this.stream!;
    if (this.#cacheless || (this.context === null && (s.s1 || !s.s2))) return 0;
    const r = this.#routes[(sid ^ (sid >> 8) ^ ssid) & (ROUTES - 1)]!;
    r.sid = sid;
    r.ssid = ssid;
    r.epoch = this.#epoch;
    r.stream = s;
    r.context = this.context;
    return 0;
  }

  /**
   * The configuration of one transaction (IHI 0070 §3.3, §7.3.22 for the order of faults).
   * @param ssid SubstreamID, or -1.
   * @returns 0, or the event code. A stage-2 fault of the CD fetch is described by the walker's fields.
   */
  find(sid: number, ssid: number): number {
    this.unset = false;
    const r = this.route(sid, ssid);
    if (r !== null && r.stream.context2!.tag !== 0 && (r.context === null || r.context.context!.tag !== 0)) {
      this.stream = r.stream;
      this.context = r.context;
      return 0;
    }
    this.context = null;
    let s = this.#streams.get(sid, 0);
    if (s === null) {
      s = this.#streams.claim(sid, 0);
      this.#epoch++;
      const bad = this.#fetchStream(s, sid);
      if (bad !== 0) {
        this.stream = null;
        return bad;
      }
      s.stamp = ++this.#stamp;
      this.#streams.keep(s);
    }
    this.stream = s;
    if (s.context2 === null || s.context2.tag === 0) s.context2 = this.#tlb.context(s.vmid, -1);
    if (s.config < CONFIG.BYPASS) return 0;
    if (ssid >= 0) {
      if (!s.s1 || s.s1CdMax === 0 || ssid >= POW2[s.s1CdMax]!) return EVENT.C_BAD_SUBSTREAMID;
      if (ssid === 0 && s.s1Dss === S1DSS.SSID0) return EVENT.F_STREAM_DISABLED;
    } else {
      if (!s.s1) return this.#keepRoute(sid, ssid);
      if (s.s1CdMax > 0 && s.s1Dss !== S1DSS.SSID0) return s.s1Dss === S1DSS.BYPASS ? 0 : EVENT.F_STREAM_DISABLED;
    }
    const bad = this.#findContext(s, Math.max(0, ssid));
    return bad === 0 ? this.#keepRoute(sid, ssid) : bad;
  }

  #findContext(s: Smmuv3HwStream, ssid: number): number {
    let c = this.#contexts.get(s.keyA, ssid);
    if (c === null || c.stamp !== s.stamp) {
      c = this.#contexts.claim(s.keyA, ssid);
      this.#epoch++;
      const bad = this.#fetchContext(c, s, ssid);
      if (bad !== 0) return bad;
      c.stamp = s.stamp;
      this.#contexts.keep(c);
    }
    if (c.context === null || c.context.tag === 0) {
      c.context = this.#tlb.context(c.vmid, c.regime.asid);
      // Making a context may have forgotten all others.
      if (s.context2!.tag === 0) s.context2 = this.#tlb.context(s.vmid, -1);
    }
    this.context = c;
    return 0;
  }

  #fetchStream(s: Smmuv3HwStream, sid: number): number {
    const t = this.#table;
    if (sid >= POW2[t.log2size]!) return EVENT.C_BAD_STREAMID;
    this.fetch = t.base + sid * STE_BYTES;
    if (t.twoLevel) {
      this.fetch = t.base + (sid >>> this.#split) * 8;
      if (!this.#memory.load64(this.fetch)) return EVENT.F_STE_FETCH;
      const lo = this.#memory.lo;
      const hi = this.#memory.hi;
      const span = l1StdSpan(lo);
      this.unset = span === 0;
      if (span === 0 || span > this.#split + 1) return EVENT.C_BAD_STREAMID;
      const entries = 1 << (span - 1);
      const within = sid & ((1 << this.#split) - 1);
      if (within >= entries) return EVENT.C_BAD_STREAMID;
      this.fetch = alignDown(l1StdL2Ptr(lo, hi), Math.max(64, entries * STE_BYTES)) + within * STE_BYTES;
    }
    if (!fetchWords(this.#memory, this.fetch, s.words, STE_WORDS)) return EVENT.F_STE_FETCH;
    this.unset = !steValid(s.words, 0);
    const bad = checkSte(s.words, 0, this.#features, this.atschk);
    if (bad === 0) decodeStream(s, this.#features);
    return bad;
  }

  #fetchContext(c: Smmuv3HwContext, s: Smmuv3HwStream, ssid: number): number {
    const f = this.#features;
    // Taken from the STE's words here: as a field or a result it would be a number on the heap.
    const table = (s.words[1]! & 0xf_ffff) * TWO32 + ((s.words[0]! & ~0x3f) >>> 0);
    this.fetch = table + ssid * CD_BYTES;
    if (s.s1CdMax > 0 && (s.s1Fmt === S1FMT.L2_4K || s.s1Fmt === S1FMT.L2_64K)) {
      const split = s.s1Fmt === S1FMT.L2_4K ? CD_SPLIT_4K : CD_SPLIT_64K;
      this.fetch = table + (ssid >>> split) * 8;
      const fault = this.#throughStage2(s);
      if (fault !== 0) return fault;
      if (!this.#memory.load64(this.fetch)) return EVENT.F_CD_FETCH;
      const lo = this.#memory.lo;
      const l2 = l1CdL2Ptr(lo, this.#memory.hi);
      if (!l1CdValid(lo) || l2 >= POW2[f.oas]!) return EVENT.C_BAD_SUBSTREAMID;
      this.fetch = l2 + (ssid & ((1 << split) - 1)) * CD_BYTES;
    }
    const fault = this.#throughStage2(s);
    if (fault !== 0) return fault;
    if (!fetchWords(this.#memory, this.fetch, c.words, CD_WORDS)) return EVENT.F_CD_FETCH;
    const bad = checkCd(c.words, 0, f, s.stalld);
    if (bad === 0) decodeContext(c, f, s.vmid, this.#choices);
    return bad;
  }

  /** Turns `fetch`, an address of the CD table, into a physical one: stage 2 applies when it is enabled. */
  #throughStage2(s: Smmuv3HwStream): number {
    if (!s.s2) return 0;
    const w = this.#walker;
    const fault = w.stage2Words(s.regime2, this.fetch | 0, (this.fetch / TWO32) | 0, READ, CLASS.CD);
    this.fetch = w.outHi * TWO32 + (w.outLo >>> 0);
    return fault;
  }

  dropStream(sid: number): void {
    this.#epoch++;
    this.#streams.drop(sid, 0);
  }

  /** StreamIDs [first, first + count). */
  dropStreams(first: number, count: number): void {
    this.#epoch++;
    this.#streams.dropRange(first, count);
  }

  dropAll(): void {
    this.#epoch++;
    this.#streams.dropAll();
    this.#contexts.dropAll();
  }

  dropContext(sid: number, ssid: number): void {
    this.#epoch++;
    this.#contexts.drop(sid, ssid);
  }

  dropContexts(sid: number): void {
    this.#epoch++;
    const s = this.#streams.get(sid, 0);
    if (s !== null) s.stamp = ++this.#stamp;
  }

  save(): Smmuv3HwTablesData {
    return {
      stamp: this.#stamp,
      streams: this.#streams.live().map((s) => ({ sid: s.keyA, stamp: s.stamp, words: Array.from(s.words) })),
      contexts: this.#contexts
        .live()
        .map((c) => ({ sid: c.keyA, ssid: c.keyB, stamp: c.stamp, vmid: c.vmid, words: Array.from(c.words) })),
    };
  }

  load(data: Smmuv3HwTablesData): void {
    this.dropAll();
    this.#stamp = data.stamp;
    for (const { sid, stamp, words } of data.streams) {
      const s = this.#streams.claim(sid, 0);
      s.words.set(words);
      decodeStream(s, this.#features);
      s.stamp = stamp;
      this.#streams.keep(s);
    }
    for (const { sid, ssid, stamp, vmid, words } of data.contexts) {
      const c = this.#contexts.claim(sid, ssid);
      c.words.set(words);
      c.stamp = stamp;
      decodeContext(c, this.#features, vmid, this.#choices);
      this.#contexts.keep(c);
    }
  }
}
