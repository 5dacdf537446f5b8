/** Access bits of a request, as every walker, cache and message uses them. */
export const ACCESS = { READ: 1, WRITE: 2, EXEC: 4, PRIV: 8 } as const;

/** PCIe address type of a memory request (PCIe AT field). */
export const AT = { UNTRANSLATED: 0, TRANSLATION_REQUEST: 1, TRANSLATED: 2 } as const;

/** No PASID prefix on the request. */
export const NO_PASID = -1;

/** What became of a request at the physical IOMMU. */
export const DMA = {
  /** Translated: the result fields of the port are valid. */
  OK: 0,
  /** Terminated with an abort (completer abort / unsupported request towards the endpoint). */
  ABORT: 1,
  /** Terminated without an error: reads give 0, writes vanish (SMMUv3 CD.A=0). */
  RAZ_WI: 2,
  /** Stalled (SMMUv3): the answer comes through `DmaEvents.resumed`. */
  STALLED: 3,
  /** x86: the address is in the interrupt window; the bus hands the write to the interrupt remapper. */
  INTERRUPT: 4,
} as const;

/**
 * Bus → physical IOMMU: one address of one request. Synchronous and allocation-free; results are fields, valid until the
 * next call. `rid` is the requester id (StreamID); an address travels as hi/lo words.
 */
export interface TranslatePort {
  /**
   * @param pasid PASID/SubstreamID, or NO_PASID.
   * @param access ACCESS bits of the request.
   * @param at AT value: untranslated or translated.
   * @returns a DMA value.
   */
  translate(rid: number, pasid: number, lo: number, hi: number, access: number, at: number): number;
  /** Host-physical address of the request's byte. */
  readonly out: number;
  /** log2 bytes of the combined mapping that contains it (the translation holds for the whole of it). */
  readonly outShift: number;
  /** ACCESS bits the mapping allows. */
  readonly outPerm: number;
  /** log2 bytes of the first (guest) stage's mapping alone; 0 when that stage did not take part. */
  readonly guestShift: number;
  /** ASID (SMMUv3) or domain id (VT-d) the translation was tagged with as the hardware knows it; -1 when none. */
  readonly tag: number;
  /** Names the stalled transaction when the answer was STALLED; hardware without stalls leaves it away. */
  readonly stallToken?: number;
}

/** Answer to a translation request (PCIe ATS completion). */
export const ATS = { SUCCESS: 0, UR: 1, CA: 4 } as const;

/**
 * Bus → physical IOMMU, the ATS and PRI half. Request and completion formats: PCIe ATS; rules: IHI 0070 §3.9.1,
 * VT-d §4.1–§4.2.
 */
export interface AtsPort {
  /**
   * A translation request for one address.
   * @param access READ | WRITE (absent = NW) | EXEC | PRIV as asked for.
   * @returns an ATS value; on SUCCESS the `ats*` fields hold the completion (atsPerm 0: not mapped).
   */
  translationRequest(rid: number, pasid: number, lo: number, hi: number, access: number): number;
  /** Translated address (bytes) of the byte asked about. */
  readonly atsOut: number;
  /** log2 bytes of the range the completion covers. */
  readonly atsShift: number;
  /** ACCESS bits granted. */
  readonly atsPerm: number;
  /** U bit: use untranslated requests only. N bit: no snoop. */
  readonly atsUntranslated: boolean;
  /** N bit: no snoop. */
  readonly atsNoSnoop: boolean;
  /**
   * An invalidation completion from the endpoint.
   * @param itags bit i: ITag i completed.
   * @param count CC, completions to expect (0 means 8).
   */
  invalidateCompletion(rid: number, itags: number, count: number): void;
  /**
   * A page request message. `access` 0 with `last` and a PASID is a stop marker.
   * @param group PRG index, 0..511.
   */
  pageRequest(rid: number, pasid: number, lo: number, hi: number, access: number, group: number, last: boolean): void;
}

/** Physical IOMMU → bus: messages to functions. Delivery may take (virtual) time. */
export interface EndpointPort {
  /**
   * An invalidation request. Address and size use the ATS encoding (bit 11 of `lo` is S).
   * The function answers with `AtsPort.invalidateCompletion`.
   * @returns false when no function answers at `rid` (a UR comes back).
   */
  invalidate(rid: number, pasid: number, itag: number, lo: number, hi: number, global: boolean): boolean;
  /** Answer to a page request group: code 0 success, 1 invalid request, 15 response failure. `pasid` NO_PASID: none. */
  pageResponse(rid: number, pasid: number, group: number, code: number): void;
  /**
   * A stalled transaction (SMMUv3) is decided.
   * @param token the `stallToken` the IOMMU gave when it answered STALLED.
   * @param outcome DMA value; OK means retry the access.
   */
  resumed(rid: number, token: number, outcome: number): void;
}

/** VT-d interrupt remapping as the bus asks for it (devices/vtd implements it; VT-d §5). */
export interface InterruptRemapPort {
  /**
   * @param rid requester id, or the IOAPIC's source id.
   * @returns true: deliver `outAddress`/`outData`; false: blocked (and recorded as a fault if it must be).
   */
  remap(rid: number, address: number, data: number): boolean;
  /** A write without PASID to the interrupt range that is not one aligned DWORD: it is no interrupt, and goes nowhere. */
  refused?(rid: number): void;
  /** The interrupt last remapped is in the descriptor it is posted to, and nobody is to be told of it now: nothing is delivered. */
  readonly posted?: boolean;
  /** Address of the message to deliver. */
  readonly outAddress: number;
  /** Data of the message to deliver. */
  readonly outData: number;
}
