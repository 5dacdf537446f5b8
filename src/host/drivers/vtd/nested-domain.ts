import { TWO32 } from '../../../core/bits.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { INVALIDATE_DATA, VTD_INV_FLAG, VTD_S1_FLAG } from '../../../spec/iommufd/uapi.ts';
import { PGTT } from '../../../spec/vtd/tables.ts';
import type { Domain, HostDevice, Invalidation, IommuDriver, NestedDomain } from '../../kernel/driver.ts';
import type { EntryContent } from './entries.ts';
import { flushDevices } from './maintenance.ts';
import type { DomainOwner, VtdPagingDomain } from './paging-domain.ts';
import { spanOf } from './queue.ts';
import type { Attachable, Membership } from './users.ts';

/** struct iommu_hwpt_vtd_s1. */
export interface FirstStageData {
  readonly flags: number;
  /** Guest-physical, as given. */
  readonly pgtblAddr: bigint;
  readonly addrWidth: number;
}

/** struct iommu_hwpt_vtd_s1_invalidate. */
const ENTRY_BYTES = 24;

/** A guest's first-stage table over a nest parent. Both never change. */
export class VtdNestedDomain implements NestedDomain, Attachable {
  readonly kind = 'nested';
  readonly iommu: IommuDriver;
  readonly pasidCapable = true;
  readonly parent: VtdPagingDomain;
  readonly data: FirstStageData;
  readonly members: Membership;
  readonly invalidation: Invalidation;
  iopf = false;
  readonly #owner: DomainOwner;

  constructor(owner: DomainOwner, members: Membership, parent: VtdPagingDomain, data: FirstStageData) {
    this.iommu = owner.iommu;
    this.#owner = owner;
    this.members = members;
    this.parent = parent;
    this.data = data;
    this.invalidation = new FirstStageInvalidation(owner, members);
    parent.nested.add(this);
  }

  content(did: number): EntryContent {
    const { flags, pgtblAddr, addrWidth } = this.data;
    return {
      ...this.parent.content(did),
      pgtt: PGTT.NESTED,
      firstRoot: Number(pgtblAddr & 0xf_ffff_ffff_f000n),
      firstLevels: addrWidth === 57 ? 5 : 4,
      sre: (flags & VTD_S1_FLAG.SRE) !== 0,
      wpe: (flags & VTD_S1_FLAG.WPE) !== 0,
      eafe: (flags & VTD_S1_FLAG.EAFE) !== 0,
      pgsnp: this.parent.coherent,
    };
  }

  /** What only attach looks at. @returns 0 or -EINVAL. */
  #supported(): number {
    const { unit } = this.#owner;
    const { flags, addrWidth } = this.data;
    if (addrWidth !== 48 && !(addrWidth === 57 && unit.fiveLevels)) return -E.INVAL;
    if ((flags & VTD_S1_FLAG.SRE) !== 0 && !unit.supervisor) return -E.INVAL;
    if ((flags & VTD_S1_FLAG.EAFE) !== 0 && !unit.extendedAccessed) return -E.INVAL;
    return 0;
  }

  attach(dev: HostDevice, pasid: number, old: Domain | null): number {
    return this.#owner.attacher.attachNested(this, dev, pasid, old, this.#supported());
  }

  free(): void {
    this.parent.nested.delete(this);
  }
}

/** HWPT_INVALIDATE with VTD_S1 entries: translations of the guest's pages, and what functions hold of them. */
class FirstStageInvalidation implements Invalidation {
  readonly type = INVALIDATE_DATA.VTD_S1;
  readonly entryBytes = ENTRY_BYTES;
  readonly copy = 'each';
  readonly emptyOk = true;
  done = 0;
  readonly #owner: DomainOwner;
  readonly #members: Membership;

  constructor(owner: DomainOwner, members: Membership) {
    this.#owner = owner;
    this.#members = members;
  }

  run(words: Int32Array, start: number, count: number): number {
    this.done = 0;
    let result = 0;
    for (let i = 0; i < count && result === 0; i++) {
      result = this.#one(words, start + (i * ENTRY_BYTES) / 4);
      if (result === 0) this.done++;
    }
    this.#owner.queue.flush();
    return result;
  }

  #one(w: Int32Array, at: number): number {
    const flags = w[at + 4]!;
    if ((flags & ~VTD_INV_FLAG.LEAF) !== 0 || w[at + 5] !== 0) return -E.OPNOTSUPP;
    const lo = w[at]!;
    const hi = w[at + 1]!;
    const all = w[at + 2] === -1 && w[at + 3] === -1;
    if ((lo & 0xfff) !== 0 || (all && (lo | hi) !== 0)) return -E.INVAL;
    const { queue } = this.#owner;
    const { did, users } = this.#members;
    if (did < 0) return 0;
    const page = (hi >>> 0) * 0x10_0000 + (lo >>> 12);
    const mask = spanOf(page, (w[at + 3]! >>> 0) * TWO32 + (w[at + 2]! >>> 0));
    for (let i = 0; i < users.length; i++) {
      const { pasid } = users[i]!;
      if (isFirstWith(users, i)) queue.pasidIotlbPages(did, pasid, page, mask, (flags & VTD_INV_FLAG.LEAF) !== 0);
    }
    flushDevices(queue, users, page, mask);
    return 0;
  }
}

/** Whether no earlier user has the same PASID. */
function isFirstWith(users: Membership['users'], i: number): boolean {
  for (let j = 0; j < i; j++) if (users[j]!.pasid === users[i]!.pasid) return false;
  return true;
}
