import { E } from '../../spec/iommufd/errno.ts';
import type { DriverViommu, HostDevice, IommuDriver, ViommuServices } from '../kernel/driver.ts';
import type { MmapTable } from './mmap.ts';
import type { ObjectBase } from './object.ts';
import type { PagingHwpt } from './paging-hwpt.ts';

/** A device as a vIOMMU knows it: what `Vdevice` is to it. */
interface NamedDevice {
  readonly dev: HostDevice;
  readonly virtId: bigint;
}

/** An event queue of a vIOMMU, as the vIOMMU sees it. */
interface EventSink {
  readonly type: number;
  offer(data: Uint8Array): void;
}

/** virt_ids as map keys: plain numbers while they are exact, so that the command path allocates nothing. */
function key(virtId: bigint): number | bigint {
  return virtId <= 0x1f_ffff_ffff_ffffn ? Number(virtId) : virtId;
}

/** A slice of a physical IOMMU that a guest sees as its own. */
export class Viommu implements ViommuServices {
  readonly kind = 'viommu';
  id = 0;
  users = 0;
  readonly hwpt: PagingHwpt;
  readonly iommu: IommuDriver;
  readonly veventqs: EventSink[] = [];
  /** Hardware queues by index. */
  readonly hwQueues = new Map<number, ObjectBase>();
  /** Guest names of single streams of devices. */
  readonly streamNames = new Set<number>();
  readonly #byVirtId = new Map<number | bigint, NamedDevice>();
  readonly #byDevice = new Map<HostDevice, NamedDevice>();
  readonly #mmaps: MmapTable;
  #driver: DriverViommu | null = null;

  constructor(parts: { readonly hwpt: PagingHwpt; readonly iommu: IommuDriver; readonly mmaps: MmapTable }) {
    this.hwpt = parts.hwpt;
    this.iommu = parts.iommu;
    this.#mmaps = parts.mmaps;
    parts.hwpt.users++;
  }

  /** The driver's half is made with this object in hand, so it comes later than the constructor. */
  start(driver: DriverViommu): void {
    this.#driver = driver;
  }

  get driver(): DriverViommu {
    return this.#driver!;
  }

  findDevice(virtId: number): HostDevice | null {
    return this.#byVirtId.get(virtId)?.dev ?? null;
  }

  virtIdOf(dev: HostDevice): bigint {
    return this.#byDevice.get(dev)?.virtId ?? -1n;
  }

  reportEvent(type: number, data: Uint8Array): number {
    const q = this.veventqs.find((v) => v.type === type);
    if (q === undefined) return -E.OPNOTSUPP;
    q.offer(data);
    return 0;
  }

  offerMmap(hpa: number, bytes: number): bigint {
    return this.#mmaps.offer(this, hpa, bytes);
  }

  /** Whether a vDEVICE of this vIOMMU, or a single stream, has the virt_id. */
  hasVirtId(virtId: bigint): boolean {
    return this.#byVirtId.has(key(virtId)) || this.streamNames.has(Number(virtId));
  }
  /** From now on `findDevice` and `virtIdOf` know the vDEVICE. */
  addVdevice(v: NamedDevice): void {
    this.#byVirtId.set(key(v.virtId), v);
    this.#byDevice.set(v.dev, v);
  }
  removeVdevice(v: NamedDevice): void {
    this.#byVirtId.delete(key(v.virtId));
    this.#byDevice.delete(v.dev);
  }

  destroy(): void {
    this.#driver?.destroy();
    this.#mmaps.withdraw(this);
    this.hwpt.users--;
  }
}
