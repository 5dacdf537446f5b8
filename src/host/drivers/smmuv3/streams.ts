import { NO_PASID } from '../../../ports/dma.ts';
import type { HwPort } from '../../../ports/hw.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { CONFIG, S1DSS, STE_WORDS } from '../../../spec/smmuv3/ste.ts';
import type { Domain, HostDevice, KernelServices } from '../../kernel/driver.ts';
import type { DriverUpcalls } from '../../upcalls/driver-upcalls.ts';
import type { PageAllocator } from '../page-allocator.ts';
import { type Invalidated, Smmuv3DriverAttacher } from './attach.ts';
import { abortSte, cdTableSte, invalidSte, nestedSte, quietCd, stageOneCd, stageTwoSte } from './entries.ts';
import { ENTRY_HALVES } from './entry-writer.ts';
import type { Smmuv3DriverFeatures } from './features.ts';
import { type LatchedStream, Smmuv3Master } from './master.ts';
import { Smmuv3NestedDomain } from './nested-domain.ts';
import { Smmuv3PagingDomain } from './paging-domain.ts';
import { Smmuv3CdTable } from './pasid-table.ts';
import type { Smmuv3DriverQueue } from './queue.ts';
import type { StreamTable } from './tables.ts';
import { ALL_STREAMS } from './users.ts';

export interface Smmuv3DriverStreamsParts {
  readonly kernel: KernelServices;
  readonly hw: HwPort;
  readonly memory: PageAllocator;
  readonly features: Smmuv3DriverFeatures;
  readonly queue: Smmuv3DriverQueue;
  readonly table: StreamTable;
  readonly upcalls: DriverUpcalls | null;
  readonly canStall: (dev: HostDevice) => boolean;
}

/** The devices behind one SMMU and what their table entries say. */
export class Smmuv3DriverStreams {
  readonly #deps: Smmuv3DriverStreamsParts;
  readonly #masters = new Map<number, Smmuv3Master>();
  readonly #attacher: Smmuv3DriverAttacher;

  constructor(deps: Smmuv3DriverStreamsParts) {
    this.#deps = deps;
    this.#attacher = new Smmuv3DriverAttacher(deps.queue, deps.table, deps.features.ats);
  }

  masterOf(dev: HostDevice): Smmuv3Master | null {
    return this.#masters.get(dev.index) ?? null;
  }

  /** @returns -ERANGE a StreamID beyond the SMMU's; -ENOMEM; -errno of a command that failed. */
  add(dev: HostDevice): number {
    const { table, features, canStall } = this.#deps;
    for (const sid of dev.streams) if (!table.inRange(sid)) return -E.RANGE;
    const made: number[] = [];
    if (!table.prepare(dev.streams, made)) {
      this.#takeBack(made);
      return -E.NOMEM;
    }
    const master = new Smmuv3Master(dev, features, canStall(dev));
    master.madeTables = made;
    // What the table says of streams without a device.
    for (const { ste } of master.streams) abortSte(ste);
    this.#masters.set(dev.index, master);
    const r = this.#block(master, null);
    if (r !== 0) {
      this.#masters.delete(dev.index);
      this.#takeBack(made);
    }
    return r;
  }

  /** @param undo its arrival failed: the tables that were made for it go too. */
  remove(dev: HostDevice, undo: boolean): void {
    const master = this.masterOf(dev);
    if (master === null) return;
    const ste = new Int32Array(STE_WORDS);
    abortSte(ste);
    this.#attacher.writeStes(master.streams, ste);
    // An SMMU that does not confirm may still read the device's CD table.
    this.#deps.queue.unconfirmed.afterwards(() => void master.cds?.destroy());
    this.#masters.delete(dev.index);
    if (undo) this.#takeBack(master.madeTables);
  }

