import type { Iotlb } from '../../lib/cache/iotlb.ts';
import type { TlbContext } from '../../lib/cache/tags.ts';
import type { Smmuv3Features } from '../../lib/check/smmuv3-features.ts';
import { ATTR_DEVICE, type VmsaWalker } from '../../lib/walk/vmsa.ts';
import { PERM_ALL, PERM_PRIV_SHIFT } from '../../lib/walk/vmsa-regime.ts';
import { ACCESS } from '../../ports/dma.ts';
import type { HwEvents } from '../../ports/hw.ts';
import { CLASS, EVENT } from '../../spec/smmuv3/events.ts';
import { CONFIG } from '../../spec/smmuv3/ste.ts';
import type { Smmuv3HwContext, Smmuv3HwStream } from './stream.ts';
import type { Smmuv3HwTables } from './tables.ts';

/** Outcomes of `resolve` besides event codes (> 0). */
export const RESOLVED = { OK: 0, ABORT: -1, BYPASS: -2 } as const;

/** Which stages a request asks for; NONE stops when the configuration is found. */
export const STAGES = { ALL: 0, ONLY_1: 1, ONLY_2: 2, NONE: 3 } as const;

/** Different (page, access) pairs asked for during one request; far more than a nested walk has. */
const MAX_ASKED = 64;

export interface Smmuv3HwResolverParts {
  readonly tables: Smmuv3HwTables;
  readonly walker: VmsaWalker;
  readonly tlb: Iotlb;
  /** Who is asked about missing streams and stage-2 pages. */
  readonly events: HwEvents;
  readonly features: Smmuv3Features;
}

/**
 * One request from configuration to translation, with the questions to the host: a missing stream and a stage-2 miss are
 * reported before they become a fault, each once, and looked at again.
 */
export class Smmuv3HwResolver {
  readonly #tables: Smmuv3HwTables;
  readonly #walker: VmsaWalker;
  readonly #tlb: Iotlb;
  readonly #events: HwEvents;
  /** Bits of the upper address word. */
  readonly #limitShift: number;
  readonly #asked = new Float64Array(MAX_ASKED);
  #askedCount = 0;
  /** The caller has just looked the address up and found nothing: the first try need not. */
  looked = false;
  /** The translation came from the cache. */
  hit = false;
  /** Output address in words. */
  outLo = 0;
  outHi = 0;
  outShift = 0;
  /** PERM bits. */
  perm = 0;
  guestShift = 0;
  tag = -1;
  /** 0: the fault belongs to configuration; 1, 2: to that stage. */
  stage = 0;

  constructor(parts: Smmuv3HwResolverParts) {
    this.#tables = parts.tables;
    this.#walker = parts.walker;
    this.#tlb = parts.tlb;
    this.#events = parts.events;
    this.#limitShift = parts.features.oas - 32;
  }

