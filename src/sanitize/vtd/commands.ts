import { POW2 } from '../../core/bits.ts';
import {
  CONTEXT_G,
  INV,
  type InvType,
  IOTLB_G,
  inv,
  invType,
  PASID_CACHE_G,
  PASID_IOTLB_G,
} from '../../spec/vtd/invalidation.ts';
import type { Caches } from '../caches.ts';
import type { ConfigCaches } from '../config.ts';
import { type DeviceTlbs, sizedRange } from '../device-tlbs.ts';
import type { PageRequestRules } from '../requests.ts';
import { type SeenInvalidation, wholeInvalidation } from '../stale.ts';

/** Kinds of stages in tags: second stage (domain id), first stage, both of a nested PASID together (domain id, PASID). */
export const VTD_STAGE = { SECOND: 0, FIRST: 1, BOTH: 2 } as const;
/** Kinds of configuration that global invalidations alone reach: registers that point to tables. */
export const ROOT_POINTER = 'root table pointer';
export const IRT_POINTER = 'interrupt table pointer';
const SECOND = 1 << VTD_STAGE.SECOND;
const FIRST = 1 << VTD_STAGE.FIRST;
const BOTH = 1 << VTD_STAGE.BOTH;

/** Function bits that a context-cache invalidation by device leaves out of the comparison, by FM (VT-d §6.5.2.1). */
const FM_MASK = [0xffff, 0xfffb, 0xfff9, 0xfff8] as const;

/** What a descriptor or a register invalidates, said to the caches (VT-d §6.5). */
export class VtdInvalidations {
  readonly #caches: Caches;
  readonly #config: ConfigCaches;
  readonly #devices: DeviceTlbs;
  readonly #requests: PageRequestRules;
  /** Scalable mode: context-cache invalidation by domain acts as global. */
  scalable = false;

  constructor(caches: Caches, config: ConfigCaches, devices: DeviceTlbs, requests: PageRequestRules) {
    this.#requests = requests;
    this.#caches = caches;
    this.#devices = devices;
    this.#config = config;
  }

  /** @returns whether the descriptor is one that invalidates. */
  run(seq: number, w0: number, w1: number, w2: number, w3: number): boolean {
    const g = inv.granularity(w0);
    const did = inv.did(w0);
    const type = invType(w0) as InvType;
    switch (type) {
      case INV.CONTEXT:
        this.context(seq, g, did, inv.sid(w1), inv.fm(w1));
        return true;
      case INV.IOTLB:
        this.iotlb(seq, g, did, inv.page(w2, w3), inv.am(w2), inv.ih(w2));
        return true;
      case INV.PASID_IOTLB: {
        const pasid = inv.pasid(w1);
        const i = wholeInvalidation(seq, FIRST | BOTH, did, pasid);
        if (g === PASID_IOTLB_G.PAGE) pages(i, inv.page(w2, w3), inv.am(w2), inv.ih(w2));
        else this.#caches.invalidate(wholeInvalidation(seq, SECOND, did, -1));
        this.#caches.invalidate(i);
        return true;
      }
      case INV.PASID_CACHE: {
        const pasid = inv.pasid(w1);
        this.#config.invalidate(seq, (c) => {
          if (!c.kind.startsWith('PASID')) return false;
          if (g === PASID_CACHE_G.GLOBAL) return true;
          return c.did === did && (g === PASID_CACHE_G.DOMAIN || c.pasid < 0 || c.pasid === pasid);
        });
        return true;
      }
      case INV.IEC: {
        const first = inv.iecIndex(w1);
        const last = first + POW2[inv.iecMask(w0)]! - 1;
        const all = !inv.iecSelective(w0);
        this.#config.invalidate(
          seq,
          (c) =>
            (c.kind === 'IRTE' && (all || (c.pasid >= first && c.pasid <= last))) || (all && c.kind === IRT_POINTER),
        );
        return true;
      }
      case INV.DEVICE_TLB: {
        const [from, to] = sizedRange(w2, w3, inv.deviceS(w2));
        this.#devices.invalidate(seq, inv.sid(w1), -1, from, to, false);
        return true;
      }
      case INV.PASID_DEVICE_TLB: {
        const [from, to] = sizedRange(w2, w3, inv.pasidDeviceS(w2));
        this.#devices.invalidate(seq, inv.sidLow(w0), inv.pasid(w1), from, to, inv.pasidDeviceG(w2));
        return true;
      }
      case INV.PAGE_GROUP_RESPONSE:
        this.#requests.answered(inv.sidLow(w0), inv.responsePP(w0) ? inv.pasid(w1) : -1, inv.responseGroup(w2));
        return false;
      case INV.WAIT:
        return false;
      default:
        return reserved(type);
    }
  }

  context(seq: number, g: number, did: number, sid: number, fm: number): void {
    const mask = FM_MASK[fm as 0 | 1 | 2 | 3];
    const all = g === CONTEXT_G.GLOBAL || (g === CONTEXT_G.DOMAIN && this.scalable);
    this.#config.invalidate(seq, (c) => {
      if (all) return c.kind === 'context entry' || c.kind === 'root entry' || c.kind === ROOT_POINTER;
      if (c.kind !== 'context entry') return false;
      if (!this.scalable && c.did !== did) return false;
      return g === CONTEXT_G.DOMAIN || ((c.stream ^ sid) & mask) === 0;
    });
  }

  /** VT-d §6.5.2.3: by page it names second-stage entries; what is of a first stage goes by domain, whatever the address. */
  iotlb(seq: number, g: number, did: number, page: number, am: number, ih: boolean): void {
    const all = g === IOTLB_G.GLOBAL;
    const i = wholeInvalidation(seq, SECOND, all ? -1 : did, -1);
    if (g === IOTLB_G.PAGE) pages(i, page, am, ih);
    this.#caches.invalidate(i);
    this.#caches.invalidate(wholeInvalidation(seq, FIRST | BOTH, all ? -1 : did, -1));
  }
}

/** The 2^am pages around `page`: address bits below the mask are taken as zero. */
function pages(i: SeenInvalidation, page: number, am: number, ih: boolean): void {
  const count = POW2[Math.min(am, 52)]!;
  i.from = page - (page % count);
  i.to = i.from + count - 1;
  i.leafOnly = ih;
}

/** A type that no descriptor has. A type of the specification without a case above does not compile here. */
function reserved(_type: never): boolean {
  return false;
}
