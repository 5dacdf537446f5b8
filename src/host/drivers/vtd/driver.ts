import { ViommuError } from '../../../core/errors.ts';
import { VtdFeatures } from '../../../lib/check/vtd-features.ts';
import { NO_PASID } from '../../../ports/dma.ts';
import { HW_ERROR, type HwPort } from '../../../ports/hw.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { HW_INFO, HWPT_DATA, HWPT_FLAG } from '../../../spec/iommufd/uapi.ts';
import type {
  BlockedDomain,
  DriverData,
  DriverViommu,
  HostDevice,
  HwInfo,
  IommuDriver,
  KernelServices,
  NestedDomain,
  PageFault,
  PagingDomain,
  ReservedRegion,
  Result,
} from '../../kernel/driver.ts';
import { copyDriverData } from '../../kernel/driver-data.ts';
import type { DriverUpcalls, UpcallDriver } from '../../upcalls/driver-upcalls.ts';
import { Attacher } from './attach.ts';
import { DomainIds } from './ids.ts';
import { VtdEvents } from './interrupts.ts';
import { Master, RID_PASID } from './master.ts';
import { VtdNestedDomain } from './nested-domain.ts';
import { PageRequests } from './page-requests.ts';
import { type PageAllocator, VtdPageTable } from './page-table.ts';
import { type DomainOwner, VtdPagingDomain } from './paging-domain.ts';
import { InvalidationQueue } from './queue.ts';
import { readVtdIdentity, VtdDriverRegisters } from './registers.ts';
import { PasidTable, RootTable } from './tables.ts';
import { Membership } from './users.ts';

export interface VtdDriverOptions {
  readonly name: string;
  readonly hw: HwPort;
  /** Host memory for tables. */
  readonly memory: PageAllocator;
  /** Host address width, bits (48). */
  readonly haw?: number;
  /** Way to upcalls; null or absent: `linux-only`. */
  readonly upcalls?: DriverUpcalls | null;
  /** Nest parents refuse read-only mappings, as Linux does for every unit (errata 772415). Default true. */
  readonly errata?: boolean;
  /** RMRRs by device: memory that stays mapped one to one. */
  readonly reserved?: (dev: HostDevice) => readonly ReservedRegion[];
}

const SECOND_FLAGS = HWPT_FLAG.NEST_PARENT | HWPT_FLAG.DIRTY_TRACKING | HWPT_FLAG.PASID;
const ERRATA_772415_SPR17 = 1;
const VTD_S1_BYTES = 24;
/** Flags of a context entry. */
const DTE = 0x4;
const PASIDE = 0x8;
const PRE = 0x10;

interface Probed {
  readonly kernel: KernelServices;
  readonly root: RootTable;
  readonly requests: PageRequests;
  readonly events: VtdEvents;
}

/** The kernel's driver of one physical VT-d unit in scalable mode: Linux's rules and errno over real tables. */
export class VtdDriver implements IommuDriver, UpcallDriver, DomainOwner {
  readonly name: string;
  readonly driver = 'vtd';
  readonly iommu: IommuDriver = this;
  readonly enforcesCoherency: boolean;
  /** The host owns the PASID table. */
  readonly userPasidTable = false;
  readonly blocked: BlockedDomain;
  readonly unit: VtdFeatures;
  readonly queue: InvalidationQueue;
  readonly attacher: Attacher;
  readonly allocNested: NonNullable<IommuDriver['allocNested']>;
  readonly #options: VtdDriverOptions;
  readonly #upcalls: DriverUpcalls | null;
  readonly #cap: bigint;
  readonly #ecap: bigint;
  readonly #ids: DomainIds;
  readonly #masters = new Map<number, Master>();
  #probed: Probed | null = null;

