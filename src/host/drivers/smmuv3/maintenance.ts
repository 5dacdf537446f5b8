import { OP } from '../../../spec/smmuv3/commands.ts';
import type { Smmuv3DriverFeatures } from './features.ts';
import type { Smmuv3DriverQueue } from './queue.ts';
import { ALL_STREAMS, type Smmuv3User } from './users.ts';

const PAGE_SHIFT = 12;
/** Without range commands, more pages than this are invalidated by context. */
const MAX_PAGES = 512;
/** Largest NUM+1 of a range command. */
const RANGE_NUM = 32;
const MAX_SCALE = 31;
/** TG of a 4 KiB granule in a range command. */
const TG_4K = 1 << 10;

/** What was changed in a page table: one kind of leaf and nothing else, or anything. */
export interface Extent {
  readonly iova: number;
  readonly bytes: number;
  /** Level of the leaves (1..3) when all were of one kind and no table went; 0 unknown. */
  readonly level: number;
}

/** The invalidations the kernel issues for changes of its own page tables (IHI 0070 §4.4). */
export class Smmuv3DriverMaintenance {
  readonly #queue: Smmuv3DriverQueue;
  readonly #ranges: boolean;

  constructor(queue: Smmuv3DriverQueue, features: Smmuv3DriverFeatures) {
    this.#queue = queue;
    this.#ranges = features.rangeInvalidation;
  }

  /**
   * A stage-2 change: by IPA, then, for a parent of guest stages, everything cached for the VMID's stage 1, then the ATCs
   * whole, since a guest's addresses below it are not known here.
   * @returns 0 or -errno: some cache may still know what was there.
   */
  stageTwo(vmid: number, extent: Extent, parent: boolean, users: Iterable<Smmuv3User>): number {
    if (this.#tooBig(extent)) this.#queue.add(OP.TLBI_S12_VMALL, vmid, 0, 0);
    else this.#range(OP.TLBI_S2_IPA, vmid, extent);
    let r = this.#queue.sync();
    if (parent) {
      this.#queue.add(OP.TLBI_NH_ALL, vmid, 0, 0);
      r = this.#queue.sync() || r;
    }
    return this.#atcs(users, parent ? null : extent) || r;
  }

  /** A stage-1 change. @returns see `stageTwo`. */
  stageOne(asid: number, extent: Extent, users: Iterable<Smmuv3User>): number {
    if (this.#tooBig(extent)) this.#queue.add(OP.TLBI_NH_ASID, asid << 16, 0, 0);
    else this.#range(OP.TLBI_NH_VA, asid << 16, extent);
    const r = this.#queue.sync();
    return this.#atcs(users, extent) || r;
  }

  /** Nobody uses the VMID any more. @returns see `stageTwo`. */
  dropVmid(vmid: number): number {
    this.#queue.add(OP.TLBI_S12_VMALL, vmid, 0, 0);
    return this.#queue.sync();
  }

  /** Nobody uses the ASID any more. @returns see `stageTwo`. */
  dropAsid(asid: number): number {
    this.#queue.add(OP.TLBI_NH_ASID, asid << 16, 0, 0);
    return this.#queue.sync();
  }

  #tooBig(extent: Extent): boolean {
    return !this.#ranges && extent.bytes > MAX_PAGES * 2 ** PAGE_SHIFT;
  }

  #range(op: number, w1: number, extent: Extent): void {
    if (this.#ranges) this.#byRange(op, w1, extent);
    else this.#byPage(op, w1, extent);
  }

  #byPage(op: number, w1: number, { iova, bytes, level }: Extent): void {
    const leaf = level > 0 ? 1 : 0;
    const step = leaf === 1 ? 2 ** (PAGE_SHIFT + 9 * (3 - level)) : 2 ** PAGE_SHIFT;
    for (let at = iova; at < iova + bytes; at += step) this.#queue.add(op, w1, at | leaf, at / 2 ** 32);
  }

  #byRange(op: number, w1: number, { iova, bytes, level }: Extent): void {
    let pages = bytes / 2 ** PAGE_SHIFT;
    // TG with NUM, SCALE and TTL all zero is illegal: one page of unknown level is asked for as two.
    if (level === 0 && pages % RANGE_NUM === 1) pages++;
    const w2 = TG_4K | (level << 8) | (level > 0 ? 1 : 0);
    for (let at = iova; pages > 0; ) {
      let scale = 0;
      while (scale < MAX_SCALE && pages % 2 ** (scale + 1) === 0) scale++;
      const units = Math.floor(pages / 2 ** scale);
      const num = scale === MAX_SCALE ? Math.min(units, RANGE_NUM) : units % RANGE_NUM;
      this.#queue.add(op | ((num - 1) << 12) | (scale << 20), w1, w2 | at, at / 2 ** 32);
      pages -= num * 2 ** scale;
      at += num * 2 ** (scale + PAGE_SHIFT);
    }
  }

  /** What functions hold of the extent; null: everything. */
  #atcs(users: Iterable<Smmuv3User>, extent: Extent | null): number {
    for (const { master, ssid, stream } of users) {
      for (let i = 0; i < master.streams.length; i++) {
        const { sid, ats } = master.streams[i]!;
        if (!ats || (stream !== ALL_STREAMS && stream !== i)) continue;
        if (extent === null) this.#queue.atcInvWhole(sid, master.ssidBits > 0);
        else this.#queue.atcInvRange(sid, ssid, extent.iova, extent.bytes);
      }
    }
    return this.#queue.sync();
  }
}
