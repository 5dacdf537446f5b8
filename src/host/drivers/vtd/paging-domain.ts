import type { VtdFeatures } from '../../../lib/check/vtd-features.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { FS, SS } from '../../../spec/vtd/paging.ts';
import { PGTT } from '../../../spec/vtd/tables.ts';
import {
  type DirtyOps,
  type Domain,
  type HostDevice,
  type IommuDriver,
  MAP_PROT,
  type PagingDomain,
} from '../../kernel/driver.ts';
import type { Attacher } from './attach.ts';
import type { EntryContent } from './entries.ts';
import { flushDevices } from './maintenance.ts';
import type { VtdPageTable } from './page-table.ts';
import { type InvalidationQueue, spanOf } from './queue.ts';
import type { Attachable, Membership } from './users.ts';

/** What a domain asks of its driver. */
export interface DomainOwner {
  readonly iommu: IommuDriver;
  readonly unit: VtdFeatures;
  readonly queue: InvalidationQueue;
  readonly attacher: Attacher;
}

export interface PagingOptions {
  readonly nestParent: boolean;
  readonly dirty: boolean;
  /** Read-only mappings are refused (errata 772415). */
  readonly refusesReadOnly: boolean;
}

const RW = MAP_PROT.READ | MAP_PROT.WRITE;

/** One of the kernel's own page tables: first-stage format for ordinary domains, second-stage where it has to be. */
export class VtdPagingDomain implements PagingDomain, Attachable {
  readonly kind = 'paging';
  readonly iommu: IommuDriver;
  readonly pasidCapable = true;
  readonly nestParent: boolean;
  readonly pageBytes = 4096;
  readonly apertureStart = 0n;
  readonly apertureLast: bigint;
  readonly dirty: DirtyOps | null;
  readonly members: Membership;
  /** Nested domains on this parent. */
  readonly nested = new Set<{ readonly members: Membership }>();
  iopf = false;
  /** SSADE in every entry that names these tables. */
  tracking = false;
  /** Accesses snoop: SNP in second-stage leaves, PGSNP in entries of first-stage ones. */
  #coherent = false;
  readonly #owner: DomainOwner;
  readonly #tables: VtdPageTable;
  readonly #refusesReadOnly: boolean;

  constructor(owner: DomainOwner, members: Membership, tables: VtdPageTable, bits: number, options: PagingOptions) {
    this.iommu = owner.iommu;
    this.#owner = owner;
    this.members = members;
    this.#tables = tables;
    this.nestParent = options.nestParent;
    this.#refusesReadOnly = options.refusesReadOnly;
    this.apertureLast = (1n << BigInt(bits)) - 1n;
    this.dirty = options.dirty ? this.#dirtyOps() : null;
  }

  get first(): boolean {
    return this.#tables.config.stage === 'first';
  }

  /** The entry that names these tables. `did` of the domain below (its own, or a nested one's). */
  content(did: number): EntryContent {
    const { unit } = this.#owner;
    const { levels } = this.#tables.config;
    return {
      pgtt: this.first ? PGTT.FIRST : PGTT.SECOND,
      did,
      firstRoot: this.first ? this.#tables.root : 0,
      firstLevels: this.first ? levels : 4,
      sre: false,
      wpe: false,
      eafe: false,
      secondRoot: this.first ? 0 : this.#tables.root,
      secondLevels: this.first ? 4 : levels,
      ssade: !this.first && this.tracking,
      pwsnp: unit.pageWalkCoherency,
      pgsnp: this.first && this.#coherent,
    };
  }

  get coherent(): boolean {
    return this.#coherent;
  }

  /** 4 KiB pages its tables occupy. */
  get tablePages(): number {
    return this.#tables.pages;
  }

