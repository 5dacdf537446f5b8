import type { VtdFeatures } from '../../../lib/check/vtd-features.ts';
import { NO_PASID } from '../../../ports/dma.ts';
import { RID_PASID, type VtdMaster, type VtdUser } from './master.ts';
import { ALL_PAGES, spanOf, type VtdDriverQueue } from './queue.ts';
import type { VtdUsers } from './users.ts';

/** A page table as the caches know it. */
export interface VtdCached {
  readonly members: VtdUsers;
  /** First-stage format: its translations are tagged by PASID as well. */
  readonly first: boolean;
  /** Nested domains on it. */
  readonly nested: ReadonlySet<{ readonly members: VtdUsers }>;
}

/** The invalidations the kernel issues for changes of its own page tables (VT-d §6.5). */
export class VtdDriverMaintenance {
  readonly #queue: VtdDriverQueue;
  readonly #features: VtdFeatures;

  constructor(queue: VtdDriverQueue, features: VtdFeatures) {
    this.#queue = queue;
    this.#features = features;
  }

  /**
   * Pages of a table changed: every cache forgets them, nested translations and device TLBs included.
   * @param leaf no table left the tree. @returns 0 or -EIO: some cache may still know them.
   */
  changed(table: VtdCached, pfn: number, pages: number, leaf: boolean): number {
    const { members, nested, first } = table;
    this.#iotlb(members, first, pfn, pages, leaf);
    flushDevices(this.#queue, members.users, pfn, spanOf(pfn, pages));
    for (const child of nested) {
      this.#iotlb(child.members, first, pfn, pages, leaf);
      // What a function holds are guest addresses: any of them may go through these pages.
      flushDevices(this.#queue, child.members.users, 0, ALL_PAGES);
    }
    return this.#queue.flush();
  }

  #iotlb({ did, users }: VtdUsers, first: boolean, pfn: number, pages: number, leaf: boolean): void {
    if (did < 0) return;
    const queue = this.#queue;
    const { psi, mamv } = this.#features;
    const mask = spanOf(pfn, pages);
    if (first) {
      for (let i = 0; i < users.length; i++) {
        if (isFirstWithPasid(users, i)) queue.pasidIotlbPages(did, users[i]!.pasid, pfn, mask, leaf);
      }
    } else if (!psi || mask > mamv) queue.iotlbDomain(did);
    else queue.iotlbPages(did, pfn, mask, leaf);
  }
}

/** Whether no earlier user has the same PASID. */
export function isFirstWithPasid(users: readonly VtdUser[], i: number): boolean {
  for (let j = 0; j < i; j++) if (users[j]!.pasid === users[i]!.pasid) return false;
  return true;
}

/** Everything or a range, in the device TLB of every function below a domain. @param mask log2 pages. */
export function flushDevices(queue: VtdDriverQueue, users: readonly VtdUser[], page: number, mask: number): void {
  for (let i = 0; i < users.length; i++) {
    const { master, pasid } = users[i]!;
    if (master.ats) flushDevice(queue, master, pasid, page, mask);
  }
}

/** The same for one (function, PASID). */
export function flushDevice(queue: VtdDriverQueue, master: VtdMaster, pasid: number, page: number, mask: number): void {
  const { rids } = master;
  const span = Math.min(mask, ALL_PAGES);
  for (let s = 0; s < rids.length; s++) {
    queue.deviceTlb(rids[s]!, pasid === RID_PASID ? NO_PASID : pasid, page, span);
  }
}
