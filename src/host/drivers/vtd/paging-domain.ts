import type { VtdFeatures } from '../../../lib/check/vtd-features.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { FS } from '../../../spec/vtd/paging.ts';
import { FSPM, PGTT } from '../../../spec/vtd/tables.ts';
import {
  type DirtyOps,
  type Domain,
  type HostDevice,
  type IommuDriver,
  MAP_PROT,
  type PagingDomain,
  type Result,
  type StageCopy,
} from '../../kernel/driver.ts';
import type { PageAllocator } from '../page-allocator.ts';
import type { ShadowPool } from '../shadow/pool.ts';
import { ShadowTables } from '../shadow/tables.ts';
import type { VtdDriverAttacher } from './attach.ts';
import type { PasidEntryContent } from './entries.ts';
import type { VtdCached, VtdDriverMaintenance } from './maintenance.ts';
import { WHOLE_DEVICE } from './master.ts';
import type { VtdPageTable } from './page-table.ts';
import type { VtdDriverQueue } from './queue.ts';
import { secondStageFormat, secondStageLeaf } from './shadow-format.ts';
import type { VtdAttachable, VtdUsers } from './users.ts';

/** What a domain asks of its driver. */
export interface VtdDomainOwner {
  readonly iommu: IommuDriver;
  readonly features: VtdFeatures;
  readonly queue: VtdDriverQueue;
  readonly maintenance: VtdDriverMaintenance;
  readonly attacher: VtdDriverAttacher;
  /** Host memory for tables. */
  readonly memory: PageAllocator;
  /** Pages of tables that repeat guests' stages. */
  readonly shadows: ShadowPool;
}

export interface VtdPagingParts {
  readonly members: VtdUsers;
  readonly tables: VtdPageTable;
  /** Bits of input address. */
  readonly bits: number;
  readonly nestParent: boolean;
  readonly dirty: boolean;
  /** Read-only mappings are refused (errata 772415). */
  readonly refusesReadOnly: boolean;
}

const RW = MAP_PROT.READ | MAP_PROT.WRITE;
/** More pages than any table has. */
const ALL = 2 ** 52;

/** One of the kernel's own page tables: first-stage format for ordinary domains, second-stage where it has to be. */
export class VtdPagingDomain implements PagingDomain, VtdAttachable, VtdCached {
  readonly kind = 'paging';
  readonly iommu: IommuDriver;
  readonly pasidCapable = true;
  readonly nestParent: boolean;
  readonly pageBytes = 4096;
  readonly apertureStart = 0n;
  readonly apertureLast: bigint;
  readonly dirty: DirtyOps | null;
  readonly members: VtdUsers;
  /** Nested domains on this parent. */
  readonly nested = new Set<{ readonly members: VtdUsers }>();
  iopf = false;
  /** SSADE in every entry that names these tables. */
  tracking = false;
  /** Accesses snoop: SNP in second-stage leaves, PGSNP in entries of first-stage ones. */
  #coherent = false;
  /** An invalidation failed: some cache may still know what is gone. */
  #stale = false;
  readonly #owner: VtdDomainOwner;
  readonly #tables: VtdPageTable;
  readonly #refusesReadOnly: boolean;
  /** The domain repeats a stage of a guest: what lies below the start table belongs to it. */
  #copy: ShadowTables | null = null;

  constructor(owner: VtdDomainOwner, parts: VtdPagingParts) {
    this.iommu = owner.iommu;
    this.#owner = owner;
    this.members = parts.members;
    this.#tables = parts.tables;
    this.nestParent = parts.nestParent;
    this.#refusesReadOnly = parts.refusesReadOnly;
    this.apertureLast = (1n << BigInt(parts.bits)) - 1n;
    this.dirty = parts.dirty ? this.#dirtyOps() : null;
  }

  get first(): boolean {
    return this.#tables.config.stage === 'first';
  }

  /** The entry that names these tables. `did` of the domain below (its own, or a nested one's). */
  content(did: number): PasidEntryContent {
    const { features } = this.#owner;
    const { levels } = this.#tables.config;
    return {
      pgtt: this.first ? PGTT.FIRST : PGTT.SECOND,
      did,
      firstRoot: this.first ? this.#tables.root : 0,
      fspm: this.first && levels === 5 ? FSPM.FIVE_LEVELS : FSPM.FOUR_LEVELS,
      sre: false,
      wpe: false,
      eafe: false,
      secondRoot: this.first ? 0 : this.#tables.root,
      secondLevels: this.first ? 4 : levels,
      ssade: !this.first && this.tracking,
      pwsnp: features.pageWalkCoherency,
      pgsnp: this.first && this.#coherent,
    };
  }

  get coherent(): boolean {
    return this.#coherent;
  }

  /** 4 KiB pages its tables occupy. */
  get tablePages(): number {
    return this.#tables.pages + (this.#copy?.pages ?? 0);
  }

