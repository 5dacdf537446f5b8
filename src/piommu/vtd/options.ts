import type { VtdWalkChoices } from '../../lib/walk/vtd-choices.ts';
import type { Clock } from '../../ports/clock.ts';
import type { EndpointPort } from '../../ports/dma.ts';
import type { HwEvents } from '../../ports/hw.ts';
import type { Memory } from '../../ports/memory.ts';
import { PAGE } from '../../spec/vtd/registers.ts';
import type { VtdIdentification } from './registers.ts';

/** Entries of the unit's caches. */
export interface VtdCacheSizes {
  /** Translations (65536). A power of two; 0 switches a cache off. */
  readonly iotlb?: number;
  /** Last-level table addresses of either stage (4096; none without cached translations). */
  readonly walks?: number;
  /** Context entries (256). */
  readonly contexts?: number;
  /** PASID entries (1024). */
  readonly pasids?: number;
}

/** What a physical VT-d unit is made of. */
export interface PhysicalVtdOptions extends VtdIdentification {
  /** Shown in `tell`. */
  readonly name?: string;
  /** Host-physical memory: tables, and what DMA reaches. */
  readonly memory: Memory;
  /** The kernel's interrupt handlers; absent: nobody listens. */
  readonly events?: HwEvents;
  /** Needed when functions may answer invalidations later. */
  readonly clock?: Clock | null;
  /** null or absent: no function answers messages. */
  readonly endpoints?: EndpointPort | null;
  /** Sizes of its caches. */
  readonly caches?: VtdCacheSizes;
  /** Host address width in bits, 32 to 52 (48). */
  readonly haw?: number;
  /** Nanoseconds until an unanswered device-TLB invalidation is given up (60 s). The architecture leaves it open. */
  readonly invalidateTimeout?: number;
  /** It has first stages of 39 and 30 input bits (`VtdFeatures.narrowFirstStages`); off by default. */
  readonly narrowFirstStages?: boolean;
  /** Requests may name RID_PASID (`VtdFeatures.ridPasidRequests`); off by default. */
  readonly ridPasidRequests?: boolean;
  /** What its first-stage walks leave in memory. Default: what the architecture says. */
  readonly walk?: VtdWalkChoices;
  /** Debug: context, IOTLB, PASID-IOTLB and PASID-cache descriptors have no effect. Shows what a forgotten one would do. */
  readonly ignoreInvalidations?: boolean;
}

type Fields = Readonly<Record<string, readonly [at: number, bits: number]>>;

/** Puts named fields into a register value. */
function build<F extends Fields>(fields: F, values: Partial<Record<keyof F, number>>): bigint {
  let out = 0n;
  for (const [name, value] of Object.entries(values) as [keyof F & string, number][]) {
    const f = fields[name];
    if (f !== undefined) out |= (BigInt(value) & ((1n << BigInt(f[1])) - 1n)) << BigInt(f[0]);
  }
  return out;
}

/**
 * A host's unit with everything: scalable mode, both stages with 4 and 5 levels, all page sizes, nesting, accessed and
 * dirty flags, snoop control, device TLBs, page requests, 20-bit PASIDs. 65536 domain ids.
 */
export const FULL_CAP = build(PAGE.CAP.fields, {
  ND: 6,
  SAGAW: 0xe,
  MGAW: 56,
  FRO: 0x22,
  SSLPS: 3,
  PSI: 1,
  MAMV: 18,
  DWD: 1,
  DRD: 1,
  FS1GP: 1,
  FS5LP: 1,
  ESRTPS: 1,
});
/** The extended capability register of that unit. */
export const FULL_ECAP = build(PAGE.ECAP.fields, {
  C: 1,
  QI: 1,
  DT: 1,
  IR: 1,
  EIM: 1,
  PT: 1,
  SC: 1,
  IRO: 0xf,
  MHMV: 15,
  NEST: 1,
  PRS: 1,
  SRS: 1,
  NWFS: 1,
  EAFS: 1,
  PSS: 19,
  PASID: 1,
  PDS: 1,
  SMTS: 1,
  SSADS: 1,
  SSTS: 1,
  FSTS: 1,
  SMPWCS: 1,
});
