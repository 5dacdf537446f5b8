import { TWO32, toBigint } from '../../core/bits.ts';
import type { Iotlb } from '../../lib/cache/iotlb.ts';
import type { VtdFeatures } from '../../lib/check/vtd-features.ts';
import { inInterruptWindow } from '../../lib/walk/vtd.ts';
import { ACCESS, AT, DMA, NO_PASID, type TranslatePort } from '../../ports/dma.ts';
import type { Tell } from '../../ports/tell.ts';
import { FAULT } from '../../spec/vtd/faults.ts';
import { PGTT } from '../../spec/vtd/tables.ts';
import type { VtdHwFault, VtdHwFaults } from './faults.ts';
import type { VtdHwRegisters } from './registers.ts';
import type { VtdHwResolver } from './resolver.ts';
import type { VtdHwStream } from './stream.ts';
import type { VtdHwTables } from './tables.ts';

const RW = ACCESS.READ | ACCESS.WRITE;

export interface VtdHwTranslationParts {
  readonly name: string;
  readonly features: VtdFeatures;
  readonly registers: VtdHwRegisters;
  readonly iotlb: Iotlb;
  readonly tables: VtdHwTables;
  readonly resolver: VtdHwResolver;
  readonly faults: VtdHwFaults;
}

/** What becomes of a transaction: a cached translation, a walk, a fault, an interrupt, or the address as it is. */
export class VtdHwTranslation implements TranslatePort {
  out = 0;
  outShift = 0;
  outPerm = 0;
  guestShift = 0;
  tag = -1;
  tell: Tell | null = null;
  readonly #p: VtdHwTranslationParts;
  readonly #registers: VtdHwRegisters;
  readonly #tables: VtdHwTables;
  readonly #iotlb: Iotlb;
  readonly #resolver: VtdHwResolver;

  constructor(parts: VtdHwTranslationParts) {
    this.#p = parts;
    this.#registers = parts.registers;
    this.#tables = parts.tables;
    this.#iotlb = parts.iotlb;
    this.#resolver = parts.resolver;
  }

  translate(rid: number, pasid: number, lo: number, hi: number, access: number, at: number): number {
    if (pasid === NO_PASID && hi === 0 && lo >>> 20 === 0xfee) return this.#interruptWindow(rid, lo, access, at);
    if (at !== AT.UNTRANSLATED || !this.#registers.enabled) return this.#unwalked(rid, pasid, lo, hi, access, at);
    const resolver = this.#resolver;
    const slot = this.#tables.cached(rid, pasid) ?? resolver.resolve(rid, pasid);
    if (slot === null) return this.#refuse(resolver, rid, pasid, lo, hi, access, at);
    const asked = slot.priv ? access | ACCESS.PRIV : access;
    if (slot.regime.pgtt !== PGTT.PASS_THROUGH && this.#hit(slot, lo, hi, asked)) {
      if (this.tell !== null) this.#say(rid, pasid, lo, hi, access, true);
      return DMA.OK;
    }
    if (!resolver.walk(slot, rid, pasid, lo, hi, asked)) return this.#refuse(resolver, rid, pasid, lo, hi, access, at);
    this.out = resolver.out;
    this.outShift = resolver.outShift;
    this.outPerm = resolver.outPerm;
    this.guestShift = resolver.guestShift;
    this.tag = resolver.tag;
    if (this.tell !== null) this.#say(rid, pasid, lo, hi, access, false);
    return DMA.OK;
  }

  /** A cached translation that grants the access. Bits the cache does not keep (63:57) must be the sign, or 0. */
  #hit(slot: VtdHwStream, lo: number, hi: number, access: number): boolean {
    const tlb = this.#iotlb;
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
    return true;
  }

  /** A write without PASID is an interrupt message; anything else to the window is refused (VT-d §3.15). */
  #interruptWindow(rid: number, lo: number, access: number, at: number): number {
    if (at === AT.UNTRANSLATED && (access & RW) === ACCESS.WRITE) {
      this.out = lo >>> 0;
      return DMA.INTERRUPT;
    }
    return this.#refuse({ reason: FAULT.IR_REQUEST_TYPE, fpd: false }, rid, NO_PASID, lo, 0, access, at);
  }

  /** Requests that need no walk: translation is off, or the function translated the address itself. */
  #unwalked(rid: number, pasid: number, lo: number, hi: number, access: number, at: number): number {
    this.out = (hi >>> 0) * TWO32 + (lo >>> 0);
    this.outShift = 12;
    this.outPerm = RW;
    this.guestShift = 0;
    this.tag = -1;
    if (!this.#registers.enabled) {
      return at === AT.UNTRANSLATED && pasid === NO_PASID && hi >>> 20 === 0 ? DMA.OK : DMA.ABORT;
    }
    const tables = this.#tables;
    const context = tables.context(rid);
    if (context === null) return this.#refuse(tables, rid, pasid, lo, hi, access, at);
    if (at !== AT.TRANSLATED || !context.dte || !this.#p.features.deviceTlb) {
      const reason = context.scalable ? FAULT.SM_DTE : FAULT.TRANSLATION_BLOCKED;
      return this.#refuse({ reason, fpd: context.fpd }, rid, pasid, lo, hi, access, at);
    }
    return inInterruptWindow(lo, hi) || hi >>> 20 !== 0 ? DMA.ABORT : DMA.OK;
  }

  #refuse(fault: VtdHwFault, rid: number, pasid: number, lo: number, hi: number, access: number, at: number): number {
    this.#p.faults.report(fault, rid, pasid, lo, hi, access, at, false);
    return DMA.ABORT;
  }

  #say(rid: number, pasid: number, lo: number, hi: number, access: number, hit: boolean): void {
    this.tell?.({
      what: 'translate',
      iommu: this.#p.name,
      rid,
      pasid,
      iova: toBigint(lo, hi),
      access,
      out: this.out,
      shift: this.outShift,
      hit,
    });
  }
}
