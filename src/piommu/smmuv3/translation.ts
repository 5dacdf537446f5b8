import { TWO32, toBigint } from '../../core/bits.ts';
import type { Iotlb } from '../../lib/cache/iotlb.ts';
import type { Smmuv3Features } from '../../lib/check/smmuv3-features.ts';
import { PERM_ALL, permGranted, permNeeded } from '../../lib/walk/vmsa-regime.ts';
import { AT, DMA, type TranslatePort } from '../../ports/dma.ts';
import type { Tell } from '../../ports/tell.ts';
import { EVENT } from '../../spec/smmuv3/events.ts';
import { CR0, CR2 } from '../../spec/smmuv3/registers.ts';
import { CONFIG, EATS } from '../../spec/smmuv3/ste.ts';
import type { Smmuv3HwFaults } from './faults.ts';
import type { Smmuv3HwRegisters } from './registers.ts';
import { RESOLVED, type Smmuv3HwResolver, STAGES } from './resolver.ts';
import type { Smmuv3HwStalls, StalledAccess } from './stalls.ts';
import type { Smmuv3HwTables } from './tables.ts';

/** Times in a row that software may answer a stall by a retry while it reads the record; then the transaction aborts. */
const RETRIES = 8;

export interface Smmuv3HwTranslationParts {
  readonly name: string;
  readonly features: Smmuv3Features;
  readonly registers: Smmuv3HwRegisters;
  readonly tlb: Iotlb;
  readonly tables: Smmuv3HwTables;
  readonly resolver: Smmuv3HwResolver;
  readonly faults: Smmuv3HwFaults;
  readonly stalls: Smmuv3HwStalls;
  /** See `PhysicalSmmuv3Options.reach`. */
  readonly reach: ((rid: number, address: number) => boolean) | undefined;
}

/** What becomes of a transaction: a cached translation, a walk, a fault, or the address as it is. */
export class Smmuv3HwTranslation implements TranslatePort {
  out = 0;
  outShift = 0;
  outPerm = 0;
  guestShift = 0;
  tag = -1;
  /** Token of the transaction when `translate` answered STALLED. */
  stallToken = 0;
  readonly #p: Smmuv3HwTranslationParts;
  readonly #tables: Smmuv3HwTables;
  readonly #tlb: Iotlb;
  #tell: Tell | null = null;
  /** CR0.SMMUEN, CR0.ATSCHK, CR2.RECINVSID, CR2.REC_CFG_ATS as programmed. */
  #enabled = false;
  #checksTranslated = false;
  #recordsBadStream = false;
  #recordsAts = false;
  /** Every transaction takes the long way: somebody listens, or the SMMU is off. */
  #careful = true;
  #retries = 0;

  constructor(parts: Smmuv3HwTranslationParts) {
    this.#p = parts;
    this.#tables = parts.tables;
    this.#tlb = parts.tlb;
  }

  set tell(tell: Tell | null) {
    this.#tell = tell;
    this.#careful = tell !== null || !this.#enabled;
  }

  /** Registers have changed. */
  programmed(): void {
    const { registers } = this.#p;
    this.#enabled = registers.enabled(CR0.SMMUEN);
    this.#checksTranslated = registers.enabled(CR0.ATSCHK);
    this.#recordsBadStream = registers.control2(CR2.RECINVSID);
    this.#recordsAts = this.#p.features.atsRecErr && registers.control2(CR2.REC_CFG_ATS);
    this.#careful = this.#tell !== null || !this.#enabled;
  }

