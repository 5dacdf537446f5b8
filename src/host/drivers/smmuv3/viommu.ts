import { E } from '../../../spec/iommufd/errno.ts';
import { HWPT_DATA, VEVENTQ_TYPE } from '../../../spec/iommufd/uapi.ts';
import { EVENT_WORDS } from '../../../spec/smmuv3/events.ts';
import { CONFIG } from '../../../spec/smmuv3/ste.ts';
import type {
  Domain,
  DriverData,
  DriverViommu,
  HostDevice,
  HwQueueOps,
  IommuDriver,
  NestedDomain,
  Result,
  ViommuServices,
} from '../../kernel/driver.ts';
import { copyDriverData } from '../../kernel/driver-data.ts';
import type { Cmdqv } from './cmdqv.ts';
import { type PartialCount, Smmuv3DriverCommands, type StreamNames } from './commands.ts';
import type { LatchedStreams } from './master.ts';
import { acceptVste, VSTE_BYTES } from './nested-data.ts';
import { Smmuv3NestedDomain } from './nested-domain.ts';
import type { Smmuv3PagingDomain } from './paging-domain.ts';
import type { Smmuv3DriverQueue } from './queue.ts';

/** What a vIOMMU asks of its driver. */
export interface Smmuv3DriverViommuOwner {
  readonly iommu: IommuDriver;
  readonly queue: Smmuv3DriverQueue;
  readonly partialCount: PartialCount;
  /** Devices with several streams may have a vDEVICE: upcalls is there to name the streams. */
  readonly manyStreams: boolean;
  attachNested(domain: Smmuv3NestedDomain, dev: HostDevice, old: Domain | null, latched: LatchedStreams | null): number;
}

export interface Smmuv3DriverViommuParts {
  /** The stage 2 below, and its VMID. */
  readonly parent: Smmuv3PagingDomain;
  readonly vmid: number;
  readonly services: ViommuServices;
  /** Queues the guest rings itself; null: it has none. */
  readonly cmdqv: Cmdqv | null;
}

/** The driver's half of a vSMMU: guest streams and their configurations over one stage 2 and its VMID. */
export class Smmuv3DriverViommu implements DriverViommu, StreamNames {
  readonly iommu: IommuDriver;
  readonly parent: Smmuv3PagingDomain;
  readonly invalidation: Smmuv3DriverCommands;
  readonly hwQueues: HwQueueOps | null;
  readonly #owner: Smmuv3DriverViommuOwner;
  readonly #services: ViommuServices;
  /** Queues the guest rings itself; null: it has none. */
  readonly #cmdqv: Cmdqv | null;
  /** Guest stream → physical stream, for devices with several. */
  readonly #aliases = new Map<number, number>();
  readonly #named = new Map<HostDevice, readonly number[]>();

  constructor(owner: Smmuv3DriverViommuOwner, parts: Smmuv3DriverViommuParts) {
    this.iommu = owner.iommu;
    this.#owner = owner;
    this.parent = parts.parent;
    this.#services = parts.services;
    this.#cmdqv = parts.cmdqv;
    this.hwQueues = parts.cmdqv;
    this.invalidation = new Smmuv3DriverCommands(owner.queue, parts.vmid, this, owner.partialCount);
  }

  allocNested(flags: number, data: DriverData): Result<NestedDomain> {
    if (flags !== 0) return -E.OPNOTSUPP;
    const bytes = new Uint8Array(VSTE_BYTES);
    const r = copyDriverData(data, HWPT_DATA.ARM_SMMUV3, VSTE_BYTES, bytes);
    if (r !== 0) return r;
    const vste = acceptVste(bytes);
    return typeof vste === 'number' ? vste : new Smmuv3NestedDomain(this, vste);
  }

  /** Names are taken as they are now: a vDEVICE made later counts at the next attach. */
  attachNested(domain: Smmuv3NestedDomain, dev: HostDevice, old: Domain | null): number {
    const vsid = this.#services.virtIdOf(dev);
    if (vsid < 0n && domain.vste.config === CONFIG.S1) return -E.NOENT;
    const latched = vsid < 0n ? null : this.#latch(dev, Number(vsid & 0xffff_ffffn));
    return this.#owner.attachNested(domain, dev, old, latched);
  }

  #latch(dev: HostDevice, vsid: number): LatchedStreams {
    const vsids = this.#named.get(dev) ?? dev.streams.map(() => vsid);
    return { vsids, report: (record, as) => this.#report(record, as) };
  }

  #report(record: Int32Array, vsid: number): void {
    const words = record.slice(0, EVENT_WORDS);
    words[1] = vsid;
    this.#services.reportEvent(VEVENTQ_TYPE.ARM_SMMUV3, new Uint8Array(words.buffer));
  }

  vdeviceInit(dev: HostDevice, virtId: bigint): number {
    if (dev.streams.length !== 1 && !this.#owner.manyStreams) return -E.OPNOTSUPP;
    return this.#cmdqv?.name(dev, virtId) ?? 0;
  }

  vdeviceDestroy(dev: HostDevice, _virtId: bigint): void {
    this.#cmdqv?.unname(dev);
    this.#forget(dev);
  }

  #forget(dev: HostDevice): void {
    for (const vsid of this.#named.get(dev) ?? []) this.#aliases.delete(vsid);
    this.#named.delete(dev);
  }

  /** @returns -EEXIST: a guest stream already belongs to another device. */
  nameStreams(dev: HostDevice, vsids: readonly number[]): number {
    for (const vsid of vsids) {
      const other = this.#services.findDevice(vsid);
      if (other !== null && other !== dev) return -E.EXIST;
      const sid = this.#aliases.get(vsid);
      if (sid !== undefined && !dev.streams.includes(sid)) return -E.EXIST;
    }
    this.#forget(dev);
    this.#named.set(dev, vsids);
    for (let i = 0; i < vsids.length; i++) this.#aliases.set(vsids[i]!, dev.streams[i]!);
    return 0;
  }

  alias(vsid: number): number {
    return this.#aliases.size === 0 ? -1 : (this.#aliases.get(vsid) ?? -1);
  }

  device(vsid: number): HostDevice | null {
    return this.#services.findDevice(vsid);
  }

  destroy(): void {
    this.#cmdqv?.destroy();
  }
}
