import { NO_PASID } from '../../../ports/dma.ts';
import type { HwPort } from '../../../ports/hw.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { CONFIG, S1DSS, STE_WORDS } from '../../../spec/smmuv3/ste.ts';
import type { Domain, HostDevice, KernelServices } from '../../kernel/driver.ts';
import type { DriverUpcalls } from '../../upcalls/driver-upcalls.ts';
import { Attacher, type Invalidated } from './attach.ts';
import { stageOneCd } from './cd.ts';
import { abortSte, cdTableSte, invalidSte, nestedSte, stageTwoSte } from './entries.ts';
import { ENTRY_HALVES } from './entry-writer.ts';
import type { SmmuFeatures } from './features.ts';
import { type LatchedStreams, Master } from './master.ts';
import { SmmuNestedDomain } from './nested-domain.ts';
import type { PageAllocator } from './page-table.ts';
import { SmmuPagingDomain } from './paging-domain.ts';
import { KernelCdTable } from './pasid-table.ts';
import type { CommandQueue } from './queue.ts';
import type { StreamTable } from './tables.ts';

export interface StreamsDeps {
  readonly kernel: KernelServices;
  readonly hw: HwPort;
  readonly memory: PageAllocator;
  readonly features: SmmuFeatures;
  readonly queue: CommandQueue;
  readonly table: StreamTable;
  readonly upcalls: DriverUpcalls | null;
  readonly canStall: (dev: HostDevice) => boolean;
}

/** The devices behind one SMMU and what their table entries say. */
export class Streams {
  readonly #deps: StreamsDeps;
  readonly #masters = new Map<number, Master>();
  readonly #attacher: Attacher;

  constructor(deps: StreamsDeps) {
    this.#deps = deps;
    this.#attacher = new Attacher(deps.queue, deps.table, deps.features.ats);
  }

  masterOf(dev: HostDevice): Master | null {
    return this.#masters.get(dev.index) ?? null;
  }

  /** @returns -ERANGE a StreamID beyond the SMMU's; -ENOMEM. */
  add(dev: HostDevice): number {
    const { table, features, canStall } = this.#deps;
    for (const sid of dev.streams) if (!table.inRange(sid)) return -E.RANGE;
    const made: number[] = [];
    if (!table.prepare(dev.streams, made)) {
      this.#takeBack(made);
      return -E.NOMEM;
    }
    const master = new Master(dev, features, canStall(dev));
    master.madeTables = made;
    // What the table says of streams without a device.
    for (const ste of master.stes) abortSte(ste);
    this.#masters.set(dev.index, master);
    this.#block(master, null);
    return 0;
  }

  /** @param undo its arrival failed: the tables that were made for it go too. */
  remove(dev: HostDevice, undo: boolean): void {
    const master = this.masterOf(dev);
    if (master === null) return;
    const ste = new Int32Array(STE_WORDS);
    abortSte(ste);
    this.#attacher.writeSte(master, ste);
    master.cds?.destroy();
    this.#masters.delete(dev.index);
    if (undo) this.#takeBack(master.madeTables);
  }

