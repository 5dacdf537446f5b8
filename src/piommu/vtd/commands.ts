import type { Iotlb } from '../../lib/cache/iotlb.ts';
import { NO_PASID } from '../../ports/dma.ts';
import {
  CONTEXT_G,
  INV,
  INV_RESERVED,
  IOTLB_G,
  inv,
  invType,
  PASID_CACHE_G,
  PASID_IOTLB_G,
  WAIT_PD,
} from '../../spec/vtd/invalidation.ts';
import { TTM } from '../../spec/vtd/registers.ts';
import type { DeviceTlb } from './device-tlb.ts';
import type { VtdTranslation } from './translation.ts';

/**
 * Executes invalidation descriptors on the caches with the reach of VT-d §6.5. The kind of a translation is part of its
 * context's id: even for second-stage and pass-through, odd for first-stage and nested ones.
 */
export class VtdInvalidation {
  readonly #t: VtdTranslation;
  readonly #iotlb: Iotlb;
  readonly #deviceTlb: DeviceTlb;
  readonly #ignore: boolean;
  /** Answers to page requests on their way out. */
  readonly #respond: (rid: number, pasid: number, group: number, code: number) => void;

  constructor(
    translation: VtdTranslation,
    deviceTlb: DeviceTlb,
    ignore: boolean,
    respond: (rid: number, pasid: number, group: number, code: number) => void,
  ) {
    this.#t = translation;
    this.#iotlb = translation.iotlb;
    this.#deviceTlb = deviceTlb;
    this.#ignore = ignore;
    this.#respond = respond;
  }

  /**
   * One descriptor at word `at`.
   * @param wide 256-bit descriptors.
   * @returns false: invalid, IQE (VT-d §6.5.2.10).
   */
  run(q: Int32Array, at: number, wide: boolean): boolean {
    const w0 = q[at]!;
    const w1 = q[at + 1]!;
    const w2 = q[at + 2]!;
    const w3 = q[at + 3]!;
    const type = invType(w0);
    if (!this.#legal(type, w0, w1, w2, w3)) return false;
    if (wide && (q[at + 4]! | q[at + 5]! | q[at + 6]! | q[at + 7]!) !== 0) return false;
    switch (type) {
      case INV.CONTEXT:
        return this.#context(w0, w1);
      case INV.IOTLB:
        return this.#iotlbDescriptor(w0, w2, w3);
      case INV.DEVICE_TLB:
        // S moves from bit 0 to bit 11, where the ATS message has it.
        this.#deviceTlb.send(inv.sid(w1), NO_PASID, (w2 & ~0xfff) | (inv.deviceS(w2) ? 0x800 : 0), w3, false);
        return true;
      case INV.IEC:
      case INV.WAIT:
        return true;
      case INV.PASID_IOTLB:
        return this.#pasidIotlb(w0, w1, w2, w3);
      case INV.PASID_CACHE:
        return this.#pasidCache(w0, w1);
      case INV.PASID_DEVICE_TLB:
        this.#deviceTlb.send(inv.sidLow(w0), inv.pasid(w1), (w2 & ~0xfff) | (w2 & 0x800), w3, inv.pasidDeviceG(w2));
        return true;
      default:
        this.#respond(
          inv.sidLow(w0),
          inv.responsePP(w0) ? inv.pasid(w1) : NO_PASID,
          inv.responseGroup(w2),
          inv.responseCode(w0),
        );
        return true;
    }
  }

  /** Type and reserved fields. Types 6 to 9 exist in scalable mode only. */
  #legal(type: number, w0: number, w1: number, w2: number, w3: number): boolean {
    const unit = this.#t.unit;
    if (type === 0 || type > INV.PAGE_GROUP_RESPONSE) return false;
    if (type >= INV.PASID_IOTLB && this.#t.ttm === TTM.LEGACY) return false;
    if ((type === INV.DEVICE_TLB || type === INV.PASID_DEVICE_TLB) && !unit.deviceTlb) return false;
    if (type === INV.PAGE_GROUP_RESPONSE && !unit.pageRequests) return false;
    const r = INV_RESERVED[type]!;
    const first = type === INV.WAIT && unit.pageRequestDrain ? r[0] & ~WAIT_PD : r[0];
    return ((w0 & first) | (w1 & r[1]) | (w2 & r[2]) | (w3 & r[3])) === 0;
  }