  constructor(options: VtdDriverOptions) {
    this.#options = options;
    this.name = options.name;
    this.#upcalls = options.upcalls ?? null;
    const { cap, ecap } = readVtdIdentity(options.hw);
    this.#cap = cap;
    this.#ecap = ecap;
    this.unit = new VtdFeatures(this.#cap, this.#ecap, options.haw ?? 48);
    this.enforcesCoherency = this.unit.snoopControl;
    this.#ids = new DomainIds(this.unit.domains);
    this.queue = new InvalidationQueue(options.hw, {
      pending: (sid, token) => this.#each(sid, (dev, upcalls) => upcalls.pending(dev, this, token)),
      timedOut: (sid) => this.#each(sid, (dev, upcalls) => upcalls.invalidateError(dev, HW_ERROR.ATC_TIMEOUT)),
    });
    const masterOf = (dev: HostDevice): Master | null => this.#masters.get(dev.index) ?? null;
    this.attacher = new Attacher(this.unit, this.queue, masterOf, ({ dev }, pasid) =>
      this.#state.requests.drain(dev, pasid === RID_PASID ? NO_PASID : pasid),
    );
    this.allocNested = (_dev, parent, flags, data) => this.#allocNested(parent, flags, data);
    this.blocked = {
      kind: 'blocked',
      iommu: this,
      pasidCapable: true,
      iopf: false,
      attach: (dev, pasid, old) => {
        const master = masterOf(dev);
        if (master !== null) this.attacher.tearDown(master, pasid === NO_PASID ? RID_PASID : pasid, old);
        return 0;
      },
      free: () => {},
    };
  }

  #each(sid: number, tell: (dev: HostDevice, upcalls: DriverUpcalls) => void): void {
    const dev = this.#state.kernel.deviceByStream(this, sid);
    if (dev !== null && this.#upcalls !== null) tell(dev, this.#upcalls);
  }

  get #state(): Probed {
    if (this.#probed === null) throw new ViommuError('EINVAL', 'caller', `${this.name} is not part of a kernel yet`);
    return this.#probed;
  }

  /**
   * Sets the tables up and switches translation on.
   * @throws ViommuError `ENOMEM`: no room for the root table; `EINVAL`: a unit without scalable mode or without any stage;
   *   `ETIMEDOUT`, `EIO`: it does not do what it is told.
   */
  probe(kernel: KernelServices): void {
    const { hw, memory } = this.#options;
    const { unit } = this;
    if (!unit.scalable || (!unit.firstStage && !unit.secondStage)) {
      throw new ViommuError('EINVAL', 'caller', `${this.name} needs scalable mode and a stage`, { ecap: this.#ecap });
    }
    const root = RootTable.create(hw, memory);
    if (root === null) throw new ViommuError('ENOMEM', 'host', `no room for the root table of ${this.name}`);
    const deviceOf = (rid: number) => kernel.deviceByStream(this, rid);
    const requests = new PageRequests(kernel, this.#upcalls, this.queue, deviceOf);
    const events = new VtdEvents(this, kernel, this.#upcalls, requests, deviceOf);
    this.#probed = { kernel, root, requests, events };
    new VtdDriverRegisters(hw, this.queue).start(root.base, unit.pageRequests);
    this.#upcalls?.register(this);
  }

  /** What the hardware raises; valid after `probe`. */
  get events(): VtdEvents {
    return this.#state.events;
  }

  /** @returns -ENOMEM: no room for its tables. */
  addDevice(dev: HostDevice): number {
    const { unit } = this;
    const { hw, memory } = this.#options;
    const { root } = this.#state;
    const pasids = dev.maxPasids > 0 && unit.pasidBits > 0;
    const table = PasidTable.create(hw, memory, pasids ? Math.min(dev.maxPasids, 2 ** unit.pasidBits) : 1);
    if (table === null) return -E.NOMEM;
    const made: number[] = [];
    if (!table.prepare(RID_PASID) || !root.prepare(dev.streams, made)) {
      for (const rid of made) root.takeBack(rid);
      table.destroy();
      return -E.NOMEM;
    }
    const ats = unit.deviceTlb && dev.ats;
    const pri = ats && unit.pageRequests && dev.pri;
    const flags = (ats ? DTE : 0) | (pasids ? PASIDE : 0) | (pri ? PRE : 0) | (table.pdts << 9);
    const master = new Master(dev, table, ats, pri, pasids);
    master.madeTables = made;
    this.#masters.set(dev.index, master);
    for (const rid of dev.streams) root.set(rid, table.directory, flags);
    if (unit.cachingMode) this.#forgetDevice(dev);
    if (ats) dev.control?.setAts(true);
    if (pri) dev.control?.setPri(true);
    return 0;
  }

  removeDevice(dev: HostDevice, undo: boolean): void {
    const master = this.#masters.get(dev.index);
    if (master === undefined) return;
    for (const pasid of [...master.entries.keys()]) this.attacher.tearDown(master, pasid, null);
    if (master.pri) dev.control?.setPri(false);
    if (master.ats) dev.control?.setAts(false);
    for (const rid of dev.streams) this.#state.root.clear(rid);
    this.#forgetDevice(dev);
    if (undo) for (const rid of master.madeTables) this.#state.root.takeBack(rid);
    this.#masters.delete(dev.index);
    master.table.destroy();
  }

  /** A context entry changed: the caches in the order of VT-d §6.5.3.3. */
  #forgetDevice(dev: HostDevice): void {
    for (const rid of dev.streams) this.queue.contextDevice(rid);
    this.queue.pasidCacheGlobal();
    this.queue.iotlbGlobal();
    this.queue.flush();
  }

  hwInfo(_dev: HostDevice, type: number): HwInfo | null {
    if (type !== HW_INFO.NONE && type !== HW_INFO.INTEL_VTD) return null;
    const data = new DataView(new ArrayBuffer(24));
    data.setUint32(0, this.#refusesReadOnly ? ERRATA_772415_SPR17 : 0, true);
    data.setBigUint64(8, this.#cap, true);
    data.setBigUint64(16, this.#ecap, true);
    return { type: HW_INFO.INTEL_VTD, data: new Uint8Array(data.buffer) };
  }

  get #refusesReadOnly(): boolean {
    return this.#options.errata ?? true;
  }

  atsCapable(dev: HostDevice): boolean {
    return this.unit.deviceTlb && dev.ats;
  }

  dirtyCapable(_dev: HostDevice): boolean {
    return this.unit.secondAccessDirty && this.unit.pageWalkCoherency && this.unit.secondStage;
  }

  /** The interrupt window, and the device's RMRRs. */
  reservedRegions(dev: HostDevice): readonly ReservedRegion[] {
    const msi: ReservedRegion = { start: 0xfee0_0000n, last: 0xfeef_ffffn, kind: 'msi' };
    return [...(this.#options.reserved?.(dev) ?? []), msi];
  }

  /** First-stage format where it can be, else second-stage. @returns -EOPNOTSUPP flags or data; -ENOMEM no table. */
  allocPaging(dev: HostDevice, flags: number, data: DriverData | null): Result<PagingDomain> {
    const { unit } = this;
    if (data !== null) return -E.OPNOTSUPP;
    if ((flags & ~HWPT_FLAG.PASID) === 0 && unit.firstStage) {
      const levels = unit.fiveLevels ? 5 : 4;
      const largest = unit.limits.fs1g ? 3 : 2;
      // The lower half only: what sign extension mirrors is not handed out.
      return this.#paging({ stage: 'first', levels, largest }, 11 + 9 * levels, false, false);
    }
    const parent = (flags & HWPT_FLAG.NEST_PARENT) !== 0;
    const dirty = (flags & HWPT_FLAG.DIRTY_TRACKING) !== 0;
    if ((flags & ~SECOND_FLAGS) !== 0 || !unit.secondStage) return -E.OPNOTSUPP;
    if ((parent && !unit.nested) || (dirty && !this.dirtyCapable(dev))) return -E.OPNOTSUPP;
    const levels = this.#secondLevels();
    const largest = unit.limits.ss1g ? 3 : unit.limits.ss2m ? 2 : 1;
    return this.#paging({ stage: 'second', levels, largest }, Math.min(unit.mgaw, 12 + 9 * levels), parent, dirty);
  }

  /** The narrowest width the unit walks that covers its MGAW, else the widest. */
  #secondLevels(): number {
    let levels = 3;
    for (const aw of [1, 2, 3]) {
      if (!this.unit.walks(aw)) continue;
      levels = aw + 2;
      if (12 + 9 * levels >= this.unit.mgaw) break;
    }
    return levels;
  }

  #paging(config: VtdPageTable['config'], bits: number, nestParent: boolean, dirty: boolean): Result<PagingDomain> {
    const tables = VtdPageTable.create(this.#options.memory, config);
    if (tables === null) return -E.NOMEM;
    const options = { nestParent, dirty, refusesReadOnly: this.#refusesReadOnly };
    return new VtdPagingDomain(this, new Membership(this.#ids), tables, bits, options);
  }

  /** What the structure says is looked at by attach only. */
  #allocNested(parent: PagingDomain, flags: number, data: DriverData): Result<NestedDomain> {
    if (!this.unit.nested || (flags & ~HWPT_FLAG.PASID) !== 0) return -E.OPNOTSUPP;
    if (data.type !== HWPT_DATA.VTD_S1) return -E.OPNOTSUPP;
    if (!(parent instanceof VtdPagingDomain) || parent.first || !parent.nestParent) return -E.INVAL;
    const bytes = new Uint8Array(VTD_S1_BYTES);
    const copied = copyDriverData(data, HWPT_DATA.VTD_S1, VTD_S1_BYTES, bytes);
    if (copied !== 0) return copied;
    const v = new DataView(bytes.buffer);
    const first = { flags: v.getUint32(0, true), pgtblAddr: v.getBigUint64(8, true), addrWidth: v.getUint32(16, true) };
    return new VtdNestedDomain(this, new Membership(this.#ids), parent, first);
  }

  viommuSupported(): boolean {
    return false;
  }

  viommuInit(): Result<DriverViommu> {
    return -E.OPNOTSUPP;
  }

  pageResponse(dev: HostDevice, fault: PageFault, code: number): void {
    this.#state.requests.respond(dev, fault, code);
  }

  /** An entry that is not present is asked for anyway. */
  served(_dev: HostDevice, _on: boolean): void {}

  mapStreams(): number {
    return -E.OPNOTSUPP;
  }

  quiet(dev: HostDevice, pasid: number, on: boolean): number {
    return this.attacher.quiet(dev, pasid, on);
  }

  respond(dev: HostDevice, pasid: number, group: number, code: number, stall: boolean): number {
    return !stall && this.#state.requests.respondTaken(dev, pasid, group, code) ? 0 : -E.INVAL;
  }

  /** A guest's own device-TLB invalidation. @returns 0, or -EOPNOTSUPP: the function has no ATS. */
  invalidateDeviceTlb(dev: HostDevice, pasid: number, lo: number, hi: number, global: boolean): number {
    const master = this.#masters.get(dev.index);
    if (master === undefined || !master.ats) return -E.OPNOTSUPP;
    for (const rid of dev.streams) this.queue.deviceTlbRaw(rid, pasid, lo, hi, global);
    this.queue.flush();
    return 0;
  }
}
