import { ViommuError } from '../../../core/errors.ts';
import { NO_PASID } from '../../../ports/dma.ts';
import { HW_ERROR, type HwEvents, type HwPort } from '../../../ports/hw.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { HW_INFO, HWPT_FLAG, PGFAULT_CODE, VIOMMU_TYPE } from '../../../spec/iommufd/uapi.ts';
import type {
  BlockedDomain,
  Domain,
  DriverData,
  DriverViommu,
  HostDevice,
  HwInfo,
  IommuDriver,
  KernelServices,
  PageFault,
  PagingDomain,
  ReservedRegion,
  Result,
  ViommuServices,
} from '../../kernel/driver.ts';
import type { DriverUpcalls, UpcallDriver } from '../../upcalls/driver-upcalls.ts';
import { IdPool } from '../ids.ts';
import { DriverInterrupts } from '../interrupts.ts';
import type { PageAllocator } from '../page-allocator.ts';
import { ShadowPool } from '../shadow/pool.ts';
import type { UnconfirmedInvalidations } from '../unconfirmed.ts';
import { Cmdqv, type CmdqvOptions } from './cmdqv.ts';
import type { PartialCount } from './commands.ts';
import { Smmuv3DriverFaults } from './faults.ts';
import { featuresOf, type Smmuv3DriverFeatures, type Smmuv3DriverIdentity, STAGE1_IAS } from './features.ts';
import { Smmuv3DriverMaintenance } from './maintenance.ts';
import type { LatchedStream } from './master.ts';
import { Smmuv3NestedDomain } from './nested-domain.ts';
import { Smmuv3DriverPageRequests } from './page-requests.ts';
import { Smmuv3PageTable } from './page-table.ts';
import { Smmuv3PagingDomain, type Stage } from './paging-domain.ts';
import { Smmuv3DriverQueue } from './queue.ts';
import { readSmmuv3Identity, Smmuv3DriverRegisters, type StreamTableRegisters } from './registers.ts';
import { Smmuv3DriverStreams } from './streams.ts';
import { StreamTable } from './tables.ts';
import { Smmuv3DriverViommu } from './viommu.ts';

/** What the kernel's SMMUv3 driver runs on. */
export interface Smmuv3DriverOptions {
  /** Its name in `tell` and messages. */
  readonly name: string;
  /** The physical SMMU: registers, tables and queue. */
  readonly hw: HwPort;
  /** Host memory for tables. */
  readonly memory: PageAllocator;
  /** Pages of the tables that repeat guests' stages; several drivers may share them. Default: its own. */
  readonly shadows?: ShadowPool;
  /** Way to upcalls; null or absent: `linux-only`. */
  readonly upcalls?: DriverUpcalls | null;
  /** Default 'uapi-ideal'. */
  readonly partialCount?: PartialCount;
  /** Window for MSI doorbell pages. Default: Linux's, 0x08000000 + 1 MiB. */
  readonly swMsi?: { readonly start: number; readonly bytes: number };
  /** The root complex lets the SMMU force snooping (IORT CANWBS). Default true. */
  readonly canWriteBackSnoop?: boolean;
  /** Which devices can wait for a stalled access (firmware says; PCI functions do not). Default none. */
  readonly canStall?: (dev: HostDevice) => boolean;
  /** Command queues a guest rings itself; absent: the SMMU has none. */
  readonly cmdqv?: CmdqvOptions;
  /** At most so many VMIDs (others may use the rest); default all the hardware has. */
  readonly maxVmids?: number;
}

const PAGING_FLAGS = HWPT_FLAG.NEST_PARENT | HWPT_FLAG.DIRTY_TRACKING | HWPT_FLAG.PASID;

interface Probed {
  readonly kernel: KernelServices;
  readonly table: StreamTable;
  readonly streams: Smmuv3DriverStreams;
  readonly faults: Smmuv3DriverFaults;
  readonly requests: Smmuv3DriverPageRequests;
  readonly interrupts: DriverInterrupts;
}

