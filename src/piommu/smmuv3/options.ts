import type { VmsaChoices } from '../../lib/walk/vmsa-choices.ts';
import type { Clock } from '../../ports/clock.ts';
import type { EndpointPort } from '../../ports/dma.ts';
import type { HwEvents } from '../../ports/hw.ts';
import type { Memory } from '../../ports/memory.ts';

/** Where the host put its stream table: STRTAB_BASE and STRTAB_BASE_CFG in fields (IHI 0070 §6.3.24, §6.3.25). */
export interface StreamTableLocation {
  /** Bytes, host-physical. Bits below the table's size are taken as zero. */
  readonly base: number;
  /** log2 of the number of streams. */
  readonly log2size: number;
  /** A two-level table. */
  readonly twoLevel: boolean;
  /** StreamID bits of a level-2 table: 6, 8 or 10 (anything else acts as 6). */
  readonly split?: number;
}

/** Entries of the SMMU's caches. */
export interface CacheSizes {
  /** Translations (131072). A power of two; 0 switches a cache off. */
  readonly iotlb?: number;
  /** Last-level table addresses (4096). */
  readonly walks?: number;
  /** STEs (1024). */
  readonly streams?: number;
  /** CDs (1024). */
  readonly contexts?: number;
}

/** What a physical SMMUv3 is made of. */
export interface PhysicalSmmuv3Options {
  /** Shown in `tell`. */
  readonly name?: string;
  /** Host-physical memory. */
  readonly memory: Memory;
  /** Identity registers as a driver reads them. */
  readonly idr0: number;
  /** IDR1. */
  readonly idr1: number;
  /** IDR3. */
  readonly idr3: number;
  /** IDR5. */
  readonly idr5: number;
  /** The host kernel's interrupt handlers. */
  readonly events: HwEvents;
  /** The machine's clock. */
  readonly clock: Clock;
  /** null or absent: no function answers messages. */
  readonly endpoints?: EndpointPort | null;
  /** Sizes of its caches. */
  readonly caches?: CacheSizes;
  /** Nanoseconds an ATS invalidation may take (60 s). The architecture leaves it open. */
  readonly atcTimeout?: number;
  /** Invalidation requests one function takes at a time, 1..32 (32): its Invalidate Queue Depth. */
  readonly atcDepth?: number;
  /** Page requests the PRI queue holds (a power of two, 512), and nanoseconds until the host has read them (0: at once). */
  readonly priEntries?: number;
  /** Nanoseconds until the host has read the PRI queue (0: at once). */
  readonly priLatency?: number;
  /** Stalled transactions at once (IDR5.STALL_MAX, or 64 when that is 0). */
  readonly stalls?: number;
  /** How this implementation walks where implementations differ. Default: as the architecture says. */
  readonly walk?: VmsaChoices;
  /**
   * Stands for a device permission table (IHI 0070 §3.24): whether a translated request of `rid` may reach the
   * host-physical byte. Absent: such requests are believed, as by hardware without one.
   */
  readonly reach?: (rid: number, address: number) => boolean;
  /** Debug: TLBI, CFGI and ATC_INV have no effect. Shows what a forgotten invalidation would do. */
  readonly ignoreInvalidations?: boolean;
}
