/**
 * Intel D51397 revision 5.10 (Virtualization Technology for Directed I/O, architecture specification): invalidation
 * descriptors, §6.5.
 */

/** One type of invalidation descriptor, as software writes it. */
export interface InvalidationType {
  /** Type of the descriptor. */
  readonly type: number;
  /** Under which recordings count it. */
  readonly name: string;
  /**
   * Reserved bits of words 0 to 3 (words 4 to 7 of a 256-bit descriptor are reserved throughout). PD of a wait is reserved
   * without ECAP.PDS only, see `WAIT_PD`. MIP [20:16] of a device-TLB descriptor counts as defined although it is reserved
   * without ECAP.DIT: Linux always fills it in.
   */
  readonly reserved: readonly [number, number, number, number];
  /** Belongs to scalable mode, and has 256 bits. */
  readonly scalable: boolean;
  /** ECAP bit without which there is no such descriptor. */
  readonly needs: 'DT' | 'PRS' | null;
  /** What each value of G [5:4] stands for; null: the type has none. */
  readonly granularities: readonly [string, string, string, string] | null;
}

/**
 * The invalidation descriptors (VT-d §6.5.2). Everything that depends on the type of a descriptor
 * follows from this table: `INV`, names, what is legal; and whoever executes or decodes one does not compile with a type left out.
 */
// biome-ignore format: table
export const INVALIDATIONS = {
  CONTEXT:    { type: 1, name: 'context-cache', reserved: [0x0000_f1c0, 0xfffc_0000 | 0, -1, -1], scalable: false, needs: null,
                granularities: ['reserved', 'global', 'domain', 'device'] },
  IOTLB:      { type: 2, name: 'iotlb', reserved: [0x0000_f100, -1, 0xf80, 0], scalable: false, needs: null,
                granularities: ['reserved', 'global', 'domain', 'page'] },
  DEVICE_TLB: { type: 3, name: 'device', reserved: [0xffe0_f1f0 | 0, 0xffff_0000 | 0, 0xffe, 0], scalable: false, needs: 'DT',
                granularities: null },
  IEC:        { type: 4, name: 'iec', reserved: [0x07ff_f1e0, 0xffff_0000 | 0, -1, -1], scalable: false, needs: null,
                granularities: null },
  WAIT:       { type: 5, name: 'wait', reserved: [0xffff_f180 | 0, 0, 3, 0], scalable: false, needs: null,
                granularities: null },
  PASID_IOTLB: { type: 6, name: 'p-iotlb', reserved: [0x0000_f1c0, 0xfff0_0000 | 0, 0xf80, 0], scalable: true, needs: null,
                granularities: ['reserved', 'reserved', 'pasid', 'page'] },
  PASID_CACHE: { type: 7, name: 'pasid-cache', reserved: [0x0000_f1c0, 0xfff0_0000 | 0, -1, -1], scalable: true, needs: null,
                granularities: ['domain', 'pasid', 'reserved', 'global'] },
  PASID_DEVICE_TLB: { type: 8, name: 'p-device', reserved: [0x0000_f000, 0xfff0_0000 | 0, 0x7fe, 0], scalable: true, needs: 'DT',
                granularities: null },
  PAGE_GROUP_RESPONSE: { type: 9, name: 'page-response', reserved: [0x0000_01e0, 0xfff0_0000 | 0, 0xffff_f003 | 0, -1],
                scalable: true, needs: 'PRS', granularities: null },
} as const satisfies Readonly<Record<string, InvalidationType>>;

/** The table, by name of the descriptor. */
export type InvalidationRows = typeof INVALIDATIONS;
/** A type of descriptor that there is. */
export type InvType = InvalidationRows[keyof InvalidationRows]['type'];

/** Types by name: bits {11:9, 3:0} of word 0. */
export const INV = Object.fromEntries(Object.entries(INVALIDATIONS).map(([key, row]) => [key, row.type])) as {
  readonly [K in keyof InvalidationRows]: InvalidationRows[K]['type'];
};

const BY_TYPE: readonly (InvalidationRows[keyof InvalidationRows] | undefined)[] = Array.from(
  { length: 0x80 },
  (_, type) => Object.values(INVALIDATIONS).find((row) => row.type === type),
);

/** How many type numbers are in use: `INVALIDATIONS` by type fits an array of this length. */
export const INV_TYPES: number = Math.max(...Object.values(INVALIDATIONS).map((row) => row.type)) + 1;