/** The kernel's driver of one physical SMMUv3: Linux's rules and errno, over real tables and a real command queue. */
export class Smmuv3Driver implements IommuDriver, UpcallDriver {
  readonly name: string;
  readonly iommu: IommuDriver = this;
  readonly driver = 'smmuv3';
  readonly enforcesCoherency: boolean;
  readonly userPasidTable = true;
  /** Nested domains exist through a vIOMMU only. */
  readonly allocNested = null;
  readonly blocked: BlockedDomain;
  /** @internal */
  readonly features: Smmuv3DriverFeatures;
  /** @internal */
  readonly queue: Smmuv3DriverQueue;
  /** @internal */
  readonly maintenance: Smmuv3DriverMaintenance;
  /** @internal */
  readonly memory: PageAllocator;
  /** @internal Pages of the tables that repeat guests' stage 2s. */
  readonly shadows: ShadowPool;
  /** @internal */
  readonly partialCount: PartialCount;
  readonly #options: Smmuv3DriverOptions;
  readonly #identity: Smmuv3DriverIdentity;
  readonly #upcalls: DriverUpcalls | null;
  readonly #vmids: IdPool;
  readonly #asids: IdPool;
  /** Outstanding submissions with a guest's own ATS invalidations: only their errors are the guest's. */
  readonly #guestTokens = new Set<number>();
  #probed: Probed | null = null;

  constructor(options: Smmuv3DriverOptions) {
    this.#options = options;
    this.name = options.name;
    this.#upcalls = options.upcalls ?? null;
    this.#identity = readSmmuv3Identity(options.hw);
    this.features = featuresOf(this.#identity);
    this.enforcesCoherency = options.canWriteBackSnoop ?? true;
    this.partialCount = options.partialCount ?? 'uapi-ideal';
    const vmids = 2 ** this.features.vmidBits - 1;
    this.#vmids = new IdPool(1, Math.min(vmids, options.maxVmids ?? vmids), options.memory);
    this.#asids = new IdPool(1, 2 ** this.features.asidBits - 1, options.memory);
    this.queue = new Smmuv3DriverQueue(options.hw, {
      pending: (sid, token, guest) => {
        if (guest && this.#upcalls !== null) this.#guestTokens.add(token);
        this.#each(sid, (dev, upcalls) => upcalls.pending(dev, this, token, sid, NO_PASID));
      },
      timedOut: (sid) =>
        this.#each(sid, (dev, upcalls) => {
          upcalls.invalidateError(dev, HW_ERROR.ATC_TIMEOUT, dev.streams.indexOf(sid), NO_PASID);
        }),
      atcs: () => this.#probed?.streams.forgetDevices(),
      unconfirmed: (some) => this.#upcalls?.unconfirmed(this, some),
    });
    this.maintenance = new Smmuv3DriverMaintenance(this.queue, this.features);
    this.memory = options.memory;
    this.shadows = options.shadows ?? new ShadowPool(options.memory);
    this.blocked = {
      kind: 'blocked',
      iommu: this,
      pasidCapable: true,
      iopf: false,
      attach: (dev, pasid, old, undo = false) => this.#state.streams.detach(dev, pasid, old, undo),
      attachStream: (dev, stream, old) => this.#state.streams.detachStream(dev, stream, old),
      free: () => {},
    };
  }

  #each(sid: number, tell: (dev: HostDevice, upcalls: DriverUpcalls) => void): void {
    const dev = this.#deviceOf(sid);
    if (dev !== null && this.#upcalls !== null) tell(dev, this.#upcalls);
  }

  /** @internal What the SMMU refused to forget. */
  get unconfirmed(): UnconfirmedInvalidations {
    return this.queue.unconfirmed;
  }

  confirm(): number {
    return this.unconfirmed.settle();
  }

