import { ViommuError } from '../../core/errors.ts';
import type { HostMemory } from '../../lib/memory/host-memory.ts';
import type { Clock } from '../../ports/clock.ts';
import { FAILURE_STEP, type FailureStep } from '../../ports/failures.ts';
import type { Tell } from '../../ports/tell.ts';
import { E } from '../../spec/iommufd/errno.ts';
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

  /** Whether the plan in force lets this step fail (`HostMemory.failures`). */
  fails(step: FailureStep): boolean {
    return this.memory.failures?.fails(step) ?? false;
  }

  /** A physical IOMMU appears; its driver is probed. @throws ViommuError what `probe` does; it is not there then. */
  addIommu(driver: IommuDriver): void {
    this.#streams.set(driver, new Map());
    try {
      driver.probe(this);
    } catch (e) {
      this.#streams.delete(driver);
      throw e;
    }
  }

  /**
   * Puts a function behind its IOMMU. Its RID starts blocked.
   * @throws ViommuError `EINVAL` unknown IOMMU or no stream; `EEXIST` a stream is taken; `ENOMEM`; `EIO` the driver refuses
   *   it. The function is not there then, and its streams are free.
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
    const known = this.#groups.get(key);
    const group = known ?? new IommuGroup(key, d.iommu.blocked);
    const dev = new KernelDevice(this.#nextIndex, d, group);
    const short = this.fails(FAILURE_STEP.DEVICE) || (known === undefined && this.fails(FAILURE_STEP.GROUP));
    let r = short ? -E.NOMEM : d.iommu.addDevice(dev);
    if (r === 0) {
      r = group.join(dev);
      if (r !== 0) d.iommu.removeDevice(dev, true);
    }
    if (r !== 0) {
      const code = r === -E.NOMEM ? 'ENOMEM' : 'EIO';
      throw new ViommuError(code, 'host', `${d.iommu.name} refuses ${d.name}`, { errno: -r });
    }
    this.#nextIndex++;
    this.#groups.set(key, group);
    for (const s of d.streams) streams.set(s, dev);
    this.#devices.add(dev);
    return dev;
  }

  /**
   * Takes a function off the bus. @param undo a later step of its arrival failed: nothing of it stays.
   * @throws ViommuError `EBUSY` while it is bound to an iommufd.
   */
  removeDevice(dev: KernelDevice, undo = false): void {
    if (dev.devId !== 0) throw new ViommuError('EBUSY', 'caller', `${dev.name} is bound`, { devId: dev.devId });
    const streams = this.#streams.get(dev.iommu);
    for (const s of dev.streams) streams?.delete(s);
    this.#devices.delete(dev);
    dev.group.leave(dev);
    if (dev.group.devices.length === 0) this.#groups.delete(dev.group.key);
    dev.iommu.removeDevice(dev, undo);
  }

  /** The device that sends with this stream id; null: none does. */
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
