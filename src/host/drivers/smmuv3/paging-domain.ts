import { NO_PASID } from '../../../ports/dma.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import type { DirtyOps, Domain, HostDevice, IommuDriver, PagingDomain } from '../../kernel/driver.ts';
import type { Invalidated, User } from './attach.ts';
import type { StageOne } from './cd.ts';
import type { StageTwo } from './entries.ts';
import { PROT } from './leaf.ts';
import type { Extent, Maintenance } from './maintenance.ts';
import type { IoPgtable } from './page-table.ts';
import { Users } from './users.ts';

/** What a paging domain asks of its driver. */
export interface PagingOwner {
  readonly iommu: IommuDriver;
  readonly maintenance: Maintenance;
  attachPaging(domain: SmmuPagingDomain, dev: HostDevice, pasid: number, old: Domain | null): number;
  released(domain: SmmuPagingDomain): void;
}

/** How the tables are tagged in the TLBs: an ASID of the kernel's stage 1, or a VMID. */
export type Stage =
  | { readonly kind: 1; readonly asid: number; readonly s1: StageOne }
  | { readonly kind: 2; readonly vmid: number; readonly s2: StageTwo };

/** The kernel's own translation: stage 1 for ordinary domains, stage 2 for nest parents (or without stage 1). */
export class SmmuPagingDomain implements PagingDomain, Invalidated {
  readonly kind = 'paging';
  readonly iommu: IommuDriver;
  readonly nestParent: boolean;
  readonly pageBytes = 4096;
  readonly apertureStart = 0n;
  readonly apertureLast: bigint;
  readonly dirty: DirtyOps | null;
  readonly stage: Stage;
  iopf = false;
  readonly #owner: PagingOwner;
  readonly #tables: IoPgtable;
  readonly #users = new Users();

  constructor(owner: PagingOwner, tables: IoPgtable, stage: Stage, nestParent: boolean) {
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
    return this.#tables.pages;
  }

  /** The devices below it, nested ones included. */
  get users(): Iterable<User> {
    return this.#users;
  }

  join(user: User): void {
    this.#users.add(user);
  }

  leave(user: User): void {
    this.#users.remove(user);
    if (this.#users.empty) this.#drop();
  }

  #drop(): void {
    if (this.stage.kind === 2) this.#owner.maintenance.dropVmid(this.stage.vmid);
    else this.#owner.maintenance.dropAsid(this.stage.asid);
  }

  enforceCacheCoherency(): boolean {
    return this.iommu.enforcesCoherency;
  }

  map(iova: bigint, hpa: number, bytes: number, prot: number): number {
    if (iova + BigInt(bytes) - 1n > this.apertureLast) return -E.RANGE;
    if (hpa + bytes > 2 ** this.#tables.config.oas) return -E.RANGE;
    if ((prot & (PROT.READ | PROT.WRITE)) === 0) return 0;
    const at = Number(iova);
    const done = this.#tables.map(at, hpa, bytes, prot);
    if (done < bytes) {
      this.#tables.unmap(at, done);
      this.#tables.prune(at, bytes);
    }
    if (this.#tables.retired || done < bytes) this.#forget({ iova: at, bytes, level: 0 });
    return done < bytes ? -E.NOMEM : 0;
  }

  unmap(iova: bigint, bytes: bigint, undo = false): bigint {
    if (iova > this.apertureLast) return 0n;
    const at = Number(iova);
    const end = iova + bytes > this.apertureLast ? Number(this.apertureLast) + 1 : Number(iova + bytes);
    const done = this.#tables.unmap(at, end - at);
    if (undo) this.#tables.prune(at, end - at);
    if (done > 0 || this.#tables.retired) this.#forget({ iova: at, bytes: end - at, level: this.#leafLevel() });
    return BigInt(done);
  }

  /** 1..3 when the last unmap cleared leaves of that level only, else 0. */
  #leafLevel(): number {
    if (this.#tables.retired) return 0;
    const levels = this.#tables.unmappedLevels;
    return levels === 1 ? 3 : levels === 2 ? 2 : levels === 4 ? 1 : 0;
  }

  /**
   * Every cache forgets the extent; then its old tables can go. A domain without users was flushed when the last one left,
   * and nothing can have come into a cache since.
   */
  #forget(extent: Extent): void {
    const { maintenance } = this.#owner;
    if (this.#users.empty) {
      this.#tables.reclaim();
      return;
    }
    if (this.stage.kind === 2) maintenance.stageTwo(this.stage.vmid, extent, this.nestParent, this.#users);
    else maintenance.stageOne(this.stage.asid, extent, this.#users);
    this.#tables.reclaim();
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
        if (cleaned > 0) this.#forget({ iova: at, bytes: size, level: 0 });
        return 0;
      },
    };
  }

  attach(dev: HostDevice, pasid: number, old: Domain | null): number {
    if (dev.iommu !== this.iommu) return -E.INVAL;
    if (pasid !== NO_PASID && this.stage.kind !== 1) return -E.OPNOTSUPP;
    return this.#owner.attachPaging(this, dev, pasid, old);
  }

  free(): void {
    this.#tables.destroy();
    this.#owner.released(this);
  }
}
