/**
 * What the register half asks for when the guest invalidates or switches something. Every verb is complete when it
 * returns, up to `outstanding()` device-TLB completions. Page numbers count 4 KiB pages, < 2^52.
 */
export interface Backend {
  /** TE, the root table or its mode changed: everything known about streams is void. */
  translationChanged(): void;
  /** Context-cache: G as in the descriptor; `fm` masks function bits of `sid`. */
  invalidateContext(g: number, did: number, sid: number, fm: number): void;
  /** IOTLB without PASID: 2^am pages from `page` for a page-selective request. */
  invalidateIotlb(g: number, did: number, page: number, am: number): void;
  invalidatePasidIotlb(g: number, did: number, pasid: number, page: number, am: number, leaf: boolean): void;
  invalidatePasidCache(g: number, did: number, pasid: number): void;
  /**
   * Device TLB of a source id. `pasid` -1: without. Address words as in the descriptor, S put at bit 11 of `lo` as on
   * the bus.
   */
  invalidateDeviceTlb(sid: number, pasid: number, lo: number, hi: number, global: boolean): void;
  /** VCMD freed a PASID: whatever still hangs on it goes, and is drained. */
  pasidFreed(pasid: number): void;
  /** Answer to a page request group; `pasid` -1: without. */
  respond(sid: number, pasid: number, group: number, code: number): void;
  /** Device-TLB completions still missing. */
  outstanding(): number;
}

/** A unit without devices behind it: registers, queue and interrupt remapping only. */
export const NO_BACKEND: Backend = {
  translationChanged() {},
  invalidateContext() {},
  invalidateIotlb() {},
  invalidatePasidIotlb() {},
  invalidatePasidCache() {},
  invalidateDeviceTlb() {},
  pasidFreed() {},
  respond() {},
  outstanding: () => 0,
};

/** What SRTP and TE latched: how the unit finds its tables (VT-d §11.4.4, §11.4.5). */
export interface TableRoot {
  /** TES. */
  on: boolean;
  /** Root table, bytes. */
  base: number;
  /** Bits of RTADDR above the host address width, as a word (for the unreadable-root check). */
  high: number;
  /** TTM as latched. */
  mode: number;
}