  enforceCacheCoherency(): boolean {
    if (!this.#owner.unit.snoopControl) return false;
    this.#coherent = true;
    return true;
  }

  map(iova: bigint, hpa: number, bytes: number, prot: number): number {
    if ((prot & RW) === 0) return -E.INVAL;
    if (this.nestParent && this.#refusesReadOnly && (prot & MAP_PROT.WRITE) === 0) return -E.INVAL;
    if (iova + BigInt(bytes) - 1n > this.apertureLast || hpa + bytes > 2 ** this.#owner.unit.haw) return -E.RANGE;
    const pfn = Number(iova >> 12n);
    const pages = bytes / 4096;
    const done = this.#tables.map(pfn, hpa, pages, this.#leafBits(prot));
    if (done < pages) {
      this.#tables.unmap(pfn, done);
      this.#forget(pfn, pages);
      return -E.NOMEM;
    }
    // A unit that caches what is not present has to be told.
    if (this.#owner.unit.cachingMode) this.#forget(pfn, pages);
    return 0;
  }

  #leafBits(prot: number): number {
    const write = (prot & MAP_PROT.WRITE) !== 0;
    // A and D are set at once, so that the hardware never has to.
    if (this.first) return FS.P | FS.US | FS.A | (write ? FS.RW | FS.D : 0);
    return ((prot & MAP_PROT.READ) !== 0 ? SS.R : 0) | (write ? SS.W : 0) | (this.#coherent ? SS.SNP : 0);
  }

  unmap(iova: bigint, bytes: bigint): bigint {
    if (iova > this.apertureLast) return 0n;
    const end = iova + bytes > this.apertureLast ? this.apertureLast + 1n : iova + bytes;
    const pfn = Number(iova >> 12n);
    const pages = Number((end - iova) >> 12n);
    const done = this.#tables.unmap(pfn, pages);
    if (done > 0) this.#forget(pfn, pages);
    return BigInt(done) * 4096n;
  }

  /** Every cache forgets the pages, nested translations and device TLBs included; then old tables can go. */
  #forget(pfn: number, pages: number): void {
    const { queue } = this.#owner;
    const leaf = !this.#tables.retired;
    this.#forgetIotlb(this.members, pfn, pages, leaf);
    flushDevices(queue, this.members.users, pfn, spanOf(pfn, pages));
    for (const child of this.nested) {
      this.#forgetIotlb(child.members, pfn, pages, leaf);
      // What a function holds are guest addresses: any of them may go through these pages.
      flushDevices(queue, child.members.users, 0, 64);
    }
    queue.flush();
    this.#tables.reclaim();
  }

  #forgetIotlb(members: Membership, pfn: number, pages: number, leaf: boolean): void {
    if (members.did < 0) return;
    const { queue, unit } = this.#owner;
    const mask = spanOf(pfn, pages);
    if (this.first) {
      for (const [i, u] of members.users.entries()) {
        if (members.users.findIndex((o) => o.pasid === u.pasid) === i) {
          queue.pasidIotlbPages(members.did, u.pasid, pfn, mask, leaf);
        }
      }
    } else if (!unit.psi || mask > unit.mamv) queue.iotlbDomain(members.did);
    else queue.iotlbPages(members.did, pfn, mask, leaf);
  }

  iovaToPhys(iova: bigint): number {
    return iova > this.apertureLast ? -1 : this.#tables.lookup(iova);
  }

  #dirtyOps(): DirtyOps {
    return {
      set: (enable) => {
        this.tracking = enable;
        this.#owner.attacher.retrack(this.members, enable);
        for (const child of this.nested) this.#owner.attacher.retrack(child.members, enable);
        return 0;
      },
      read: (iova, bytes, noClear, sink) => {
        const pfn = Number(iova >> 12n);
        const pages = Number(bytes >> 12n);
        const report = (page: number, n: number) => sink.dirty(BigInt(page) * 4096n, n * 4096);
        if (this.#tables.readDirty(pfn, pages, noClear, report) > 0) this.#forget(pfn, pages);
        return 0;
      },
    };
  }

  attach(dev: HostDevice, pasid: number, old: Domain | null): number {
    return this.#owner.attacher.attachPaging(this, dev, pasid, old);
  }

  free(): void {
    this.#tables.destroy();
  }
}
