import { E } from '../../spec/iommufd/errno.ts';
import type { KernelDevice } from '../kernel/device.ts';
import type { DriverHwQueue, DriverViommu, HostDevice, IommuDriver, ViommuServices } from '../kernel/driver.ts';
import type { Device } from './attach.ts';
import type { PagingHwpt } from './hwpt.ts';
import type { MmapTable } from './mmap.ts';
import type { VeventQueue } from './veventq.ts';

/** virt_ids as map keys: plain numbers while they are exact, so that the command path allocates nothing. */
function key(virtId: bigint): number | bigint {
  return virtId <= 0x1f_ffff_ffff_ffffn ? Number(virtId) : virtId;
}

/** A slice of a physical IOMMU that a guest sees as its own. */
export class Viommu implements ViommuServices {
  readonly kind = 'viommu';
  id = 0;
  users = 0;
  readonly type: number;
  readonly hwpt: PagingHwpt;
  readonly iommu: IommuDriver;
  readonly veventqs: VeventQueue[] = [];
  readonly hwQueues = new Map<number, HwQueue>();
  readonly #vdevices = new Map<number | bigint, Vdevice | null>();
  readonly #mmaps: MmapTable;
  #driver: DriverViommu | null = null;

  constructor(type: number, hwpt: PagingHwpt, iommu: IommuDriver, mmaps: MmapTable) {
    this.type = type;
    this.hwpt = hwpt;
    this.iommu = iommu;
    this.#mmaps = mmaps;
    hwpt.users++;
  }

  start(driver: DriverViommu): void {
    this.#driver = driver;
  }

  get driver(): DriverViommu {
    return this.#driver!;
  }

  findDevice(virtId: number): HostDevice | null {
    return this.#vdevices.get(virtId)?.device.dev ?? null;
  }

  virtIdOf(dev: HostDevice): bigint {
    const v = (dev as KernelDevice).bound?.vdevice ?? null;
    return v !== null && v.viommu === this ? v.virtId : -1n;
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

  /** Takes a virt_id; it finds nothing until `setVdevice`. @returns -EEXIST taken. */
  reserveVdevice(virtId: bigint): number {
    if (this.#vdevices.has(key(virtId))) return -E.EXIST;
    this.#vdevices.set(key(virtId), null);
    return 0;
  }
  setVdevice(v: Vdevice): void {
    this.#vdevices.set(key(v.virtId), v);
  }
  clearVdevice(virtId: bigint): void {
    this.#vdevices.delete(key(virtId));
  }
  vdevices(): readonly Vdevice[] {
    return [...this.#vdevices.values()].filter((v) => v !== null);
  }

  destroy(): void {
    this.#driver?.destroy();
    this.#mmaps.withdraw(this);
    this.hwpt.users--;
  }
}

/** What a guest calls a device behind a vIOMMU. */
export class Vdevice {
  readonly kind = 'vdevice';
  id = 0;
  users = 0;
  readonly viommu: Viommu;
  readonly device: Device;
  readonly virtId: bigint;

  constructor(viommu: Viommu, device: Device, virtId: bigint) {
    this.viommu = viommu;
    this.device = device;
    this.virtId = virtId;
    viommu.users++;
    device.vdevice = this;
  }

  destroy(): void {
    this.viommu.driver.vdeviceDestroy(this.device.dev, this.virtId);
    this.viommu.clearVdevice(this.virtId);
    this.viommu.users--;
    this.device.vdevice = null;
  }
}

/** A guest-owned hardware command queue. Queue n+1 holds queue n. */
export class HwQueue {
  readonly kind = 'hw_queue';
  id = 0;
  users = 0;
  readonly viommu: Viommu;
  readonly index: number;
  readonly #driver: DriverHwQueue;
  readonly #before: HwQueue | null;
  readonly #release: () => void;

  /** @param release unpins the queue's memory and frees the hidden access. */
  constructor(viommu: Viommu, index: number, driver: DriverHwQueue, release: () => void) {
    this.viommu = viommu;
    this.index = index;
    this.#driver = driver;
    this.#release = release;
    this.#before = viommu.hwQueues.get(index - 1) ?? null;
    if (this.#before !== null) this.#before.users++;
    viommu.hwQueues.set(index, this);
    viommu.users++;
  }

  destroy(): void {
    this.#driver.destroy();
    if (this.#before !== null) this.#before.users--;
    this.viommu.hwQueues.delete(this.index);
    this.#release();
    this.viommu.users--;
  }
}