  #deviceOf(sid: number): HostDevice | null {
    return this.#state.kernel.deviceByStream(this, sid);
  }

  get #state(): Probed {
    if (this.#probed === null) throw new ViommuError('EINVAL', 'caller', `${this.name} is not part of a kernel yet`);
    return this.#probed;
  }

  /**
   * Sets the stream table up and switches the SMMU on.
   * @throws ViommuError `ENOMEM`: no room for the stream table; `EINVAL`: an SMMU without any stage; `ETIMEDOUT`, `EIO`: it
   *   does not do what it is told.
   */
  probe(kernel: KernelServices): void {
    const { hw, memory } = this.#options;
    const { features } = this;
    if (!features.stage1 && !features.stage2) throw new ViommuError('EINVAL', 'caller', `${this.name} has no stage`);
    const table = StreamTable.create(hw, memory, features);
    if (table === null) throw new ViommuError('ENOMEM', 'host', `no room for the stream table of ${this.name}`);
    const { queue } = this;
    const upcalls = this.#upcalls;
    const canStall = this.#options.canStall ?? (() => false);
    const deviceOf = (sid: number) => kernel.deviceByStream(this, sid);
    const streams = new Smmuv3DriverStreams({ kernel, hw, memory, features, queue, table, upcalls, canStall });
    const faults = new Smmuv3DriverFaults({ kernel, upcalls, queue, deviceOf, streams });
    const requests = new Smmuv3DriverPageRequests({ upcalls, queue, deviceOf });
    const interrupts = new DriverInterrupts({
      driver: this,
      upcalls,
      deviceOf,
      stageTwoOf: (dev, stream) => stageTwoOf(streams.attached(dev, stream)),
      fault: (record, ats) => faults.report(record, ats),
      pageRequest: (record) => requests.receive(record),
      completed: (token, error) => this.#completed(token, error),
    });
    this.#probed = { kernel, table, streams, faults, requests, interrupts };
    new Smmuv3DriverRegisters(hw, features, queue).start(table, upcalls !== null);
    upcalls?.register(this);
  }

  /** Only the errors of a guest's own ATS invalidations are the guest's. */
  #completed(token: number, error: number): boolean | null {
    if (this.#options.cmdqv?.port.completed(token, error) === true) return null;
    return this.#guestTokens.delete(token);
  }

  /** What the hardware raises; valid after `probe`. */
  get events(): HwEvents {
    return this.#state.interrupts;
  }

  /** @internal The stream table in host memory, and what the kernel programmed for it; valid after `probe`. */
  get streamTable(): StreamTableRegisters & { addressOf(sid: number): number } {
    return this.#state.table;
  }

  addDevice(dev: HostDevice): number {
    return this.#state.streams.add(dev);
  }

  removeDevice(dev: HostDevice, undo: boolean): void {
    const { faults, requests, streams } = this.#state;
    faults.forget(dev);
    requests.forget(dev);
    streams.remove(dev, undo);
  }

  hwInfo(_dev: HostDevice, type: number): HwInfo | null {
    const { cmdqv } = this.#options;
    if (type === HW_INFO.TEGRA241_CMDQV && cmdqv !== undefined) {
      const data = new Uint8Array(8);
      // Version 1, log2 of queues and of stream slots.
      data.set([1, Math.log2(cmdqv.port.queues), Math.log2(cmdqv.port.slots)], 4);
      return { type, data };
    }
    if (type !== HW_INFO.NONE && type !== HW_INFO.ARM_SMMUV3) return null;
    const { idr, iidr, aidr } = this.#identity;
    const words = new Uint32Array([0, 0, ...idr, iidr, aidr]);
    return { type: HW_INFO.ARM_SMMUV3, data: new Uint8Array(words.buffer) };
  }

  atsCapable(dev: HostDevice): boolean {
    return this.features.ats && dev.ats;
  }

  dirtyCapable(_dev: HostDevice): boolean {
    return this.features.dirty;
  }

  reservedRegions(_dev: HostDevice): readonly ReservedRegion[] {
    const { start, bytes } = this.#options.swMsi ?? { start: 0x0800_0000, bytes: 0x10_0000 };
    return [{ start: BigInt(start), last: BigInt(start + bytes - 1), kind: 'sw-msi' }];
  }

  /** @returns -EOPNOTSUPP flags or data; -ENOMEM no table; -ENOSPC no VMID; -EBUSY no ASID. */
  allocPaging(_dev: HostDevice, flags: number, data: DriverData | null): Result<PagingDomain> {
    const { features } = this;
    if ((flags & ~PAGING_FLAGS) !== 0 || data !== null) return -E.OPNOTSUPP;
    const parent = (flags & HWPT_FLAG.NEST_PARENT) !== 0;
    if (parent) return flags === HWPT_FLAG.NEST_PARENT && features.nesting ? this.#stageTwo(true) : -E.OPNOTSUPP;
    if (features.stage1) return this.#stageOne((flags & HWPT_FLAG.DIRTY_TRACKING) !== 0);
    return flags === 0 ? this.#stageTwo(false) : -E.OPNOTSUPP;
  }

  #stageTwo(parent: boolean): Result<PagingDomain> {
    const { oas, oasCode, forcedWriteBack } = this.features;
    const fwb = parent && forcedWriteBack;
    const tables = Smmuv3PageTable.create(this.#options.memory, { stage: 2, ias: oas, oas, fwb });
    if (tables === null) return -E.NOMEM;
    const vmid = this.#vmids.take();
    if (vmid < 0) {
      tables.destroy();
      return -E.NOSPC;
    }
    const s2 = { vmid, ttb: tables.root, ias: oas, psCode: oasCode, fwb };
    return new Smmuv3PagingDomain(this, tables, { kind: 2, vmid, s2 }, parent);
  }

  #stageOne(dirty: boolean): Result<PagingDomain> {
    const { oas, oasCode } = this.features;
    const tables = Smmuv3PageTable.create(this.#options.memory, { stage: 1, ias: STAGE1_IAS, oas, dirty });
    if (tables === null) return -E.NOMEM;
    const asid = this.#asids.take();
    if (asid < 0) {
      tables.destroy();
      return -E.BUSY;
    }
    const s1 = { asid, ttb: tables.root, ias: STAGE1_IAS, ipsCode: oasCode, dirty };
    const stage: Stage = { kind: 1, asid, s1 };
    return new Smmuv3PagingDomain(this, tables, stage, false);
  }

  /** @internal */
  released(domain: Smmuv3PagingDomain): void {
    if (domain.stage.kind === 2) this.#vmids.give(domain.stage.vmid);
    else this.#asids.give(domain.stage.asid);
  }

  /** @internal */
  attachPaging(domain: Smmuv3PagingDomain, dev: HostDevice, pasid: number, old: Domain | null): number {
    return this.#state.streams.attachPaging(domain, dev, pasid, old);
  }

  /** @internal */
  attachPagingStream(domain: Smmuv3PagingDomain, dev: HostDevice, stream: number, old: Domain | null): number {
    return this.#state.streams.attachPagingStream(domain, dev, stream, old);
  }

  /** @internal */
  attachNested(
    domain: Smmuv3NestedDomain,
    dev: HostDevice,
    stream: number,
    old: Domain | null,
    latched: LatchedStream | null,
  ): number {
    return this.#state.streams.attachNested(domain, dev, stream, old, latched);
  }

  viommuSupported(_dev: HostDevice, type: number): boolean {
    const queues = type === VIOMMU_TYPE.TEGRA241_CMDQV && this.#options.cmdqv !== undefined;
    if ((type !== VIOMMU_TYPE.ARM_SMMUV3 && !queues) || !this.features.nesting) return false;
    return this.enforcesCoherency || this.features.forcedWriteBack;
  }

  /** Devices with several streams can have names: for a device as a whole, or through the upcalls port for each stream. */
  get manyStreams(): boolean {
    return this.#upcalls !== null;
  }

  viommuInit(
    _dev: HostDevice,
    type: number,
    parent: PagingDomain,
    data: DriverData | null,
    services: ViommuServices,
  ): Result<DriverViommu> {
    if (!(parent instanceof Smmuv3PagingDomain) || parent.iommu !== this || parent.stage.kind !== 2) return -E.INVAL;
    const { vmid } = parent.stage;
    const { cmdqv } = this.#options;
    if (type !== VIOMMU_TYPE.TEGRA241_CMDQV || cmdqv === undefined) {
      return new Smmuv3DriverViommu(this, { parent, vmid, services, cmdqv: null });
    }
    const queues = Cmdqv.create(cmdqv, { vmid, cmdqs: this.features.queueLog2.commands, data, services });
    if (typeof queues === 'number') return queues;
    return new Smmuv3DriverViommu(this, { parent, vmid, services, cmdqv: queues });
  }

  pageResponse(dev: HostDevice, fault: PageFault, code: number): void {
    // The kernel aborts what it cannot answer (RESUME.Ab), where a guest may also terminate.
    this.#state.faults.respond(dev, fault.pasid, fault.grpid, code === PGFAULT_CODE.SUCCESS ? 0 : 15);
  }

  served(dev: HostDevice, on: boolean): void {
    this.#state.streams.served(dev);
    // Linux answers no page request on this SMMU and leaves PRI off; a listener does answer.
    if (this.features.pri && dev.pri) dev.control?.setPri(on);
  }

  quiet(dev: HostDevice, pasid: number, on: boolean): number {
    return this.#state.streams.quiet(dev, pasid, on);
  }

  terminateStalls(dev: HostDevice, stream: number): number {
    return this.#state.faults.terminate(dev, stream);
  }

  respond(dev: HostDevice, pasid: number, group: number, code: number, stall: boolean, stream?: number): number {
    const { faults, requests } = this.#state;
    if (stall) return faults.respond(dev, pasid, group, code, stream);
    return requests.respondTaken(dev, pasid, group, code, stream);
  }
}

/** The stage 2 of the kernel's that a domain translates with. */
function stageTwoOf(domain: Domain | null): PagingDomain | null {
  if (domain instanceof Smmuv3NestedDomain) return domain.parent;
  return domain instanceof Smmuv3PagingDomain ? domain : null;
}
