import { HW_ERROR, type HwEvents } from '../../../ports/hw.ts';
import type { HostDevice, KernelServices, PagingDomain } from '../../kernel/driver.ts';
import type { DriverUpcalls } from '../../upcalls/driver-upcalls.ts';
import type { VtdDriverFaults } from './faults.ts';
import { VtdNestedDomain } from './nested-domain.ts';
import type { VtdDriverPageRequests } from './page-requests.ts';
import { VtdPagingDomain } from './paging-domain.ts';

export interface VtdDriverInterruptsParts {
  /** The driver's identity, as in `HostDevice.iommu`. */
  readonly driver: object;
  readonly kernel: KernelServices;
  readonly upcalls: DriverUpcalls | null;
  readonly faults: VtdDriverFaults;
  readonly requests: VtdDriverPageRequests;
  readonly deviceOf: (rid: number) => HostDevice | null;
}

/** The driver's interrupt handlers: what the unit says, to the kernel's paths and to the listeners of upcalls. */
export class VtdDriverInterrupts implements HwEvents {
  readonly #p: VtdDriverInterruptsParts;

  constructor(parts: VtdDriverInterruptsParts) {
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
    const domain = dev === null ? null : this.#secondStageOf(dev, pasid);
    if (dev === null || domain === null) return false;
    return upcalls.stageTwoMiss(dev, domain, dev.streams.indexOf(rid), pasid, ipa, access, lo, hi);
  }

  #secondStageOf(dev: HostDevice, pasid: number): PagingDomain | null {
    const domain = this.#p.kernel.attached(dev, pasid);
    if (domain instanceof VtdNestedDomain) return domain.parent;
    return domain instanceof VtdPagingDomain ? domain : null;
  }

  fault(record: Int32Array): void {
    this.#p.faults.report(record);
  }

  pageRequest(record: Int32Array): void {
    this.#p.requests.receive(record);
  }

  completed(token: number, error: number, rid: number): void {
    const { driver, upcalls, deviceOf } = this.#p;
    if (upcalls === null) return;
    if (error !== HW_ERROR.NONE) {
      const dev = deviceOf(rid);
      if (dev !== null) upcalls.invalidateError(dev, error);
    }
    upcalls.completed(driver, token);
  }

  /** FSTS.ICE: Linux clears it; whose function it was hears of it. */
  unexpectedCompletion(rid: number): void {
    const dev = this.#p.deviceOf(rid);
    if (dev !== null) this.#p.upcalls?.invalidateError(dev, HW_ERROR.UNEXPECTED_COMPLETION);
  }
}
