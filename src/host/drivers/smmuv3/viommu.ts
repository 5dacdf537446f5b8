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
import type { LatchedStream } from './master.ts';
import { acceptVste, VSTE_BYTES } from './nested-data.ts';
import { Smmuv3NestedDomain } from './nested-domain.ts';
import type { Smmuv3PagingDomain } from './paging-domain.ts';
import type { Smmuv3DriverQueue } from './queue.ts';
import { ALL_STREAMS } from './users.ts';

/** What a vIOMMU asks of its driver. */
export interface Smmuv3DriverViommuOwner {
  readonly iommu: IommuDriver;
  readonly queue: Smmuv3DriverQueue;
  readonly partialCount: PartialCount;
  /** Devices with several streams may have a vDEVICE. */
  readonly manyStreams: boolean;
  attachNested(
    domain: Smmuv3NestedDomain,
    dev: HostDevice,
    stream: number,
    old: Domain | null,
    latched: LatchedStream | null,
  ): number;
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
  /** Guest stream → physical stream, for streams with a name of their own, and the way back. */
  readonly #sidOf = new Map<number, number>();
  readonly #vsidOf = new Map<number, number>();

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

  /**
   * Names are taken as they are now: a vDEVICE made later counts at the next attach.
   * @param stream index of the stream that is attached by itself, or ALL_STREAMS.
   */
  attachNested(domain: Smmuv3NestedDomain, dev: HostDevice, stream: number, old: Domain | null): number {
    const vsid = stream === ALL_STREAMS ? this.#nameOf(dev) : (this.#vsidOf.get(dev.streams[stream]!) ?? -1);
    if (vsid < 0 && domain.vste.config === CONFIG.S1) return -E.NOENT;
    const latched = vsid < 0 ? null : { report: (record: Int32Array) => this.#report(record, vsid) };
    return this.#owner.attachNested(domain, dev, stream, old, latched);
  }

  /** The device's StreamID as the guest knows it; -1: it has none here. */
  #nameOf(dev: HostDevice): number {
    const vsid = this.#services.virtIdOf(dev);
    return vsid < 0n ? -1 : Number(vsid & 0xffff_ffffn);
  }

  #report(record: Int32Array, vsid: number): void {
    const words = record.slice(0, EVENT_WORDS);
    words[1] = vsid;
    this.#services.reportEvent(VEVENTQ_TYPE.ARM_SMMUV3, new Uint8Array(words.buffer));
  }

  vdeviceInit(dev: HostDevice, virtId: bigint): number {
    if (dev.streams.length !== 1 && !this.#owner.manyStreams) return -E.OPNOTSUPP;
    return this.#cmdqv?.name(dev.streams[0]!, virtId) ?? 0;
  }

  vdeviceDestroy(dev: HostDevice, _virtId: bigint): void {
    this.#cmdqv?.unname(dev.streams[0]!);
  }

  streamInit(dev: HostDevice, stream: number, vsid: number): number {
    if (!this.#owner.manyStreams) return -E.OPNOTSUPP;
    const sid = dev.streams[stream]!;
    const r = this.#cmdqv?.name(sid, BigInt(vsid)) ?? 0;
    if (r !== 0) return r;
    this.#sidOf.set(vsid, sid);
    this.#vsidOf.set(sid, vsid);
    return 0;
  }

  streamDestroy(dev: HostDevice, stream: number, vsid: number): void {
    const sid = dev.streams[stream]!;
    this.#cmdqv?.unname(sid);
    this.#sidOf.delete(vsid);
    this.#vsidOf.delete(sid);
  }

  streamOf(vsid: number): number {
    return this.#sidOf.size === 0 ? -1 : (this.#sidOf.get(vsid) ?? -1);
  }

  device(vsid: number): HostDevice | null {
    return this.#services.findDevice(vsid);
  }

  destroy(): void {
    this.#cmdqv?.destroy();
  }
}
