import { ViommuError } from '../../../core/errors.ts';
import { VtdFeatures } from '../../../lib/check/vtd-features.ts';
import { NO_PASID } from '../../../ports/dma.ts';
import { HW_ERROR, type HwEvents, type HwPort } from '../../../ports/hw.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { HW_INFO, HWPT_DATA, HWPT_FLAG } from '../../../spec/iommufd/uapi.ts';
import type {
  BlockedDomain,
  Domain,
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
import type { DriverUpcalls, UpcallDriver } from '../../upcalls/driver-upcalls.ts';
import { IdPool } from '../ids.ts';
import { DriverInterrupts } from '../interrupts.ts';
import type { PageAllocator } from '../page-allocator.ts';
import { ShadowPool } from '../shadow/pool.ts';
import { VtdDriverAttacher } from './attach.ts';
import { VtdDriverFaults } from './faults.ts';
import { VtdDriverMaintenance } from './maintenance.ts';
import { RID_PASID, type VtdMaster, WHOLE_DEVICE } from './master.ts';
import { readFirstStage } from './nested-data.ts';
import { VtdNestedDomain } from './nested-domain.ts';
import { VtdDriverPageRequests } from './page-requests.ts';
import { VtdPageTable } from './page-table.ts';
import { VtdPagingDomain } from './paging-domain.ts';
import { VtdDriverQueue } from './queue.ts';
import { readVtdIdentity, VtdDriverRegisters } from './registers.ts';
import { VtdDriverStreams } from './streams.ts';
import { RootTable } from './tables.ts';
import { VtdUsers } from './users.ts';

/** What the kernel's VT-d driver runs on. */
export interface VtdDriverOptions {
  /** Its name in `tell` and messages. */
  readonly name: string;
  /** The physical unit: registers, tables and queue. */
  readonly hw: HwPort;
  /** Host memory for tables. */
  readonly memory: PageAllocator;
  /** Pages of the tables that repeat guests' stages; several drivers may share them. Default: its own. */
  readonly shadows?: ShadowPool;
  /** Host address width, bits (48). */
  readonly haw?: number;
  /** Way to upcalls; null or absent: `linux-only`. */
  readonly upcalls?: DriverUpcalls | null;
  /** Nest parents refuse read-only mappings, as Linux does for every unit (errata 772415). Default true. */
  readonly errata?: boolean;
  /** The unit has first stages of 39 and 30 input bits, and `addr_width` may ask for them; off by default, as in Linux. */
  readonly narrowFirstStages?: boolean;
  /** RMRRs by device: memory that stays mapped one to one. */
  readonly reserved?: (dev: HostDevice) => readonly ReservedRegion[];
}

const SECOND_FLAGS = HWPT_FLAG.NEST_PARENT | HWPT_FLAG.DIRTY_TRACKING | HWPT_FLAG.PASID;
const ERRATA_772415_SPR17 = 1;
/** Domain id 0 is reserved, 1 is the kernel's for shared address spaces. */
const FIRST_DOMAIN_ID = 2;

interface Probed {
  readonly kernel: KernelServices;
  readonly requests: VtdDriverPageRequests;
  readonly attacher: VtdDriverAttacher;
  readonly streams: VtdDriverStreams;
  readonly faults: VtdDriverFaults;
  readonly interrupts: DriverInterrupts;
}

/** The kernel's driver of one physical VT-d unit in scalable mode: Linux's rules and errno over real tables. */
export class VtdDriver implements IommuDriver, UpcallDriver {
  readonly name: string;
  readonly driver = 'vtd';
  readonly iommu: IommuDriver = this;
  readonly enforcesCoherency: boolean;
  /** The host owns the PASID table. */
  readonly userPasidTable = false;
  readonly blocked: BlockedDomain;
  /** @internal */
  readonly features: VtdFeatures;
  /** @internal */
  readonly queue: VtdDriverQueue;
  /** @internal */
  readonly maintenance: VtdDriverMaintenance;
  /** @internal */
  readonly memory: PageAllocator;
  /** @internal Pages of the tables that repeat guests' second stages. */
  readonly shadows: ShadowPool;
  readonly allocNested: NonNullable<IommuDriver['allocNested']>;
  readonly #options: VtdDriverOptions;
  readonly #upcalls: DriverUpcalls | null;
  readonly #cap: bigint;
  readonly #ecap: bigint;
  readonly #ids: IdPool;
  #probed: Probed | null = null;

  constructor(options: VtdDriverOptions) {
    this.#options = options;
    this.name = options.name;
    this.#upcalls = options.upcalls ?? null;
    const { cap, ecap } = readVtdIdentity(options.hw);
    this.#cap = cap;
    this.#ecap = ecap;
    this.features = new VtdFeatures(this.#cap, this.#ecap, options.haw ?? 48, options);
    this.enforcesCoherency = this.features.snoopControl;
    this.#ids = new IdPool(FIRST_DOMAIN_ID, this.features.domains - 1, options.memory);
    this.queue = new VtdDriverQueue(options.hw, {
      pending: (sid, token, pasid) => this.#each(sid, (dev, upcalls) => upcalls.pending(dev, this, token, sid, pasid)),
      timedOut: (sid, pasid) =>
        this.#each(sid, (dev, upcalls) => {
          upcalls.invalidateError(dev, HW_ERROR.ATC_TIMEOUT, dev.streams.indexOf(sid), pasid);
        }),
      deviceTlbs: () => this.#probed?.streams.forgetDevices(),
      unconfirmed: (some) => this.#upcalls?.unconfirmed(this, some),
    });
    this.maintenance = new VtdDriverMaintenance(this.queue, this.features);
    this.memory = options.memory;
    this.shadows = options.shadows ?? new ShadowPool(options.memory);
    this.allocNested = (_dev, parent, flags, data) => this.#allocNested(parent, flags, data);
    this.blocked = {
      kind: 'blocked',
      iommu: this,
      pasidCapable: true,
      iopf: false,
      attach: (dev, pasid, old) => this.#block(this.#state.streams.masterOf(dev), pasid, old),
      attachStream: (dev, stream, old, pasid) => this.#block(this.#state.streams.partOf(dev, stream), pasid, old),
      free: () => {},
    };
  }

  #block(master: VtdMaster | null, pasid: number, old: Domain | null): number {
    return master === null ? 0 : this.attacher.tearDown(master, pasid === NO_PASID ? RID_PASID : pasid, old);
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
    const { features } = this;
    if (!features.scalable || (!features.firstStage && !features.secondStage)) {
      throw new ViommuError('EINVAL', 'caller', `${this.name} needs scalable mode and a stage`, { ecap: this.#ecap });
    }
    const root = RootTable.create(hw, memory);
    if (root === null) throw new ViommuError('ENOMEM', 'host', `no room for the root table of ${this.name}`);
    const { queue } = this;
    const upcalls = this.#upcalls;
    const deviceOf = (rid: number) => kernel.deviceByStream(this, rid);
    const requests = new VtdDriverPageRequests({ kernel, upcalls, queue, deviceOf });
    const faults = new VtdDriverFaults({ upcalls, deviceOf });
    const interrupts = new DriverInterrupts({
      driver: this,
      upcalls,
      deviceOf,
      stageTwoOf: (dev, stream, pasid) => secondStageOf(streams.domainOf(dev, stream, pasid)),
      fault: (record) => faults.report(record),
      pageRequest: (record) => requests.receive(record),
      completed: () => true,
    });
    const attacher = new VtdDriverAttacher({
      features,
      queue,
      masterOf: (dev, stream) => (stream === WHOLE_DEVICE ? streams.whole(dev) : streams.apart(dev, stream)),
      answer: ({ dev }, pasid) => requests.drain(dev, pasid === RID_PASID ? NO_PASID : pasid),
    });
    const streams = new VtdDriverStreams({ hw, memory, features, queue, root, attacher: () => attacher });
    this.#probed = { kernel, requests, attacher, streams, faults, interrupts };
    new VtdDriverRegisters(hw, this.queue).start(root.base, features.pageRequests);
    this.#upcalls?.register(this);
  }

  /** What the hardware raises; valid after `probe`. */
  get events(): HwEvents {
    return this.#state.interrupts;
  }

  /** Fault records in the kernel's log, newest last; valid after `probe`. */
  get faultLog(): readonly Int32Array[] {
    return this.#state.faults.log;
  }

  /** @internal Moves (device, PASID)s between domains; valid after `probe`. */
  get attacher(): VtdDriverAttacher {
    return this.#state.attacher;
  }

  addDevice(dev: HostDevice): number {
    return this.#state.streams.add(dev);
  }

  removeDevice(dev: HostDevice, undo: boolean): void {
    this.#state.streams.remove(dev, undo);
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
    return this.features.deviceTlb && dev.ats;
  }

  dirtyCapable(_dev: HostDevice): boolean {
    return this.features.secondAccessDirty && this.features.pageWalkCoherency && this.features.secondStage;
  }

  /** The interrupt window, and the device's RMRRs. */
  reservedRegions(dev: HostDevice): readonly ReservedRegion[] {
    const msi: ReservedRegion = { start: 0xfee0_0000n, last: 0xfeef_ffffn, kind: 'msi' };
    return [...(this.#options.reserved?.(dev) ?? []), msi];
  }

  /** First-stage format where it can be, else second-stage. @returns -EOPNOTSUPP flags or data; -ENOMEM no table. */
  allocPaging(dev: HostDevice, flags: number, data: DriverData | null): Result<PagingDomain> {
    const { features } = this;
    if (data !== null) return -E.OPNOTSUPP;
    if ((flags & ~HWPT_FLAG.PASID) === 0 && features.firstStage) {
      const levels = features.fiveLevels ? 5 : 4;
      const largest = features.limits.fs1g ? 3 : 2;
      // The lower half only: what sign extension mirrors is not handed out.
      return this.#paging({ stage: 'first', levels, largest }, 11 + 9 * levels, false, false);
    }
    const parent = (flags & HWPT_FLAG.NEST_PARENT) !== 0;
    const dirty = (flags & HWPT_FLAG.DIRTY_TRACKING) !== 0;
    if ((flags & ~SECOND_FLAGS) !== 0 || !features.secondStage) return -E.OPNOTSUPP;
    if ((parent && !features.nested) || (dirty && !this.dirtyCapable(dev))) return -E.OPNOTSUPP;
    const levels = this.#secondLevels();
    const largest = features.limits.ss1g ? 3 : features.limits.ss2m ? 2 : 1;
    return this.#paging({ stage: 'second', levels, largest }, Math.min(features.mgaw, 12 + 9 * levels), parent, dirty);
  }

  /** The narrowest width the unit walks that covers its MGAW, else the widest. */
  #secondLevels(): number {
    let levels = 3;
    for (const aw of [1, 2, 3]) {
      if (!this.features.walks(aw)) continue;
      levels = aw + 2;
      if (12 + 9 * levels >= this.features.mgaw) break;
    }
    return levels;
  }

  #paging(config: VtdPageTable['config'], bits: number, nestParent: boolean, dirty: boolean): Result<PagingDomain> {
    const tables = VtdPageTable.create(this.#options.memory, config);
    if (tables === null) return -E.NOMEM;
    const members = new VtdUsers(this.#ids);
    const refusesReadOnly = this.#refusesReadOnly;
    return new VtdPagingDomain(this, { members, tables, bits, nestParent, dirty, refusesReadOnly });
  }

  /** What the structure says is looked at by attach only. */
  #allocNested(parent: PagingDomain, flags: number, data: DriverData): Result<NestedDomain> {
    if (!this.features.nested || (flags & ~HWPT_FLAG.PASID) !== 0) return -E.OPNOTSUPP;
    if (data.type !== HWPT_DATA.VTD_S1) return -E.OPNOTSUPP;
    if (!(parent instanceof VtdPagingDomain) || parent.first || !parent.nestParent) return -E.INVAL;
    const first = readFirstStage(data);
    return typeof first === 'number' ? first : new VtdNestedDomain(this, new VtdUsers(this.#ids), parent, first);
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

  confirm(): number {
    return this.queue.unconfirmed.settle();
  }

  quiet(dev: HostDevice, pasid: number, on: boolean): number {
    return this.attacher.quiet(dev, pasid, on);
  }

  respond(dev: HostDevice, pasid: number, group: number, code: number, stall: boolean, stream?: number): number {
    return stall ? -E.INVAL : this.#state.requests.respondTaken(dev, pasid, group, code, stream);
  }

  /**
   * A guest's own device-TLB invalidation. @param stream index of the only stream it goes to; absent: all.
   * @returns 0; -EOPNOTSUPP: the function has no ATS; -EIO: the unit refuses.
   */
  invalidateDeviceTlb(
    dev: HostDevice,
    pasid: number,
    lo: number,
    hi: number,
    global: boolean,
    stream?: number,
  ): number {
    const master = this.#state.streams.masterOf(dev);
    if (master === null || !master.ats) return -E.OPNOTSUPP;
    const { streams } = dev;
    for (let i = 0; i < streams.length; i++) {
      if (stream === undefined || stream === i) this.queue.deviceTlbRaw(streams[i]!, pasid, lo, hi, global);
    }
    return this.queue.flush();
  }
}

/** The second stage of the kernel's that a domain translates with. */
function secondStageOf(domain: Domain | null): PagingDomain | null {
  if (domain instanceof VtdNestedDomain) return domain.parent;
  return domain instanceof VtdPagingDomain ? domain : null;
}
