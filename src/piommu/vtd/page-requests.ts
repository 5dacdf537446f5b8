import type { Iotlb } from '../../lib/cache/iotlb.ts';
import type { VtdFeatures } from '../../lib/check/vtd-features.ts';
import { ACCESS, AT, type EndpointPort } from '../../ports/dma.ts';
import type { HwEvents } from '../../ports/hw.ts';
import { FAULT } from '../../spec/vtd/faults.ts';
import { pageRequestWord0, pageRequestWord1, pageRequestWord2, RESPONSE } from '../../spec/vtd/page-request.ts';
import { TTM } from '../../spec/vtd/registers.ts';
import { PGTT } from '../../spec/vtd/tables.ts';
import type { VtdHwFaults } from './faults.ts';
import { invalidatePages } from './forget.ts';
import type { VtdHwRegisters } from './registers.ts';
import type { VtdHwResolver } from './resolver.ts';
import type { VtdHwStream } from './stream.ts';
import type { VtdHwTables } from './tables.ts';

/** 32-bit words of a page request record. */
const RECORD_WORDS = 8;

export interface VtdHwPageRequestsParts {
  readonly features: VtdFeatures;
  readonly registers: VtdHwRegisters;
  readonly tables: VtdHwTables;
  readonly resolver: VtdHwResolver;
  readonly faults: VtdHwFaults;
  readonly iotlb: Iotlb;
  readonly events: HwEvents;
  /** null: no function answers messages. */
  readonly endpoints: EndpointPort | null;
}

/** Page request messages (VT-d §7.4): judged, then handed to the host or answered by the unit itself. */
export class VtdHwPageRequests {
  readonly #p: VtdHwPageRequestsParts;

  constructor(parts: VtdHwPageRequestsParts) {
    this.#p = parts;
  }

  /** The last request of a refused group is answered at once, others vanish (VT-d §7.4). */
  request(rid: number, pasid: number, lo: number, hi: number, access: number, group: number, last: boolean): void {
    const { features, registers, events, endpoints } = this.#p;
    const on = registers.enabled && features.pageRequests;
    const slot = on ? this.#accept(rid, pasid, lo, hi, access) : null;
    if (slot === null) {
      if (last) endpoints?.pageResponse(rid, pasid, group, RESPONSE.INVALID);
      return;
    }
    this.#forget(slot, lo, hi);
    if (!registers.interruptsForPageRequests) return;
    const record = new Int32Array(RECORD_WORDS);
    record[0] = pageRequestWord0(rid, pasid);
    record[1] = pageRequestWord1(pasid, (access & ACCESS.EXEC) !== 0, (access & ACCESS.PRIV) !== 0);
    record[2] = pageRequestWord2(lo, group, (access & ACCESS.READ) !== 0, (access & ACCESS.WRITE) !== 0, last);
    record[3] = hi;
    events.pageRequest(record);
  }

  /** @returns null: refused, and recorded as a fault. */
  #accept(rid: number, pasid: number, lo: number, hi: number, access: number): VtdHwStream | null {
    const { registers, tables, resolver, faults } = this.#p;
    const refuse = (reason: number, fpd: boolean): null => {
      faults.report({ reason, fpd }, rid, pasid, lo, hi, access, AT.UNTRANSLATED, true);
      return null;
    };
    if (registers.ttm === TTM.LEGACY) return refuse(FAULT.PAGE_REQUEST_IN_LEGACY, false);
    const context = tables.context(rid);
    if (context === null) return refuse(tables.reason, tables.fpd);
    if (!context.pre) return refuse(FAULT.SM_PRE, context.fpd);
    const slot = resolver.resolve(rid, pasid);
    return slot ?? refuse(resolver.reason, resolver.fpd);
  }

  /** Cached translations of the page go before the request can be seen (VT-d §7.4). */
  #forget(slot: VtdHwStream, lo: number, hi: number): void {
    const { iotlb } = this.#p;
    const r = slot.regime;
    if (r.pgtt === PGTT.FIRST) iotlb.invalidateRange(slot.tags, lo & ~0xfff, hi, 1, true);
    else if (r.pgtt === PGTT.PASS_THROUGH) iotlb.invalidateDomain(r.did, true);
    else invalidatePages(iotlb, r.did, lo & ~0xfff, hi, 0, true);
  }

  /** A page-group response descriptor. */
  respond(rid: number, pasid: number, group: number, code: number): void {
    this.#p.endpoints?.pageResponse(rid, pasid, group, code);
  }
}