/** The row of a descriptor's type (`invType`); undefined: there is none. */
export function invalidationType(type: number): InvalidationRows[keyof InvalidationRows] | undefined {
  return BY_TYPE[type];
}

/** Type of a descriptor whose word 0 is `w0`. */
export function invType(w0: number): number {
  return (w0 & 0xf) | ((w0 >>> 5) & 0x70);
}

/** Whether G of a descriptor has a meaning for its type. */
export function isGranularity(row: InvalidationType, g: number): boolean {
  return row.granularities === null || row.granularities[g] !== 'reserved';
}

/** Granularities of the types that have them. */
export const CONTEXT_G = { GLOBAL: 1, DOMAIN: 2, DEVICE: 3 } as const;
/** Granularities of IOTLB. */
export const IOTLB_G = { GLOBAL: 1, DOMAIN: 2, PAGE: 3 } as const;
/** Granularities of PASID_IOTLB. */
export const PASID_IOTLB_G = { PASID: 2, PAGE: 3 } as const;
/** Granularities of PASID_CACHE. */
export const PASID_CACHE_G = { DOMAIN: 0, PASID: 1, GLOBAL: 3 } as const;

/**
 * Fields of descriptors as words w0 (lo 31:0), w1 (lo 63:32), w2 (hi 31:0), w3 (hi 63:32). A page number is the address
 * field [63:12]; ranges are wanted as words, because a device-TLB range can end beyond 2^53 (S=1, all pages).
 */
export const inv = {
  granularity: (w0: number): number => (w0 >>> 4) & 3,
  /** DID[31:16] of context-cache, IOTLB, PASID-IOTLB and PASID-cache descriptors. */
  did: (w0: number): number => w0 >>> 16,
  /** Context-cache: SID[47:32], FM[49:48]. */
  sid: (w1: number): number => w1 & 0xffff,
  fm: (w1: number): number => (w1 >>> 16) & 3,
  /** PASID[51:32] of types 6 to 9. */
  pasid: (w1: number): number => w1 & 0xf_ffff,
  /** SID[31:16] of types 8 and 9. */
  sidLow: (w0: number): number => w0 >>> 16,
  am: (w2: number): number => w2 & 0x3f,
  ih: (w2: number): boolean => (w2 & 0x40) !== 0,
  /** Address [63:12] as a page number, 52 bits. */
  page: (w2: number, w3: number): number => (w3 >>> 0) * 0x10_0000 + (w2 >>> 12),
  /** Device TLB, type 3: S is bit 0 of hi. */
  deviceS: (w2: number): boolean => (w2 & 1) !== 0,
  /** Device TLB with PASID, type 8: G is bit 0 and S bit 11 of hi. */
  pasidDeviceG: (w2: number): boolean => (w2 & 1) !== 0,
  pasidDeviceS: (w2: number): boolean => (w2 & 0x800) !== 0,
  iecSelective: (w0: number): boolean => (w0 & 0x10) !== 0,
  iecMask: (w0: number): number => w0 >>> 27,
  iecIndex: (w1: number): number => w1 & 0xffff,
  waitIF: (w0: number): boolean => (w0 & 0x10) !== 0,
  waitSW: (w0: number): boolean => (w0 & 0x20) !== 0,
  waitFN: (w0: number): boolean => (w0 & 0x40) !== 0,
  waitPD: (w0: number): boolean => (w0 & 0x80) !== 0,
  responsePP: (w0: number): boolean => (w0 & 0x10) !== 0,
  responseCode: (w0: number): number => (w0 >>> 12) & 0xf,
  responseGroup: (w2: number): number => (w2 >>> 3) & 0x1ff,
} as const;

/** Reserved bits of words 0 to 3 by type; a type that is none has nothing else. */
export const INV_RESERVED: readonly (readonly [number, number, number, number])[] = Array.from(
  { length: INV_TYPES },
  (_, type) => BY_TYPE[type]?.reserved ?? [-1, -1, -1, -1],
);

/** PD of a wait descriptor: page-request drain, defined with ECAP.PDS. */
export const WAIT_PD = 0x80;

/** Names recordings count descriptors under; '' for a type that is none. */
export const INV_NAME: readonly string[] = Array.from({ length: INV_TYPES }, (_, type) => BY_TYPE[type]?.name ?? '');

