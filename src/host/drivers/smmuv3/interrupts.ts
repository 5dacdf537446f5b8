import { NO_PASID } from '../../../ports/dma.ts';
import { HW_ERROR, type HwEvents, type VirtualQueuePort } from '../../../ports/hw.ts';
import type { HostDevice, IommuDriver, KernelServices, PagingDomain } from '../../kernel/driver.ts';
import type { DriverUpcalls } from '../../upcalls/driver-upcalls.ts';
import type { Faults } from './faults.ts';
import { SmmuNestedDomain } from './nested-domain.ts';
import { SmmuPagingDomain } from './paging-domain.ts';

/** The driver's interrupt handlers: what the SMMU says, to the kernel's paths and to the listeners of upcalls. */
export class SmmuEvents implements HwEvents {
  readonly #driver: IommuDriver;
  readonly #kernel: KernelServices;
  readonly #upcalls: DriverUpcalls | null;
  readonly #faults: Faults;
  readonly #guestTokens: Set<number>;
  readonly #queues: VirtualQueuePort | null;

  constructor(
    driver: IommuDriver,
    kernel: KernelServices,
    upcalls: DriverUpcalls | null,
    faults: Faults,
    guestTokens: Set<number>,
    queues: VirtualQueuePort | null,
  ) {
    this.#driver = driver;
    this.#kernel = kernel;
    this.#upcalls = upcalls;
    this.#faults = faults;
    this.#guestTokens = guestTokens;
    this.#queues = queues;
  }

  #deviceOf(sid: number): HostDevice | null {
    return this.#kernel.deviceByStream(this.#driver, sid);
  }

  streamMiss(rid: number, pasid: number): boolean {
    if (this.#upcalls === null) return false;
    const dev = this.#deviceOf(rid);
    return dev === null ? false : this.#upcalls.streamMiss(dev, dev.streams.indexOf(rid), pasid);
  }

  stageTwoMiss(rid: number, pasid: number, ipa: number, access: number, lo: number, hi: number): boolean {
    if (this.#upcalls === null) return false;
    const dev = this.#deviceOf(rid);
    const domain = dev === null ? null : this.#stageTwoOf(dev);
    if (dev === null || domain === null) return false;
    return this.#upcalls.stageTwoMiss(dev, domain, dev.streams.indexOf(rid), pasid, ipa, access, lo, hi);
  }

  #stageTwoOf(dev: HostDevice): PagingDomain | null {
    const domain = this.#kernel.attached(dev, NO_PASID);
    if (domain instanceof SmmuNestedDomain) return domain.parent;
    return domain instanceof SmmuPagingDomain ? domain : null;
  }

  fault(record: Int32Array): void {
    this.#faults.event(record);
  }

  pageRequest(record: Int32Array): void {
    this.#faults.pageRequest(record);
  }

  completed(token: number, error: number, rid: number): void {
    if (this.#queues?.completed(token, error) === true || this.#upcalls === null) return;
    const guest = this.#guestTokens.delete(token);
    if (guest && error !== HW_ERROR.NONE) {
      const dev = this.#deviceOf(rid);
      if (dev !== null) this.#upcalls.invalidateError(dev, error);
    }
    this.#upcalls.completed(this.#driver, token);
  }
}
