import type { Iotlb } from '../../lib/cache/iotlb.ts';
import type { VtdFeatures } from '../../lib/check/vtd-features.ts';
import { NO_PASID } from '../../ports/dma.ts';
import {
  CONTEXT_G,
  INV,
  type InvalidationType,
  type InvType,
  IOTLB_G,
  inv,
  invalidationType,
  invType,
  PASID_CACHE_G,
  PASID_IOTLB_G,
  WAIT_PD,
} from '../../spec/vtd/invalidation.ts';
import { TTM } from '../../spec/vtd/registers.ts';
import type { VtdHwDeviceTlb } from './device-tlb.ts';
import { invalidatePages } from './forget.ts';
import type { VtdHwPageRequests } from './page-requests.ts';
import type { VtdHwRegisters } from './registers.ts';
import type { VtdHwTables } from './tables.ts';

/** Types a descriptor can name: seven bits. */
const TYPES = 128;
const ABSENT = 0;
const ALWAYS = 1;
/** In scalable mode only. */
const SCALABLE = 2;

export interface VtdHwCommandsParts {
  readonly features: VtdFeatures;
  readonly registers: VtdHwRegisters;
  readonly tables: VtdHwTables;
  readonly iotlb: Iotlb;
  readonly deviceTlb: VtdHwDeviceTlb;
  readonly pages: VtdHwPageRequests;
  /** Context, IOTLB, PASID-IOTLB and PASID-cache descriptors have no effect. */
  readonly ignoreInvalidations: boolean;
}

/**
 * Executes invalidation descriptors on the caches with the reach of VT-d §6.5. The kind of a translation is part of its
 * context's id: even for second-stage and pass-through, odd for first-stage and nested ones.
 */
export class VtdHwCommands {
  readonly #features: VtdFeatures;
  /** By type: ABSENT, ALWAYS or SCALABLE; and the reserved bits of words 0 to 3, four words a type. */
  readonly #kinds = new Uint8Array(TYPES);
  readonly #reserved = new Int32Array(TYPES * 4);
  readonly #registers: VtdHwRegisters;
  readonly #tables: VtdHwTables;
  readonly #iotlb: Iotlb;
  readonly #deviceTlb: VtdHwDeviceTlb;
  readonly #pages: VtdHwPageRequests;
  readonly #ignore: boolean;

  constructor(parts: VtdHwCommandsParts) {
    this.#features = parts.features;
    this.#registers = parts.registers;
    this.#tables = parts.tables;
    this.#iotlb = parts.iotlb;
    this.#deviceTlb = parts.deviceTlb;
    this.#pages = parts.pages;
    this.#ignore = parts.ignoreInvalidations;
    for (let type = 0; type < TYPES; type++) this.#learn(type);
  }

  /** The table's row of a type as this unit has it; every descriptor is held against it. */
  #learn(type: number): void {
    const f = this.#features;
    const row: InvalidationType | undefined = invalidationType(type);
    if (row === undefined || !f.has(row.needs)) return;
    this.#kinds[type] = row.scalable ? SCALABLE : ALWAYS;
    this.#reserved.set(row.reserved, type * 4);
    if (type === INV.WAIT && f.pageRequestDrain) this.#reserved[type * 4]! &= ~WAIT_PD;
  }

  /**
   * One descriptor at word `at`.
   * @param wide 256-bit descriptors.
   * @returns false: invalid, IQE (VT-d §6.5.2.11).
   */
  run(q: Int32Array, at: number, wide: boolean): boolean {
    const w0 = q[at]!;
    const w1 = q[at + 1]!;
    const w2 = q[at + 2]!;
    const w3 = q[at + 3]!;
    const type = invType(w0);
    if (!this.#legal(type, w0, w1, w2, w3)) return false;
    if (wide && (q[at + 4]! | q[at + 5]! | q[at + 6]! | q[at + 7]!) !== 0) return false;
    const known = type as InvType;
    switch (known) {
      case INV.CONTEXT:
        return this.#context(w0, w1);
      case INV.IOTLB:
        return this.#iotlbDescriptor(w0, w2, w3);
      case INV.DEVICE_TLB:
        this.#deviceTlb.invalidate(w1, w2, w3);
        return true;
      case INV.IEC:
      case INV.WAIT:
        return true;
      case INV.PASID_IOTLB:
        return this.#pasidIotlb(w0, w1, w2, w3);
      case INV.PASID_CACHE:
        return this.#pasidCache(w0, w1);
      case INV.PASID_DEVICE_TLB:
        this.#deviceTlb.invalidatePasid(w0, w1, w2, w3);
        return true;
      case INV.PAGE_GROUP_RESPONSE:
        return this.#pageGroupResponse(w0, w1, w2);
      default:
        return reserved(known);
    }
  }

  #pageGroupResponse(w0: number, w1: number, w2: number): boolean {
    const pasid = inv.responsePP(w0) ? inv.pasid(w1) : NO_PASID;
    this.#pages.respond(inv.sidLow(w0), pasid, inv.responseGroup(w2), inv.responseCode(w0));
    return true;
  }

  /** Type and reserved fields. */
  #legal(type: number, w0: number, w1: number, w2: number, w3: number): boolean {
    const kind = this.#kinds[type]!;
    if (kind === ABSENT || (kind === SCALABLE && this.#registers.ttm === TTM.LEGACY)) return false;
    const r = this.#reserved;
    const at = type * 4;
    return ((w0 & r[at]!) | (w1 & r[at + 1]!) | (w2 & r[at + 2]!) | (w3 & r[at + 3]!)) === 0;
  }

  #context(w0: number, w1: number): boolean {
    const g = inv.granularity(w0);
    if (g === 0) return false;
    if (this.#ignore) return true;
    // Domain-selective acts as global in scalable mode: its entries name no domain.
    if (g === CONTEXT_G.GLOBAL || (g === CONTEXT_G.DOMAIN && this.#registers.ttm !== TTM.LEGACY))
      this.#tables.dropContexts();
    else if (g === CONTEXT_G.DOMAIN) this.#tables.dropContextsOf(inv.did(w0));
    else this.#tables.dropDevice(inv.sid(w1), inv.fm(w1));
    return true;
  }

  /** Type 2. First-stage and nested translations of the domain go whatever the address. */
  #iotlbDescriptor(w0: number, w2: number, w3: number): boolean {
    const g = inv.granularity(w0);
    const am = inv.am(w2);
    if (g === 0 || (g === IOTLB_G.PAGE && (am > this.#features.mamv || !this.#features.psi))) return false;
    if (this.#ignore) return true;
    const did = inv.did(w0);
    if (g === IOTLB_G.GLOBAL) this.#iotlb.invalidateAll();
    else if (g === IOTLB_G.DOMAIN) this.#iotlb.invalidateDomain(did, true);
    else invalidatePages(this.#iotlb, did, w2, w3, am, inv.ih(w2));
    return true;
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
    if (g === PASID_CACHE_G.GLOBAL) this.#tables.dropPasids();
    else if (g === PASID_CACHE_G.DOMAIN) this.#tables.dropPasidsOf(inv.did(w0), -1);
    else this.#tables.dropPasidsOf(inv.did(w0), inv.pasid(w1));
    return true;
  }
}

/** A type that no descriptor has. A type of the specification without a case above does not compile here. */
function reserved(_type: never): boolean {
  return false;
}