  copyStage(): Result<StageCopy> {
    if (this.first) return -E.OPNOTSUPP;
    if (this.#copy !== null || this.#tables.pages > 1 || this.members.users.length > 0) return -E.BUSY;
    const { memory, shadows, features, maintenance } = this.#owner;
    this.#copy = new ShadowTables({
      format: secondStageFormat(this.#tables.config, () => this.#coherent),
      root: this.#tables.root,
      pool: shadows,
      space: memory.space,
      limit: 2 ** features.haw,
      refusesReadOnly: this.nestParent && this.#refusesReadOnly,
      forget: (page, pages, leaf) => maintenance.changed(this, page, pages, leaf),
      announces: features.cachingMode,
    });
    return this.#copy;
  }

  enforceCacheCoherency(): boolean {
    if (!this.#owner.features.snoopControl) return false;
    this.#coherent = true;
    return true;
  }

  map(iova: bigint, hpa: number, bytes: number, prot: number): number {
    if ((prot & RW) === 0) return -E.INVAL;
    if (this.nestParent && this.#refusesReadOnly && (prot & MAP_PROT.WRITE) === 0) return -E.INVAL;
    if (iova + BigInt(bytes) - 1n > this.apertureLast || hpa + bytes > 2 ** this.#owner.features.haw) return -E.RANGE;
    const pfn = Number(iova >> 12n);
    const pages = bytes / 4096;
    if (this.#copy !== null) return this.#copy.fix(pfn, hpa, pages, prot);
    const done = this.#tables.map(pfn, hpa, pages, this.#leafBits(prot));
    if (done < pages) {
      this.#tables.unmap(pfn, done);
      return this.#forget(pfn, pages) || -E.NOMEM;
    }
    // A unit that caches what is not present has to be told.
    if (!this.#owner.features.cachingMode) return 0;
    const r = this.#forget(pfn, pages);
    if (r !== 0) this.#tables.unmap(pfn, pages);
    return r;
  }

  #leafBits(prot: number): number {
    const write = (prot & MAP_PROT.WRITE) !== 0;
    // A and D are set at once, so that the hardware never has to.
    if (this.first) return FS.P | FS.US | FS.A | (write ? FS.RW | FS.D : 0);
    return secondStageLeaf(prot, this.#coherent);
  }

  unmap(iova: bigint, bytes: bigint): bigint {
    if (iova > this.apertureLast) return 0n;
    const end = iova + bytes > this.apertureLast ? this.apertureLast + 1n : iova + bytes;
    const pfn = Number(iova >> 12n);
    const pages = Number((end - iova) >> 12n);
    if (this.#copy !== null) {
      const r = this.#copy.unfix(pfn, pages);
      return r < 0 ? BigInt(r) : bytes;
    }
    const done = this.#tables.unmap(pfn, pages);
    const r = done > 0 || this.#stale ? this.#forget(pfn, pages) : 0;
    return r < 0 ? BigInt(r) : BigInt(done) * 4096n;
  }

  /**
   * Every cache forgets the pages; then old tables can go. After a failure they stay, and the next change forgets everything.
   * @returns 0 or -EIO.
   */
  #forget(pfn: number, pages: number): number {
    const { maintenance } = this.#owner;
    const r = this.#stale
      ? maintenance.changed(this, 0, ALL, false)
      : maintenance.changed(this, pfn, pages, !this.#tables.retired);
    this.#stale = r !== 0;
    if (r === 0) this.#tables.reclaim();
    return r;
  }

  iovaToPhys(iova: bigint): number {
    return iova > this.apertureLast ? -1 : this.#tables.lookup(iova);
  }

  #dirtyOps(): DirtyOps {
    return {
      set: (enable) => {
        this.tracking = enable;
        let r = this.#owner.attacher.retrack(this.members, enable);
        for (const child of this.nested) r = this.#owner.attacher.retrack(child.members, enable) || r;
        return r;
      },
      read: (iova, bytes, noClear, sink) => {
        const pfn = Number(iova >> 12n);
        const pages = Number(bytes >> 12n);
        const report = (page: number, n: number) => sink.dirty(BigInt(page) * 4096n, n * 4096);
        return this.#tables.readDirty(pfn, pages, noClear, report) > 0 ? this.#forget(pfn, pages) : 0;
      },
    };
  }

  attach(dev: HostDevice, pasid: number, old: Domain | null): number {
    return this.#owner.attacher.attachPaging(this, dev, pasid, old, WHOLE_DEVICE);
  }

  attachStream(dev: HostDevice, stream: number, old: Domain | null, pasid: number): number {
    return this.#owner.attacher.attachPaging(this, dev, pasid, old, stream);
  }

  free(): void {
    // A unit that did not confirm a detach, or an invalidation, may still read the tables until it does.
    const { unconfirmed } = this.#owner.queue;
    unconfirmed.afterwards(() => {
      if (this.#copy?.destroy() !== false) {
        this.#tables.destroy();
        return;
      }
      // Whatever kept it from going, it is asked for with everything else, and not at once again.
      unconfirmed.refused();
      this.free();
    });
  }
}
