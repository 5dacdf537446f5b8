import type { Iotlb } from '../../lib/cache/iotlb.ts';
import type { TlbContext } from '../../lib/cache/tags.ts';
import type { WalkCache } from '../../lib/walk/vtd-second.ts';

/** log2 bytes under one last-level table. */
const REGION = 21;

/** The paging-structure cache of one stage, in the context of the request at hand. */
export class ContextWalks implements WalkCache {
  readonly #iotlb: Iotlb;
  #context: TlbContext;
  tableLo = 0;
  tableHi = 0;
  attr = 0;

  constructor(iotlb: Iotlb, context: TlbContext) {
    this.#iotlb = iotlb;
    this.#context = context;
  }

  set context(context: TlbContext) {
    this.#context = context;
  }

  find(lo: number, hi: number): boolean {
    const tlb = this.#iotlb;
    if (!tlb.lookupWalk(this.#context, lo, hi, REGION)) return false;
    this.tableLo = tlb.tableLo;
    this.tableHi = tlb.tableHi;
    this.attr = tlb.attr;
    return true;
  }

  keep(lo: number, hi: number, tableLo: number, tableHi: number, attr: number): void {
    this.#iotlb.insertWalk(this.#context, lo, hi, REGION, tableLo, tableHi, attr);
  }
}