  translate(rid: number, pasid: number, lo: number, hi: number, access: number, at: number): number {
    const route = this.#tables.route(rid, pasid);
    if (route === null || at !== AT.UNTRANSLATED || this.#careful) return this.#slow(rid, pasid, lo, hi, access, at);
    const tlb = this.#tlb;
    const need = permNeeded(access);
    const c = route.context;
    if (c === null) {
      if (hi >>> 20 === 0 && tlb.lookup(route.stream.context2!, lo, hi) && (need & ~tlb.perm) === 0) {
        return this.#hit(access, -1);
      }
    } else {
      const half = (hi & (1 << 23)) !== 0 ? c.regime.half1 : c.regime.half0;
      const high = half.tbi ? (hi << 8) >> 8 : hi;
      const top = high >> 23;
      if ((top === 0 || top === -1) && tlb.lookup(c.context!, lo, high) && (need & ~tlb.perm) === 0) {
        return this.#hit(access, c.regime.asid);
      }
    }
    this.#p.resolver.looked = true;
    return this.#slow(rid, pasid, lo, hi, access, at);
  }

  #hit(access: number, tag: number): number {
    const tlb = this.#tlb;
    this.out = tlb.outHi * TWO32 + (tlb.outLo >>> 0);
    this.outShift = tlb.shift;
    this.outPerm = permGranted(tlb.perm, access);
    this.guestShift = tlb.guestShift;
    this.tag = tag;
    return DMA.OK;
  }

  #slow(rid: number, pasid: number, lo: number, hi: number, access: number, at: number): number {
    if (at === AT.TRANSLATED) return this.#translated(rid, pasid, lo, hi, access);
    if (!this.#enabled) return this.#p.registers.bypassAborts ? DMA.ABORT : this.#identity(lo, hi, access);
    const code = this.#p.resolver.resolve(rid, pasid, lo, hi, permNeeded(access), access, STAGES.ALL);
    if (code === RESOLVED.OK || code === RESOLVED.BYPASS) return this.#answer(rid, pasid, lo, hi, access);
    if (code === RESOLVED.ABORT) return DMA.ABORT;
    return this.#fault(code, rid, pasid, lo, hi, access);
  }