  #takeBack(sids: readonly number[]): void {
    const { queue, table } = this.#deps;
    for (const sid of sids) {
      table.takeBack(sid, () => {
        queue.cfgiSte(sid);
        return queue.sync();
      });
    }
  }

  /** What the functions behind the SMMU may hold. */
  forgetDevices(): void {
    const { queue } = this.#deps;
    for (const master of this.#masters.values()) {
      for (const { sid, ats } of master.streams) if (ats) queue.atcInvWhole(sid, master.ssidBits > 0);
    }
  }

  /** A listener of upcalls came or went: a stream without a domain asks it, or is refused silently. */
  served(dev: HostDevice): void {
    const master = this.masterOf(dev);
    if (master?.blocked !== true || master.pasidsInUse) return;
    if (master.streams.every((s) => s.own === null)) this.#block(master, null);
    else master.streams.forEach((s, i) => void (s.own === null && this.#blockStream(master, i, null)));
  }

  /** What a stream goes through: its own domain, or its device's. */
  attached(dev: HostDevice, stream: number): Domain | null {
    return this.masterOf(dev)?.streams[stream]?.own ?? this.#deps.kernel.attached(dev, NO_PASID);
  }

  /**
   * One stream of a device that is attached to nothing as a whole.
   * @returns 0; -EBUSY: PASIDs of the device are attached; -EINVAL: the domain is a stage 1 of the kernel, whose CD table is
   *   the device's; -errno of a command that failed, and `old` is in force.
   */
  attachPagingStream(domain: Smmuv3PagingDomain, dev: HostDevice, stream: number, old: Domain | null): number {
    const master = this.masterOf(dev);
    if (master === null) return -E.NODEV;
    if (master.pasidsInUse) return -E.BUSY;
    const { stage } = domain;
    if (stage.kind !== 2) return -E.INVAL;
    const r = this.#move(master, stream, old, domain, true, null, (ste, ats) =>
      stageTwoSte(ste, master, stage.s2, ats),
    );
    if (r === 0) master.streams[stream]!.own = domain;
    return r;
  }

  /** A stream by itself has nothing any more. @returns as `detach`. */
  detachStream(dev: HostDevice, stream: number, old: Domain | null): number {
    const master = this.masterOf(dev);
    if (master === null) return 0;
    master.streams[stream]!.own = null;
    return this.#blockStream(master, stream, old);
  }

  #blockStream(master: Smmuv3Master, stream: number, old: Domain | null): number {
    return this.#move(master, stream, old, null, false, null, (ste) => this.#blocked(ste, master));
  }

  /** Nothing is attached: a listener of upcalls is asked on first use; without one the stream aborts silently. */
  #blocked(ste: Int32Array, master: Smmuv3Master): void {
    if (this.#deps.upcalls?.serves(master.dev) === true) invalidSte(ste);
    else abortSte(ste);
  }

  attachPaging(domain: Smmuv3PagingDomain, dev: HostDevice, pasid: number, old: Domain | null): number {
    const master = this.masterOf(dev);
    if (master === null) return -E.NODEV;
    if (pasid !== NO_PASID) return this.#attachPasid(domain, master, pasid, old);
    const { stage } = domain;
    const faults = this.#attacher.faultsPossible(master, domain.iopf);
    if (faults !== 0) return faults;
    if (stage.kind === 2) {
      if (master.pasidsInUse) return -E.BUSY;
      const r = this.#move(master, ALL_STREAMS, old, domain, true, null, (ste, ats) =>
        stageTwoSte(ste, master, stage.s2, ats),
      );
      return r || this.#clearCd(master, 0);
    }
    const cds = this.#cds(master, 0, domain);
    if (cds === null) return -E.NOMEM;
    const before = cds.read(0);
    const r =
      this.#writeCd(master, cds, 0, domain) ||
      this.#move(master, ALL_STREAMS, old, domain, true, null, (ste, ats) =>
        cdTableSte(ste, master, cds, ats, S1DSS.SSID0),
      );
    if (r !== 0) cds.write(0, before, () => this.#syncCd(master, 0));
    return r;
  }

  /** @param stream index of the stream that is attached by itself, or ALL_STREAMS. */
  attachNested(
    domain: Smmuv3NestedDomain,
    dev: HostDevice,
    stream: number,
    old: Domain | null,
    latched: LatchedStream | null,
  ): number {
    const master = this.masterOf(dev);
    if (master === null) return -E.NODEV;
    if (master.pasidsInUse) return -E.BUSY;
    const faults = this.#attacher.faultsPossible(master, domain.iopf);
    if (faults !== 0) return faults;
    const { stage } = domain.parent;
    if (stage.kind !== 2) return -E.INVAL;
    const { vste } = domain;
    const r = this.#move(master, stream, old, domain.parent, domain.ats, latched, (ste, ats) => {
      if (vste.config === CONFIG.S1) nestedSte(ste, master, stage.s2, vste.words, ats);
      else if (vste.config === CONFIG.BYPASS) stageTwoSte(ste, master, stage.s2, ats);
      else abortSte(ste);
    });
    if (stream === ALL_STREAMS) return r || this.#clearCd(master, 0);
    if (r === 0) master.streams[stream]!.own = domain;
    return r;
  }

  /**
   * The (device, PASID) is on nothing from now on.
   * @param undo the attach of `old` is taken back: so is the CD table it made.
   * @returns 0; -errno: the SMMU did not confirm, and `old` keeps the device in its list.
   */
  detach(dev: HostDevice, pasid: number, old: Domain | null, undo: boolean): number {
    const master = this.masterOf(dev);
    if (master === null) return 0;
    const r = pasid === NO_PASID ? this.#block(master, old) : this.#detachPasid(master, pasid, old);
    if (r !== 0 || !undo || master.cdsFor !== old || master.pasidsInUse) return r;
    master.cds?.destroy();
    master.cds = null;
    return 0;
  }

  /**
   * A PASID without a domain keeps silent, or no longer. While the stream entry leads to no CD table of the kernel's, it is
   * blocked as a whole, which records nothing.
   * @returns 0; -EINVAL no such PASID; -EOPNOTSUPP: the RID has no CD table of the kernel's (the guest has its own); -EBUSY
   *   something is attached; -ENOMEM; -EIO: the SMMU did not confirm.
   */
  quiet(dev: HostDevice, pasid: number, on: boolean): number {
    const master = this.masterOf(dev);
    if (master === null) return -E.INVAL;
    const rid = this.#deps.kernel.attached(dev, NO_PASID);
    if (!master.blocked && !(rid instanceof Smmuv3PagingDomain && rid.stage.kind === 1)) return -E.OPNOTSUPP;
    if (pasid < 1 || pasid >= 2 ** master.ssidBits) return -E.INVAL;
    if (this.#deps.kernel.attached(dev, pasid) !== null) return -E.BUSY;
    const { cds, quiet } = master;
    if (!on) return quiet.delete(pasid) ? this.#clearCd(master, pasid) : 0;
    if (cds === null || (master.blocked && !master.pasidsInUse)) return 0;
    if (!cds.prepare(pasid)) return -E.NOMEM;
    const cd = new Int32Array(ENTRY_HALVES);
    quietCd(cd, this.#deps.features.stallForce);
    quiet.add(pasid);
    return cds.write(pasid, cd, () => this.#syncCd(master, pasid));
  }

  #detachPasid(master: Smmuv3Master, pasid: number, old: Domain | null): number {
    const r = this.#clearCd(master, pasid) || (master.ats ? this.#attacher.flushAtc(master, pasid) : 0);
    this.#deps.queue.unconfirmed.afterwards(() => stageOf(old)?.leave({ master, ssid: pasid, stream: ALL_STREAMS }));
    // The kernel's CD table is no longer needed for the PASIDs' sake.
    return (master.blocked && !master.pasidsInUse ? this.#block(master, null) : 0) || r;
  }

  #block(master: Smmuv3Master, old: Domain | null): number {
    const { cds, pasidsInUse } = master;
    const r = this.#move(master, ALL_STREAMS, old, null, pasidsInUse, null, (ste, ats) => {
      if (pasidsInUse && cds !== null) cdTableSte(ste, master, cds, ats, S1DSS.TERMINATE);
      else this.#blocked(ste, master);
    });
    return this.#clearCd(master, 0) || r;
  }

  #move(
    master: Smmuv3Master,
    stream: number,
    old: Domain | null,
    joins: Invalidated | null,
    ats: boolean,
    latched: LatchedStream | null,
    ste: (into: Int32Array, ats: boolean) => void,
  ): number {
    const leaves = stageOf(old);
    return this.#attacher.moveRid({ master, stream, joins, leaves, ats, latched, blocked: joins === null, ste });
  }

  #attachPasid(domain: Smmuv3PagingDomain, master: Smmuv3Master, pasid: number, old: Domain | null): number {
    if (pasid >= 2 ** master.ssidBits) return -E.INVAL;
    // Only the kernel's own CD table has room for it: the RID is blocked or on a stage 1 of the kernel.
    const rid = this.#deps.kernel.attached(master.dev, NO_PASID);
    const ridStage = rid instanceof Smmuv3PagingDomain ? rid.stage.kind : 0;
    if (!master.blocked && ridStage !== 1) return -E.INVAL;
    const cds = this.#cds(master, pasid, domain);
    if (cds === null) return -E.NOMEM;
    const user = { master, ssid: pasid, stream: ALL_STREAMS };
    const before = cds.read(pasid);
    domain.join(user);
    const r = this.#attacher.movePasid(master, pasid, true, (ats) => {
      const written = this.#writeCd(master, cds, pasid, domain);
      if (written !== 0) return written;
      const ste = new Int32Array(STE_WORDS);
      cdTableSte(ste, master, cds, ats, master.blocked ? S1DSS.TERMINATE : S1DSS.SSID0);
      return this.#attacher.writeStes(master.streams, ste);
    });
    if (r === 0) master.quiet.delete(pasid);
    if (r !== 0) {
      cds.write(pasid, before, () => this.#syncCd(master, pasid));
      domain.leave(user);
      return r;
    }
    stageOf(old)?.leave(user);
    return 0;
  }

  /** The device's CD table with room for `ssid`, for a domain that is to be attached; null: out of memory. */
  #cds(master: Smmuv3Master, ssid: number, domain: Smmuv3PagingDomain): Smmuv3CdTable | null {
    const { hw, memory, features } = this.#deps;
    const cds = master.cds ?? Smmuv3CdTable.create(hw, memory, master.ssidBits, features.twoLevelCds);
    if (cds === null) return null;
    if (!cds.prepare(ssid)) {
      if (master.cds === null) cds.destroy();
      return null;
    }
    if (master.cds === null) master.cdsFor = domain;
    master.cds = cds;
    return cds;
  }

  #writeCd(master: Smmuv3Master, cds: Smmuv3CdTable, ssid: number, domain: Smmuv3PagingDomain): number {
    const { stage } = domain;
    if (stage.kind !== 1) return 0;
    const cd = new Int32Array(ENTRY_HALVES);
    stageOneCd(cd, stage.s1, master.stallEnabled);
    return cds.write(ssid, cd, () => this.#syncCd(master, ssid));
  }

  #clearCd(master: Smmuv3Master, ssid: number): number {
    return master.cds?.clear(ssid, () => this.#syncCd(master, ssid)) ?? 0;
  }

  #syncCd(master: Smmuv3Master, ssid: number): number {
    for (const sid of master.dev.streams) this.#deps.queue.cfgiCd(sid, ssid);
    return this.#deps.queue.sync();
  }
}

/** Whose changes concern a device that is attached to `domain`. */
function stageOf(domain: Domain | null): Smmuv3PagingDomain | null {
  if (domain instanceof Smmuv3PagingDomain) return domain;
  return domain instanceof Smmuv3NestedDomain ? domain.parent : null;
}