/** A descriptor as an object, for listings, traces and tests. Pages are page numbers, addresses bigint. */
export type InvalidationDescriptor =
  | {
      readonly op: 'context-cache';
      readonly granularity: string;
      readonly did: number;
      readonly sid: number;
      readonly fm: number;
    }
  | {
      readonly op: 'iotlb';
      readonly granularity: string;
      readonly did: number;
      readonly page: number;
      readonly am: number;
      readonly ih: boolean;
    }
  | { readonly op: 'device'; readonly sid: number; readonly address: bigint; readonly size: boolean }
  | { readonly op: 'iec'; readonly granularity: string; readonly index: number; readonly mask: number }
  | {
      readonly op: 'wait';
      readonly interrupt: boolean;
      readonly fence: boolean;
      readonly drain: boolean;
      readonly status: { readonly address: bigint; readonly data: number } | null;
    }
  | {
      readonly op: 'p-iotlb';
      readonly granularity: string;
      readonly did: number;
      readonly pasid: number;
      readonly page: number;
      readonly am: number;
      readonly ih: boolean;
    }
  | { readonly op: 'pasid-cache'; readonly granularity: string; readonly did: number; readonly pasid: number }
  | {
      readonly op: 'p-device';
      readonly sid: number;
      readonly pasid: number;
      readonly address: bigint;
      readonly size: boolean;
      readonly global: boolean;
    }
  | {
      readonly op: 'page-response';
      readonly sid: number;
      readonly pasid: number;
      readonly group: number;
      readonly code: number;
    }
  | { readonly op: 'unknown'; readonly type: number };

/** Decodes for listings, traces and tests (allocates; reserved bits are not judged). `words`: 4 or 8 of a descriptor from `start`. */
export function decodeInvalidation(words: ArrayLike<number>, start = 0): InvalidationDescriptor {
  const w0 = words[start] ?? 0;
  const w1 = words[start + 1] ?? 0;
  const w2 = words[start + 2] ?? 0;
  const w3 = words[start + 3] ?? 0;
  const g = inv.granularity(w0);
  const address = (mask: number): bigint => (BigInt(w3 >>> 0) << 32n) | BigInt((w2 & mask) >>> 0);
  const row = invalidationType(invType(w0));
  if (row === undefined) return { op: 'unknown', type: invType(w0) };
  switch (row.type) {
    case INV.CONTEXT:
      return {
        op: 'context-cache',
        granularity: row.granularities[g]!,
        did: inv.did(w0),
        sid: inv.sid(w1),
        fm: inv.fm(w1),
      };
    case INV.IOTLB: {
      const page = inv.page(w2, w3);
      return {
        op: 'iotlb',
        granularity: row.granularities[g]!,
        did: inv.did(w0),
        page,
        am: inv.am(w2),
        ih: inv.ih(w2),
      };
    }
    case INV.DEVICE_TLB:
      return { op: 'device', sid: inv.sid(w1), address: address(~0xfff), size: inv.deviceS(w2) };
    case INV.IEC: {
      const granularity = inv.iecSelective(w0) ? 'index' : 'global';
      return { op: 'iec', granularity, index: inv.iecIndex(w1), mask: inv.iecMask(w0) };
    }
    case INV.WAIT:
      return {
        op: 'wait',
        interrupt: inv.waitIF(w0),
        fence: inv.waitFN(w0),
        drain: inv.waitPD(w0),
        status: inv.waitSW(w0) ? { address: address(~3), data: w1 >>> 0 } : null,
      };
    case INV.PASID_IOTLB:
      return {
        op: 'p-iotlb',
        granularity: row.granularities[g]!,
        did: inv.did(w0),
        pasid: inv.pasid(w1),
        page: inv.page(w2, w3),
        am: inv.am(w2),
        ih: inv.ih(w2),
      };
    case INV.PASID_CACHE:
      return { op: 'pasid-cache', granularity: row.granularities[g]!, did: inv.did(w0), pasid: inv.pasid(w1) };
    case INV.PASID_DEVICE_TLB:
      return {
        op: 'p-device',
        sid: inv.sidLow(w0),
        pasid: inv.pasid(w1),
        address: address(~0xfff),
        size: inv.pasidDeviceS(w2),
        global: inv.pasidDeviceG(w2),
      };
    case INV.PAGE_GROUP_RESPONSE:
      return {
        op: 'page-response',
        sid: inv.sidLow(w0),
        pasid: inv.responsePP(w0) ? inv.pasid(w1) : -1,
        group: inv.responseGroup(w2),
        code: inv.responseCode(w0),
      };
  }
}