  #answer(rid: number, pasid: number, lo: number, hi: number, access: number): number {
    const r = this.#p.resolver;
    this.out = (r.outHi >>> 0) * TWO32 + (r.outLo >>> 0);
    this.outShift = r.outShift;
    this.outPerm = permGranted(r.perm, access);
    this.guestShift = r.guestShift;
    this.tag = r.tag;
    if (this.#tell !== null) {
      this.#tell({
        what: 'translate',
        iommu: this.#p.name,
        rid,
        pasid,
        iova: toBigint(lo, hi),
        access,
        out: this.out,
        shift: r.outShift,
        hit: r.hit,
      });
    }
    return DMA.OK;
  }

  #identity(lo: number, hi: number, access: number): number {
    this.out = (hi >>> 0) * TWO32 + (lo >>> 0);
    this.outShift = 12;
    this.outPerm = permGranted(PERM_ALL, access);
    this.guestShift = 0;
    this.tag = -1;
    return hi >>> 20 === 0 ? DMA.OK : DMA.ABORT;
  }

  /** Records a fault as far as it must be, and decides the transaction (IHI 0070 §3.12, §7.3). */
  #fault(code: number, rid: number, pasid: number, lo: number, hi: number, access: number): number {
    const { tables, faults, stalls, resolver } = this.#p;
    const s = tables.stream;
    const stage = resolver.stage;
    if (stage === 0) {
      this.#configurationFault(code, rid, pasid);
      return DMA.ABORT;
    }
    const c = tables.context;
    const maskable = code !== EVENT.F_WALK_EABT && s !== null;
    const stall = this.#stalls(code);
    const record = faults.translation(code, stage, rid, pasid, lo, hi, access);
    if (stall && faults.enabled && stalls.room) {
      const outcome = stalls.begin({ rid, pasid, lo, hi, access }, record);
      this.stallToken = stalls.token;
      return outcome === DMA.OK ? this.#retry(rid, pasid, lo, hi, access) : outcome;
    }
    // Nobody would ever resume a stall that is not recorded; one that finds no room is terminated, with its event.
    if (stall) {
      if (faults.enabled) faults.send(record);
      return DMA.ABORT;
    }
    if (!maskable || (stage === 2 ? s.s2Record : c?.record !== false)) faults.send(record);
    return maskable && stage === 1 && c?.abort === false ? DMA.RAZ_WI : DMA.ABORT;
  }

  /** Software had the transaction tried again at once. */
  #retry(rid: number, pasid: number, lo: number, hi: number, access: number): number {
    if (this.#retries >= RETRIES) return DMA.ABORT;
    this.#retries++;
    const outcome = this.#slow(rid, pasid, lo, hi, access, AT.UNTRANSLATED);
    this.#retries--;
    return outcome;
  }

  /** The event record of a stalled transaction that is looked at again; null: it would translate, or fault without stalling. */
  again({ rid, pasid, lo, hi, access }: StalledAccess): Int32Array | null {
    const { resolver, faults } = this.#p;
    if (!this.#enabled) return null;
    const code = resolver.resolve(rid, pasid, lo, hi, permNeeded(access), access, STAGES.ALL);
    if (code <= 0 || resolver.stage === 0 || !this.#stalls(code)) return null;
    return faults.translation(code, resolver.stage, rid, pasid, lo, hi, access);
  }

  /** Whether the fault that the resolver has just met stalls (IHI 0070 §3.12.2). */
  #stalls(code: number): boolean {
    const { stream, context } = this.#p.tables;
    if (code === EVENT.F_WALK_EABT || stream === null) return false;
    // A stage 1 that is bypassed has no CD that could say otherwise: recorded and aborted.
    return this.#p.resolver.stage === 2 ? stream.s2Stall : context?.stall === true;
  }

  /** @param ats of a translated access: recorded if CR2.REC_CFG_ATS asks for it (IHI 0070 §6.3.12). */
  #configurationFault(code: number, rid: number, pasid: number, ats = false): void {
    if (code === EVENT.C_BAD_STREAMID && !this.#recordsBadStream) return;
    if (ats && !this.#recordsAts) return;
    this.#p.faults.configuration(code, rid, pasid, this.#tables.fetch, ats);
  }

  /** A request that says it is translated already (IHI 0070 §3.9.1.3). */
  #translated(rid: number, pasid: number, lo: number, hi: number, access: number): number {
    const { features, resolver, reach } = this.#p;
    if (!this.#enabled || !features.ats) return this.#forbidden(rid, pasid, lo, hi, access);
    if (!this.#checksTranslated) return this.#identity(lo, hi, access);
    const code = resolver.resolve(rid, pasid, lo, hi, 0, access, STAGES.NONE);
    const s = this.#tables.stream;
    if (s !== null && s.config < CONFIG.BYPASS) return DMA.ABORT;
    // F_TRANSL_FORBIDDEN comes before the substream faults.
    if (s !== null && (s.config === CONFIG.BYPASS || s.eats === EATS.ABORT || s.eats === EATS.DPT)) {
      return this.#forbidden(rid, pasid, lo, hi, access);
    }
    if (s === null || code === EVENT.C_BAD_SUBSTREAMID || code === EVENT.F_STREAM_DISABLED) {
      this.#configurationFault(code, rid, pasid, true);
      return DMA.ABORT;
    }
    if (s.eats !== EATS.SPLIT) {
      const address = (hi >>> 0) * TWO32 + (lo >>> 0);
      // What no stage 2 of the VM maps was never given out: a stale or an invented address.
      if (reach?.(rid, address) === false) return this.#forbidden(rid, pasid, lo, hi, access);
      return this.#identity(lo, hi, access);
    }
    const outcome = resolver.resolve(rid, pasid, lo, hi, permNeeded(access), access, STAGES.ONLY_2);
    if (outcome > 0) return this.#fault(outcome, rid, pasid, lo, hi, access);
    return outcome === RESOLVED.ABORT ? DMA.ABORT : this.#answer(rid, pasid, lo, hi, access);
  }

  #forbidden(rid: number, pasid: number, lo: number, hi: number, access: number): number {
    this.#p.faults.forbidden(rid, pasid, lo, hi, access);
    return DMA.ABORT;
  }
}
