import { NO_PASID } from '../../../ports/dma.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import type {
  DirtyOps,
  Domain,
  HostDevice,
  IommuDriver,
  PagingDomain,
  Result,
  StageCopy,
} from '../../kernel/driver.ts';
import type { PageAllocator } from '../page-allocator.ts';
import type { ShadowPool } from '../shadow/pool.ts';
import { ShadowTables } from '../shadow/tables.ts';
import type { UnconfirmedInvalidations } from '../unconfirmed.ts';
import type { Invalidated } from './attach.ts';
import type { StageOne, StageTwo } from './entries.ts';
import { PROT } from './leaf.ts';
import type { Extent, Smmuv3DriverMaintenance } from './maintenance.ts';
import type { Smmuv3PageTable } from './page-table.ts';
import { stageTwoFormat } from './shadow-format.ts';
import { type Smmuv3User, Smmuv3Users } from './users.ts';

const PAGE = 4096;

/** What a paging domain asks of its driver. */
export interface Smmuv3PagingOwner {
  readonly iommu: IommuDriver;
  readonly maintenance: Smmuv3DriverMaintenance;
  /** What the SMMU refused to forget. */
  readonly unconfirmed: UnconfirmedInvalidations;
  /** Host memory for tables. */
  readonly memory: PageAllocator;
  /** Pages of tables that repeat guests' stages. */
  readonly shadows: ShadowPool;
  attachPaging(domain: Smmuv3PagingDomain, dev: HostDevice, pasid: number, old: Domain | null): number;
  attachPagingStream(domain: Smmuv3PagingDomain, dev: HostDevice, stream: number, old: Domain | null): number;
  released(domain: Smmuv3PagingDomain): void;
}

/** How the tables are tagged in the TLBs: an ASID of the kernel's stage 1, or a VMID. */
export type Stage =
  | { readonly kind: 1; readonly asid: number; readonly s1: StageOne }
  | { readonly kind: 2; readonly vmid: number; readonly s2: StageTwo };

/** The kernel's own translation: stage 1 for ordinary domains, stage 2 for nest parents (or without stage 1). */
export class Smmuv3PagingDomain implements PagingDomain, Invalidated {
  readonly kind = 'paging';
  readonly iommu: IommuDriver;
  readonly nestParent: boolean;
  readonly pageBytes = 4096;
  readonly apertureStart = 0n;
  readonly apertureLast: bigint;
  readonly dirty: DirtyOps | null;
  readonly stage: Stage;
  iopf = false;
  readonly #owner: Smmuv3PagingOwner;
  readonly #tables: Smmuv3PageTable;
  readonly #users = new Smmuv3Users();
  /** An invalidation failed: some cache may still know what is gone. */
  #stale = false;
  /** The domain repeats a stage of a guest: what lies below the start table belongs to it. */
  #copy: ShadowTables | null = null;

  constructor(owner: Smmuv3PagingOwner, tables: Smmuv3PageTable, stage: Stage, nestParent: boolean) {
    this.iommu = owner.iommu;
    this.#owner = owner;
    this.#tables = tables;
    this.stage = stage;
    this.nestParent = nestParent;
    this.apertureLast = (1n << BigInt(tables.config.ias)) - 1n;
    this.dirty = tables.config.dirty === true ? this.#dirtyOps() : null;
  }

  get pasidCapable(): boolean {
    return this.stage.kind === 1;
  }

  /** 4 KiB pages its tables occupy. */
  get tablePages(): number {
    return this.#tables.pages + (this.#copy?.pages ?? 0);
  }

  copyStage(): Result<StageCopy> {
    if (this.stage.kind !== 2) return -E.OPNOTSUPP;
    if (this.#copy !== null || !this.#users.empty || !this.#tables.unused) return -E.BUSY;
    const { memory, shadows } = this.#owner;
    this.#copy = new ShadowTables({
      format: stageTwoFormat(this.#tables.config, this.#tables.startLevel),
      root: this.#tables.root,
      pool: shadows,
      space: memory.space,
      limit: 2 ** this.#tables.config.oas,
      refusesReadOnly: false,
      forget: (page, pages, leaf) => this.#forgetPages(page, pages, leaf),
      announces: false,
    });
    return this.#copy;
  }