  #context(w0: number, w1: number): boolean {
    const g = inv.granularity(w0);
    if (g === 0) return false;
    if (this.#ignore) return true;
    // Domain-selective acts as global in scalable mode: its entries name no domain.
    if (g === CONTEXT_G.GLOBAL || (g === CONTEXT_G.DOMAIN && this.#t.ttm !== TTM.LEGACY)) this.#t.contexts.dropAll();
    else if (g === CONTEXT_G.DOMAIN) this.#t.contexts.dropDomain(inv.did(w0));
    else this.#t.contexts.dropDevice(inv.sid(w1), inv.fm(w1));
    return true;
  }

  /** Type 2. First-stage and nested translations of the domain go whatever the address. */
  #iotlbDescriptor(w0: number, w2: number, w3: number): boolean {
    const g = inv.granularity(w0);
    const am = inv.am(w2);
    if (g === 0 || (g === IOTLB_G.PAGE && (am > this.#t.unit.mamv || !this.#t.unit.psi))) return false;
    if (this.#ignore) return true;
    const did = inv.did(w0);
    if (g === IOTLB_G.GLOBAL) this.#iotlb.invalidateAll();
    else if (g === IOTLB_G.DOMAIN) this.#iotlb.invalidateDomain(did, true);
    else this.pages(did, w2, w3, am, inv.ih(w2));
    return true;
  }

  /** 2^am pages of a domain; the address is rounded down to that size. */
  pages(did: number, lo: number, hi: number, am: number, leaf: boolean): void {
    const list = this.#iotlb.contextsOf(did);
    const start = am >= 20 ? 0 : lo & (-1 << (am + 12));
    const top = am >= 20 ? hi & (am >= 52 ? 0 : -1 << (am - 20)) : hi;
    for (let i = 0; i < list.length; i++) {
      const c = list[i]!;
      if ((c.id & 1) !== 0) this.#iotlb.invalidateContext(c);
      else this.#iotlb.invalidateRange(c, start, top, 2 ** am, leaf);
    }
  }

  /** Type 6. Any AM is legal; page-selective leaves second-stage translations alone. */
  #pasidIotlb(w0: number, w1: number, w2: number, w3: number): boolean {
    const g = inv.granularity(w0);
    if (g !== PASID_IOTLB_G.PASID && g !== PASID_IOTLB_G.PAGE) return false;
    if (this.#ignore) return true;
    const tlb = this.#iotlb;
    const did = inv.did(w0);
    const id = inv.pasid(w1) * 2;
    const first = tlb.findContext(did, id + 1);
    const am = inv.am(w2);
    if (g === PASID_IOTLB_G.PASID) {
      const second = tlb.findContext(did, id);
      if (second !== null) tlb.invalidateContext(second);
      if (first !== null) tlb.invalidateContext(first);
    } else if (first !== null) {
      const start = am >= 20 ? 0 : w2 & ~0xfff & (-1 << (am + 12));
      const top = am >= 20 ? w3 & (am >= 52 ? 0 : -1 << (am - 20)) : w3;
      tlb.invalidateRange(first, start, top, 2 ** am, inv.ih(w2));
    }
    return true;
  }

  #pasidCache(w0: number, w1: number): boolean {
    const g = inv.granularity(w0);
    if (g === 2) return false;
    if (this.#ignore) return true;
    if (g === PASID_CACHE_G.GLOBAL) this.#t.pasids.dropAll();
    else if (g === PASID_CACHE_G.DOMAIN) this.#t.pasids.dropDomain(inv.did(w0));
    else this.#t.pasids.dropPasid(inv.did(w0), inv.pasid(w1));
    return true;
  }
}
