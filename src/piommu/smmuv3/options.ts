import type { Quota } from '../../lib/limits/machine-limits.ts';
import type { VmsaChoices } from '../../lib/walk/vmsa-choices.ts';
import type { Clock } from '../../ports/clock.ts';
import type { EndpointPort } from '../../ports/dma.ts';
import type { HwEvents } from '../../ports/hw.ts';
import type { Memory } from '../../ports/memory.ts';
import type { Smmuv3Identification } from './registers.ts';

/** Entries of the SMMU's caches. */
export interface Smmuv3CacheSizes {
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
export interface PhysicalSmmuv3Options extends Smmuv3Identification {
  /** Shown in `tell`. */
  readonly name?: string;
  /** Host-physical memory. */
  readonly memory: Memory;
  /** The kernel's interrupt handlers; absent: nobody listens. */
  readonly events?: HwEvents;
  /** The machine's clock. */
  readonly clock: Clock;
  /** null or absent: no function answers messages. */
  readonly endpoints?: EndpointPort | null;
  /** Sizes of its caches. */
  readonly caches?: Smmuv3CacheSizes;
  /** Nanoseconds until an unanswered ATS invalidation is given up (60 s). The architecture leaves it open. */
  readonly invalidateTimeout?: number;
  /** Invalidation requests one function takes at a time, 1..32 (32): its Invalidate Queue Depth. */
  readonly atcDepth?: number;
  /** Nanoseconds until the host has read what came into the PRI queue (0: at once). */
  readonly priLatency?: number;
  /** Stalled transactions at once (IDR5.STALL_MAX, or 64 when that is 0). */
  readonly stalls?: number;
  /** Stalled transactions at once, those without a STAG included; a further one is terminated. Default: no limit. */
  readonly stallQuota?: Quota;
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
