import type { CachedTranslation } from '../lib/cache/listing.ts';
import type { Tell } from '../ports/tell.ts';
import type { TraceHeader } from './header.ts';

/**
 * What a machine offers to be replayed on. Implemented by `src/machine`; all calls are synchronous, results of hot calls
 * are fields, valid until the next call. What the machine does by itself (interrupts, records it writes, commands it
 * executes, host operations) it says through its `tell` hook, which `Heard` listens to:
 *
 * - `irq`: SMMUv3 `line` is evtq, priq, cmd_sync or gerror; VT-d's own messages carry `address` and `data`;
 * - `record`: an SMMUv3 event record (8 words) or a VT-d invalidation-wait status (1 word) at its guest-physical address;
 * - `frcd`: a VT-d fault, recorded in a register or not;
 * - `command`: named as QEMU names it;  `host`: the verb.
 */
export interface ReplayTarget {
  /** The guest's own store, 1 to 8 bytes, any alignment. @returns false: no RAM there. */
  store(gpa: number, size: number, lo: number, hi: number): boolean;
  /** A snapshot of 4096 bytes; null is zeros. @returns false: no RAM there. */
  page(gpa: number, bytes: Uint8Array | null): boolean;
  /** The recording stops following this page. Its content stays (memory does not forget). */
  drop(gpa: number): void;
  /** Guest memory as it is now. @returns false: no RAM there. */
  load(gpa: number, into: Uint8Array): boolean;

  /** A guest's register read (1, 2, 4 or 8 bytes): the answer is in `lo` and `hi`, unsigned or signed words alike. */
  read(offset: number, size: number): void;
  /** Low word of the last read. */
  readonly lo: number;
  /** High word of the last read. */
  readonly hi: number;
  /** A guest's register write. */
  write(offset: number, size: number, lo: number, hi: number): void;

  /**
   * One untranslated DMA access of 4 bytes by requester `sid`, through bus and physical IOMMU.
   * @param access ACCESS.READ or ACCESS.WRITE.
   * @returns a DMA value; OK: the fields below are valid.
   */
  dma(sid: number, lo: number, hi: number, access: number): number;
  /** Guest-physical: the host's stage 2 undone. */
  readonly out: number;
  /** ACCESS READ | WRITE bits of the guest's own table entries (what the host's stage adds or takes is not in it). */
  readonly perm: number;
  /** log2 bytes of the guest's own mapping, also where the host shadows it; 0: no guest table took part. */
  readonly guestShift: number;
  /** The guest's ASID or domain id; -1: none (SMMUv3 stage 2 only). */
  readonly tag: number;

  /** A page request message without PASID. A machine without page requests leaves it out. */
  pageRequest?(sid: number, lo: number, hi: number, access: number, group: number, last: boolean): void;

  /** VT-d: a device's message through the interrupt window. @returns true: delivered as outAddress/outData. */
  remap(sid: number, address: number, data: number): boolean;
  /** Address of the last remapped message. */
  readonly outAddress: number;
  /** Data of the last remapped message. */
  readonly outData: number;
  /** VT-d: the interrupt-remapping entry `index` of the latched table, 4 words. @returns false: no such entry. */
  irte(index: number, into: Int32Array): boolean;

  /** The hardware's cached translations, with outputs as the guest knows them. */
  translations?(): readonly CachedTranslation[];
  /** What the ATCs of the functions may hold: granted and not invalidated since, with the requester ids of the guest. */
  granted?(): readonly {
    readonly rid: number;
    readonly input: bigint;
    readonly out: number;
    readonly perm: number;
  }[];
  /** What stands behind the guest's tables (host objects, cached translations), as lines of a listing. */
  explain?(limit: number): string[];

  /** Machine reset: everything but guest memory is at power-on values. */
  reset(): void;
}

/** How a machine for a recording is to be made. */
export interface ReplayOptions {
  /** `qemu-11.1` (default) or `arch`. */
  readonly profile?: string;
  /** Sizes of the physical IOMMU's caches. */
  readonly caches?: 'full' | 'off' | 'tiny';
  /** Debugging: the device models swallow the guest's invalidations. A recording that re-uses addresses must diverge. */
  readonly ignoreInvalidations?: boolean;
  /** Linux's partial-count quirk in batches instead of the safe rule. */
  readonly batchQuirk?: boolean;
  /** The physical IOMMU is heard as well: its commands, translations and ATS messages (off: it costs time). */
  readonly tellHardware?: boolean;
}

/**
 * Stands up the machine a recording describes.
 * @param tell the machine's hook, for everything it does.
 * @throws ViommuError `E_PROFILE` for a property, machine or profile it does not know.
 */
export type MakeReplayTarget = (header: TraceHeader, options: ReplayOptions, tell: Tell) => ReplayTarget;