  #forgetPages(page: number, pages: number, leaf: boolean): number {
    const most = 2 ** this.#tables.config.ias / PAGE;
    if (page === 0 && pages >= most) return this.#forget(this.#everything);
    // One page is a leaf of the last level, or a part of one that was split.
    return this.#forget({ iova: page * PAGE, bytes: pages * PAGE, level: leaf && pages === 1 ? 3 : 0 });
  }

  /** The devices below it, nested ones included. */
  get users(): Iterable<Smmuv3User> {
    return this.#users;
  }

  join(user: Smmuv3User): void {
    this.#users.add(user);
  }

  leave(user: Smmuv3User): void {
    this.#users.remove(user);
    if (this.#users.empty) this.#stale = this.#drop() !== 0;
  }

  /** Every TLB forgets the domain. @returns 0 or -errno. */
  #drop(): number {
    const { maintenance } = this.#owner;
    return this.stage.kind === 2 ? maintenance.dropVmid(this.stage.vmid) : maintenance.dropAsid(this.stage.asid);
  }

  enforceCacheCoherency(): boolean {
    return this.iommu.enforcesCoherency;
  }

  map(iova: bigint, hpa: number, bytes: number, prot: number): number {
    if (iova + BigInt(bytes) - 1n > this.apertureLast) return -E.RANGE;
    if (hpa + bytes > 2 ** this.#tables.config.oas) return -E.RANGE;
    if ((prot & (PROT.READ | PROT.WRITE)) === 0) return 0;
    const at = Number(iova);
    if (this.#copy !== null) return this.#copy.fix(at / PAGE, hpa, bytes / PAGE, prot);
    const done = this.#tables.map(at, hpa, bytes, prot);
    if (done < bytes) {
      this.#tables.unmap(at, done);
      this.#tables.prune(at, bytes);
    }
    if (!this.#tables.retired && done === bytes) return 0;
    const r = this.#forget({ iova: at, bytes, level: 0 });
    if (r !== 0 && done === bytes) this.#tables.unmap(at, bytes);
    return r !== 0 || done === bytes ? r : -E.NOMEM;
  }

  unmap(iova: bigint, bytes: bigint, undo = false): bigint {
    if (iova > this.apertureLast) return 0n;
    const at = Number(iova);
    const end = iova + bytes > this.apertureLast ? Number(this.apertureLast) + 1 : Number(iova + bytes);
    if (this.#copy !== null) {
      const r = this.#copy.unfix(at / PAGE, (end - at) / PAGE);
      return BigInt(r < 0 ? r : end - at);
    }
    const done = this.#tables.unmap(at, end - at);
    if (undo) this.#tables.prune(at, end - at);
    const changed = done > 0 || this.#tables.retired || this.#stale;
    const r = changed ? this.#forget({ iova: at, bytes: end - at, level: this.#leafLevel() }) : 0;
    return BigInt(r < 0 ? r : done);
  }

  /** 1..3 when the last unmap cleared leaves of that level only, else 0. */
  #leafLevel(): number {
    if (this.#tables.retired) return 0;
    const levels = this.#tables.unmappedLevels;
    return levels === 1 ? 3 : levels === 2 ? 2 : levels === 4 ? 1 : 0;
  }

  /**
   * Every cache forgets the extent; then its old tables can go. A domain without users was flushed when the last one left,
   * and nothing can have come into a cache since. After a failure the old tables stay, and the next change forgets everything.
   * @returns 0 or -errno.
   */
  #forget(extent: Extent): number {
    const r = this.#users.empty && !this.#stale ? 0 : this.#invalidate(this.#stale ? this.#everything : extent);
    this.#stale = r !== 0;
    if (r === 0) this.#tables.reclaim();
    return r;
  }

  #invalidate(extent: Extent): number {
    const { maintenance } = this.#owner;
    if (this.stage.kind === 2) return maintenance.stageTwo(this.stage.vmid, extent, this.nestParent, this.#users);
    return maintenance.stageOne(this.stage.asid, extent, this.#users);
  }

  get #everything(): Extent {
    return { iova: 0, bytes: 2 ** this.#tables.config.ias, level: 0 };
  }

  iovaToPhys(iova: bigint): number {
    return iova > this.apertureLast ? -1 : this.#tables.iovaToPhys(Number(iova));
  }

  #dirtyOps(): DirtyOps {
    return {
      // CD.HD is set from the start; the clearing read before is what makes it count.
      set: () => 0,
      read: (iova, bytes, noClear, sink) => {
        const at = Number(iova);
        const size = Number(bytes);
        const cleaned = this.#tables.readDirty(at, size, noClear, (i, n) => sink.dirty(BigInt(i), n));
        return cleaned > 0 ? this.#forget({ iova: at, bytes: size, level: 0 }) : 0;
      },
    };
  }

  attach(dev: HostDevice, pasid: number, old: Domain | null): number {
    if (dev.iommu !== this.iommu) return -E.INVAL;
    if (pasid !== NO_PASID && this.stage.kind !== 1) return -E.OPNOTSUPP;
    return this.#owner.attachPaging(this, dev, pasid, old);
  }

  attachStream(dev: HostDevice, stream: number, old: Domain | null, pasid: number): number {
    if (pasid !== NO_PASID) return -E.OPNOTSUPP;
    return dev.iommu === this.iommu ? this.#owner.attachPagingStream(this, dev, stream, old) : -E.INVAL;
  }

  free(): void {
    // An SMMU that did not confirm a detach, or an invalidation, may still use the tables and their tag until it does.
    const { unconfirmed } = this.#owner;
    unconfirmed.afterwards(() => {
      if (this.#copy?.destroy() === false || (this.#stale && this.#drop() !== 0)) {
        // Whatever kept it from going, it is asked for with everything else, and not at once again.
        unconfirmed.refused();
        this.free();
        return;
      }
      this.#tables.destroy();
      this.#owner.released(this);
    });
  }
}
