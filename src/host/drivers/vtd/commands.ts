import { TWO32 } from '../../../core/bits.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { INVALIDATE_DATA, VTD_INV_FLAG } from '../../../spec/iommufd/uapi.ts';
import type { Invalidation } from '../../kernel/driver.ts';
import { flushDevices, isFirstWithPasid } from './maintenance.ts';
import { spanOf, type VtdDriverQueue } from './queue.ts';
import type { VtdUsers } from './users.ts';

/** struct iommu_hwpt_vtd_s1_invalidate. */
const ENTRY_BYTES = 24;

/**
 * HWPT_INVALIDATE with VTD_S1 entries: translations of the guest's pages, and what functions hold of them. Nothing here
 * allocates.
 */
export class VtdDriverCommands implements Invalidation {
  readonly type = INVALIDATE_DATA.VTD_S1;
  readonly entryBytes = ENTRY_BYTES;
  readonly copy = 'each';
  readonly emptyOk = true;
  done = 0;
  readonly #queue: VtdDriverQueue;
  readonly #members: VtdUsers;

  constructor(queue: VtdDriverQueue, members: VtdUsers) {
    this.#queue = queue;
    this.#members = members;
  }

  run(words: Int32Array, start: number, count: number): number {
    this.done = 0;
    let result = 0;
    for (let i = 0; i < count && result === 0; i++) {
      result = this.#one(words, start + (i * ENTRY_BYTES) / 4);
      if (result === 0) this.done++;
    }
    const flushed = this.#queue.flush();
    if (flushed === 0) return result;
    // Which entry the refused descriptor came from is not known: none counts as done.
    this.done = 0;
    return flushed;
  }

  #one(w: Int32Array, at: number): number {
    const flags = w[at + 4]!;
    if ((flags & ~VTD_INV_FLAG.LEAF) !== 0 || w[at + 5] !== 0) return -E.OPNOTSUPP;
    const lo = w[at]!;
    const hi = w[at + 1]!;
    const all = w[at + 2] === -1 && w[at + 3] === -1;
    if ((lo & 0xfff) !== 0 || (all && (lo | hi) !== 0)) return -E.INVAL;
    const { did, users } = this.#members;
    if (did < 0) return 0;
    const page = (hi >>> 0) * 0x10_0000 + (lo >>> 12);
    const mask = spanOf(page, (w[at + 3]! >>> 0) * TWO32 + (w[at + 2]! >>> 0));
    const leaf = (flags & VTD_INV_FLAG.LEAF) !== 0;
    for (let i = 0; i < users.length; i++) {
      if (isFirstWithPasid(users, i)) this.#queue.pasidIotlbPages(did, users[i]!.pasid, page, mask, leaf);
    }
    flushDevices(this.#queue, users, page, mask);
    return 0;
  }
}
