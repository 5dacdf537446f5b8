import { NO_PASID } from '../../../ports/dma.ts';
import { HW_ERROR, type HwEvents, type VirtualQueuePort } from '../../../ports/hw.ts';
import type { HostDevice, IommuDriver, KernelServices, PagingDomain } from '../../kernel/driver.ts';
import type { DriverUpcalls } from '../../upcalls/driver-upcalls.ts';
import type { Smmuv3DriverFaults } from './faults.ts';
import { Smmuv3NestedDomain } from './nested-domain.ts';
import type { Smmuv3DriverPageRequests } from './page-requests.ts';
import { Smmuv3PagingDomain } from './paging-domain.ts';

export interface Smmuv3DriverInterruptsParts {
  readonly driver: IommuDriver;
  readonly kernel: KernelServices;
  readonly upcalls: DriverUpcalls | null;
  readonly faults: Smmuv3DriverFaults;
  readonly requests: Smmuv3DriverPageRequests;
  /** Outstanding submissions with a guest's own ATS invalidations: only their errors are the guest's. */
  readonly guestTokens: Set<number>;
  /** Queues that guests ring themselves; null: the SMMU has none. */
  readonly queues: VirtualQueuePort | null;
  readonly deviceOf: (sid: number) => HostDevice | null;
}

/** The driver's interrupt handlers: what the SMMU says, to the kernel's paths and to the listeners of upcalls. */
export class Smmuv3DriverInterrupts implements HwEvents {
  readonly #p: Smmuv3DriverInterruptsParts;

  constructor(parts: Smmuv3DriverInterruptsParts) {
    this.#p = parts;
  }

  streamMiss(rid: number, pasid: number): boolean {
    const { upcalls, deviceOf } = this.#p;
    if (upcalls === null) return false;
    const dev = deviceOf(rid);
    return dev === null ? false : upcalls.streamMiss(dev, dev.streams.indexOf(rid), pasid);
  }

  stageTwoMiss(rid: number, pasid: number, ipa: number, access: number, lo: number, hi: number): boolean {
    const { upcalls, deviceOf } = this.#p;
    if (upcalls === null) return false;
    const dev = deviceOf(rid);
    const domain = dev === null ? null : this.#stageTwoOf(dev);
    if (dev === null || domain === null) return false;
    return upcalls.stageTwoMiss(dev, domain, dev.streams.indexOf(rid), pasid, ipa, access, lo, hi);
  }

  #stageTwoOf(dev: HostDevice): PagingDomain | null {
    const domain = this.#p.kernel.attached(dev, NO_PASID);
    if (domain instanceof Smmuv3NestedDomain) return domain.parent;
    return domain instanceof Smmuv3PagingDomain ? domain : null;
  }

  fault(record: Int32Array): void {
    this.#p.faults.report(record);
  }

  pageRequest(record: Int32Array): void {
    this.#p.requests.receive(record);
  }

  completed(token: number, error: number, rid: number): void {
    const { driver, upcalls, guestTokens, queues, deviceOf } = this.#p;
    if (queues?.completed(token, error) === true || upcalls === null) return;
    const guest = guestTokens.delete(token);
    if (guest && error !== HW_ERROR.NONE) {
      const dev = deviceOf(rid);
      if (dev !== null) upcalls.invalidateError(dev, error);
    }
    upcalls.completed(driver, token);
  }
}