  /**
   * @param need PERM bits. @param access ACCESS bits of the request, for the host.
   * @param stages a STAGES value.
   * @returns RESOLVED or the event code; on OK and BYPASS the fields hold the translation.
   */
  resolve(sid: number, ssid: number, lo: number, hi: number, need: number, access: number, stages: number): number {
    let askedStream = false;
    this.#askedCount = 0;
    for (;;) {
      const code = this.#once(sid, ssid, lo, hi, need, stages);
      this.looked = false;
      if (code <= 0) return code;
      if (this.#tables.unset) {
        if (askedStream) return code;
        askedStream = true;
        if (!this.#events.streamMiss(sid, ssid)) return code;
      } else if (this.stage === 2 && (code === EVENT.F_TRANSLATION || code === EVENT.F_PERMISSION)) {
        if (!this.#askStageTwo(sid, ssid, lo, hi, access)) return code;
      } else return code;
    }
  }

  #askStageTwo(sid: number, ssid: number, lo: number, hi: number, access: number): boolean {
    const w = this.#walker;
    const bits = (w.need | (w.need >>> PERM_PRIV_SHIFT)) & 7;
    const wanted = bits === 0 ? access & 7 : bits;
    const key = Math.floor(w.ipa / 4096) * 8 + wanted;
    for (let i = 0; i < this.#askedCount; i++) if (this.#asked[i] === key) return false;
    if (this.#askedCount === MAX_ASKED) return false;
    this.#asked[this.#askedCount++] = key;
    // The callback may use this unit (commands), so everything it needs is taken out first.
    const ipa = w.ipa;
    return this.#events.stageTwoMiss(sid, ssid, ipa, wanted | (access & ACCESS.PRIV), lo, hi);
  }

  #once(sid: number, ssid: number, lo: number, hi: number, need: number, stages: number): number {
    const tables = this.#tables;
    const bad = tables.find(sid, ssid);
    this.hit = false;
    if (bad !== 0) {
      // The walker describes a stage-2 fault of the CD fetch; every other configuration fault has no stage.
      this.stage = bad >= EVENT.F_TRANSLATION || bad === EVENT.F_WALK_EABT ? 2 : 0;
      return bad;
    }
    const s = tables.stream!;
    if (s.config < CONFIG.BYPASS) return RESOLVED.ABORT;
    if (stages === STAGES.NONE) return RESOLVED.BYPASS;
    const c = stages === STAGES.ONLY_2 ? null : tables.context;
    if (c !== null) return this.#stage1(s, c, lo, hi, need, stages === STAGES.ONLY_1);
    return this.#bypass1(s, lo, hi, need, stages !== STAGES.ONLY_1);
  }

  #stage1(s: Smmuv3HwStream, c: Smmuv3HwContext, lo: number, hi: number, need: number, split: boolean): number {
    const w = this.#walker;
    const context = c.context!;
    const half = (hi & (1 << 23)) !== 0 ? c.regime.half1 : c.regime.half0;
    const top = half.tbi ? (hi << 8) >> 8 : hi;
    this.tag = c.regime.asid;
    const canonical = top >> 23 === 0 || top >> 23 === -1;
    if (!split && canonical && this.#cached(context, lo, top, need)) return RESOLVED.OK;
    w.context1 = context;
    w.context2 = s.context2;
    w.split = split;
    const fault = w.stage1(c.regime, s.s2 ? s.regime2 : null, lo, hi, need);
    w.split = false;
    if (fault !== 0) {
      this.stage = w.stage;
      return fault;
    }
    this.#take();
    if (!split) {
      this.#tlb.insertWords(context, lo, top, w.outLo, w.outHi, w.outShift, w.perm, w.guestShift, 0);
      if (w.global) this.#tlb.markGlobal(context);
    }
    return RESOLVED.OK;
  }

  /** Stage 1 does not take part: stage 2 alone, or the address as it is. */
  #bypass1(s: Smmuv3HwStream, lo: number, hi: number, need: number, stage2: boolean): number {
    const w = this.#walker;
    this.tag = -1;
    if (hi >>> this.#limitShift !== 0) {
      this.stage = 1;
      w.cls = CLASS.IN;
      return EVENT.F_ADDR_SIZE;
    }
    if (!s.s2 || !stage2) {
      this.outLo = lo;
      this.outHi = hi;
      this.outShift = 12;
      this.perm = PERM_ALL;
      this.guestShift = 0;
      return RESOLVED.BYPASS;
    }
    const context = s.context2!;
    if (this.#cached(context, lo, hi, need)) return RESOLVED.OK;
    const fault = w.stage2Words(s.regime2, lo, hi, need, CLASS.IN);
    if (fault !== 0) {
      this.stage = w.stage;
      return fault;
    }
    this.#take();
    const attr = w.device ? ATTR_DEVICE : 0;
    this.#tlb.insertWords(context, lo, hi, w.outLo, w.outHi, w.outShift, w.perm, 0, attr);
    return RESOLVED.OK;
  }

  #cached(context: TlbContext, lo: number, hi: number, need: number): boolean {
    const tlb = this.#tlb;
    if (this.looked || !tlb.lookup(context, lo, hi) || (need & ~tlb.perm) !== 0) return false;
    this.hit = true;
    this.outLo = tlb.outLo;
    this.outHi = tlb.outHi;
    this.outShift = tlb.shift;
    this.perm = tlb.perm;
    this.guestShift = tlb.guestShift;
    return true;
  }

  #take(): void {
    const w = this.#walker;
    this.outLo = w.outLo;
    this.outHi = w.outHi;
    this.outShift = w.outShift;
    this.perm = w.perm;
    this.guestShift = w.guestShift;
  }
}
