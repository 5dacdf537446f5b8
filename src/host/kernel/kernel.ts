import { ViommuError } from '../../core/errors.ts';
import type { HostMemory } from '../../lib/memory/host-memory.ts';
import type { Clock } from '../../ports/clock.ts';
import type { Tell } from '../../ports/tell.ts';
import { PGFAULT_CODE } from '../../spec/iommufd/uapi.ts';
import { type DeviceDescription, KernelDevice } from './device.ts';
import type { Domain, HostDevice, IommuDriver, KernelServices, PageFault } from './driver.ts';
import { IommuGroup } from './group.ts';

/** Bytes at host-physical addresses, as a kernel-side copy reaches them. */
export type PhysicalBytes = Pick<HostMemory['space'], 'readBytes' | 'writeBytes'>;

/** What a kernel runs on. */
export interface KernelDeps {
  /** Host-physical memory: tables and queues of the drivers, and the guests' RAM. */
  readonly memory: HostMemory;
  /** The machine's clock. */
  readonly clock: Clock;
  /** Hears every verb with its result. */
  readonly tell?: Tell | null;
}

/**
 * The emulated host kernel: its IOMMUs, their devices and groups. The machine builds it; iommufd contexts and VFIO devices
 * are opened on it. Everything is synchronous.
 */
export class HostKernel implements KernelServices {
  /** Host-physical memory. */
  readonly memory: HostMemory;
  /** The machine's clock. */
  readonly clock: Clock;
  /** How kernel-side copies reach user memory by its host-physical address. */
  physical: PhysicalBytes;
  /** Hears every verb with its result; null: nobody does. */
  tell: Tell | null;
  /** The module parameter that lets devices without isolated interrupts be bound. */
  allowUnsafeInterrupts = false;
  readonly #iommus: IommuDriver[] = [];
  readonly #devices = new Set<KernelDevice>();
  readonly #groups = new Map<string, IommuGroup>();
  readonly #streams = new Map<IommuDriver, Map<number, KernelDevice>>();
  #nextIndex = 0;

  constructor(deps: KernelDeps) {
    this.memory = deps.memory;
    this.clock = deps.clock;
    this.physical = deps.memory.space;
    this.tell = deps.tell ?? null;
  }

  /** A physical IOMMU appears; its driver is probed. */
  addIommu(driver: IommuDriver): void {
    this.#iommus.push(driver);
    this.#streams.set(driver, new Map());
    driver.probe(this);
  }

  /**
   * Puts a function behind its IOMMU. Its RID starts blocked.
   * @throws ViommuError `EINVAL` unknown IOMMU or no stream; `EEXIST` a stream is taken; `EIO` the driver refuses it.
   */
  addDevice(d: DeviceDescription): KernelDevice {
    const streams = this.#streams.get(d.iommu);
    if (streams === undefined || d.streams.length === 0) {
      throw new ViommuError('EINVAL', 'caller', `device ${d.name} needs an IOMMU of this kernel and a stream`);
    }
    for (const s of d.streams) {
      if (streams.has(s)) throw new ViommuError('EEXIST', 'caller', `stream of ${d.name} is taken`, { stream: s });
    }
    const key = d.group ?? `\0${d.name}\0${this.#nextIndex}`;
    const group = this.#groups.get(key) ?? new IommuGroup(key, d.iommu.blocked);
    const dev = new KernelDevice(this.#nextIndex, d, group);
    const r = d.iommu.addDevice(dev);
    if (r !== 0) throw new ViommuError('EIO', 'host', `${d.iommu.name} refuses ${d.name}`, { errno: -r });
    this.#nextIndex++;
    this.#groups.set(key, group);
    group.join(dev);
    for (const s of d.streams) streams.set(s, dev);
    this.#devices.add(dev);
    return dev;
  }

  /** Takes a function off the bus. @throws ViommuError `EBUSY` while it is bound to an iommufd. */
  removeDevice(dev: KernelDevice): void {
    if (dev.devId !== 0) throw new ViommuError('EBUSY', 'caller', `${dev.name} is bound`, { devId: dev.devId });
    const streams = this.#streams.get(dev.iommu);
    for (const s of dev.streams) streams?.delete(s);
    this.#devices.delete(dev);
    dev.group.leave(dev);
    if (dev.group.devices.length === 0) this.#groups.delete(dev.group.key);
    dev.iommu.removeDevice(dev);
  }

  deviceByStream(iommu: IommuDriver, stream: number): KernelDevice | null {
    return this.#streams.get(iommu)?.get(stream) ?? null;
  }

  attached(dev: HostDevice, pasid: number): Domain | null {
    return (dev as KernelDevice).attached(pasid);
  }

  devices(iommu: IommuDriver): readonly KernelDevice[] {
    return [...this.#devices].filter((d) => d.iommu === iommu);
  }

  reportFault(dev: HostDevice, fault: PageFault): void {
    const { binding } = dev as KernelDevice;
    if (binding !== null) binding.report(fault);
    else if (fault.last) dev.iommu.pageResponse(dev, fault, PGFAULT_CODE.INVALID);
  }
}