  #takeBack(sids: readonly number[]): void {
    const { queue, table } = this.#deps;
    for (const sid of sids) {
      table.takeBack(sid, () => {
        queue.cfgiSte(sid);
        queue.sync();
      });
    }
  }

  /** A listener of upcalls came or went: a stream without a domain asks it, or is refused silently. */
  served(dev: HostDevice): void {
    const master = this.masterOf(dev);
    if (master?.blocked === true && !master.pasidsInUse) this.#block(master, null);
  }

  attachPaging(domain: SmmuPagingDomain, dev: HostDevice, pasid: number, old: Domain | null): number {
    const master = this.masterOf(dev);
    if (master === null) return -E.NODEV;
    if (pasid !== NO_PASID) return this.#attachPasid(domain, master, pasid, old);
    const { stage } = domain;
    const faults = this.#attacher.faultsPossible(master, domain.iopf);
    if (faults !== 0) return faults;
    if (stage.kind === 2) {
      if (master.pasidsInUse) return -E.BUSY;
      this.#move(master, old, domain, true, null, (ste, ats) => stageTwoSte(ste, master, stage.s2, ats));
      this.#clearCd(master, 0);
      return 0;
    }
    const cds = this.#cds(master, 0, domain);
    if (cds === null) return -E.NOMEM;
    this.#writeCd(master, cds, 0, domain);
    this.#move(master, old, domain, true, null, (ste, ats) => cdTableSte(ste, master, cds, ats, S1DSS.SSID0));
    return 0;
  }

  attachNested(domain: SmmuNestedDomain, dev: HostDevice, old: Domain | null, latched: LatchedStreams | null): number {
    const master = this.masterOf(dev);
    if (master === null) return -E.NODEV;
    if (master.pasidsInUse) return -E.BUSY;
    const faults = this.#attacher.faultsPossible(master, domain.iopf);
    if (faults !== 0) return faults;
    const { stage } = domain.parent;
    if (stage.kind !== 2) return -E.INVAL;
    const { vste } = domain;
    this.#move(master, old, domain.parent, domain.ats, latched, (ste, ats) => {
      if (vste.config === CONFIG.S1) nestedSte(ste, master, stage.s2, vste.words, ats);
      else if (vste.config === CONFIG.BYPASS) stageTwoSte(ste, master, stage.s2, ats);
      else abortSte(ste);
    });
    this.#clearCd(master, 0);
    return 0;
  }

  /** @param undo the attach of `old` is taken back: so is the CD table it made. */
  detach(dev: HostDevice, pasid: number, old: Domain | null, undo: boolean): void {
    const master = this.masterOf(dev);
    if (master === null) return;
    if (pasid === NO_PASID) this.#block(master, old);
    else this.#detachPasid(master, pasid, old);
    if (!undo || master.cdsFor !== old || master.pasidsInUse) return;
    master.cds?.destroy();
    master.cds = null;
  }

  #detachPasid(master: Master, pasid: number, old: Domain | null): void {
    this.#clearCd(master, pasid);
    if (master.ats) this.#attacher.flushAtc(master, pasid);
    stageOf(old)?.leave({ master, ssid: pasid });
    // The kernel's CD table is no longer needed for the PASIDs' sake.
    if (master.blocked && !master.pasidsInUse) this.#block(master, null);
  }

  #block(master: Master, old: Domain | null): void {
    const { upcalls } = this.#deps;
    const { cds, pasidsInUse } = master;
    this.#move(master, old, null, pasidsInUse, null, (ste, ats) => {
      if (pasidsInUse && cds !== null) cdTableSte(ste, master, cds, ats, S1DSS.TERMINATE);
      else if (upcalls?.serves(master.dev) === true) invalidSte(ste);
      else abortSte(ste);
    });
    this.#clearCd(master, 0);
  }

  #move(
    master: Master,
    old: Domain | null,
    joins: Invalidated | null,
    ats: boolean,
    latched: LatchedStreams | null,
    ste: (into: Int32Array, ats: boolean) => void,
  ): void {
    this.#attacher.moveRid({ master, joins, leaves: stageOf(old), ats, latched, blocked: joins === null, ste });
  }

  #attachPasid(domain: SmmuPagingDomain, master: Master, pasid: number, old: Domain | null): number {
    if (pasid >= 2 ** master.ssidBits) return -E.INVAL;
    // Only the kernel's own CD table has room for it: the RID is blocked or on a stage 1 of the kernel.
    const rid = this.#deps.kernel.attached(master.dev, NO_PASID);
    const ridStage = rid instanceof SmmuPagingDomain ? rid.stage.kind : 0;
    if (!master.blocked && ridStage !== 1) return -E.INVAL;
    const cds = this.#cds(master, pasid, domain);
    if (cds === null) return -E.NOMEM;
    const user = { master, ssid: pasid };
    domain.join(user);
    this.#attacher.movePasid(master, pasid, true, (ats) => {
      this.#writeCd(master, cds, pasid, domain);
      const ste = new Int32Array(STE_WORDS);
      cdTableSte(ste, master, cds, ats, master.blocked ? S1DSS.TERMINATE : S1DSS.SSID0);
      this.#attacher.writeSte(master, ste);
    });
    stageOf(old)?.leave(user);
    return 0;
  }

  /** The device's CD table with room for `ssid`, for a domain that is to be attached; null: out of memory. */
  #cds(master: Master, ssid: number, domain: SmmuPagingDomain): KernelCdTable | null {
    const { hw, memory, features } = this.#deps;
    const cds = master.cds ?? KernelCdTable.create(hw, memory, master.ssidBits, features.twoLevelCds);
    if (cds === null) return null;
    if (!cds.prepare(ssid)) {
      if (master.cds === null) cds.destroy();
      return null;
    }
    if (master.cds === null) master.cdsFor = domain;
    master.cds = cds;
    return cds;
  }

  #writeCd(master: Master, cds: KernelCdTable, ssid: number, domain: SmmuPagingDomain): void {
    const { stage } = domain;
    if (stage.kind !== 1) return;
    const cd = new Int32Array(ENTRY_HALVES);
    stageOneCd(cd, stage.s1, master.stallEnabled);
    cds.write(ssid, cd, () => this.#syncCd(master, ssid));
  }

  #clearCd(master: Master, ssid: number): void {
    master.cds?.clear(ssid, () => this.#syncCd(master, ssid));
  }

  #syncCd(master: Master, ssid: number): void {
    for (const sid of master.dev.streams) this.#deps.queue.cfgiCd(sid, ssid);
    this.#deps.queue.sync();
  }
}

/** Whose changes concern a device that is attached to `domain`. */
function stageOf(domain: Domain | null): SmmuPagingDomain | null {
  if (domain instanceof SmmuPagingDomain) return domain;
  return domain instanceof SmmuNestedDomain ? domain.parent : null;
}
