import { HW_ERROR, type HwEvents } from '../../../ports/hw.ts';
import { frcd } from '../../../spec/vtd/faults.ts';
import type { HostDevice, KernelServices, PagingDomain } from '../../kernel/driver.ts';
import type { DriverUpcalls } from '../../upcalls/driver-upcalls.ts';
import { VtdNestedDomain } from './nested-domain.ts';
import type { PageRequests } from './page-requests.ts';
import { VtdPagingDomain } from './paging-domain.ts';

/** Fault records the kernel's log keeps. */
const LOG = 256;

/** The driver's interrupt handlers: what the unit says, to the kernel's paths and to the listeners of upcalls. */
export class VtdEvents implements HwEvents {
  /** Unrecoverable faults end in the host's log and nowhere else, as far as Linux goes. Newest last. */
  readonly log: Int32Array[] = [];
  readonly #driver: object;
  readonly #kernel: KernelServices;
  readonly #upcalls: DriverUpcalls | null;
  readonly #requests: PageRequests;
  readonly #deviceOf: (rid: number) => HostDevice | null;

  constructor(
    driver: object,
    kernel: KernelServices,
    upcalls: DriverUpcalls | null,
    requests: PageRequests,
    deviceOf: (rid: number) => HostDevice | null,
  ) {
    this.#driver = driver;
    this.#kernel = kernel;
    this.#upcalls = upcalls;
    this.#requests = requests;
    this.#deviceOf = deviceOf;
  }

  streamMiss(rid: number, pasid: number): boolean {
    if (this.#upcalls === null) return false;
    const dev = this.#deviceOf(rid);
    return dev === null ? false : this.#upcalls.streamMiss(dev, dev.streams.indexOf(rid), pasid);
  }

  stageTwoMiss(rid: number, pasid: number, ipa: number, access: number, lo: number, hi: number): boolean {
    if (this.#upcalls === null) return false;
    const dev = this.#deviceOf(rid);
    const domain = dev === null ? null : this.#secondStageOf(dev, pasid);
    if (dev === null || domain === null) return false;
    return this.#upcalls.stageTwoMiss(dev, domain, dev.streams.indexOf(rid), pasid, ipa, access, lo, hi);
  }

  #secondStageOf(dev: HostDevice, pasid: number): PagingDomain | null {
    const domain = this.#kernel.attached(dev, pasid);
    if (domain instanceof VtdNestedDomain) return domain.parent;
    return domain instanceof VtdPagingDomain ? domain : null;
  }

  fault(record: Int32Array): void {
    this.log.push(record);
    if (this.log.length > LOG) this.log.shift();
    const rid = frcd.sid(record[2]!);
    const dev = this.#deviceOf(rid);
    if (dev !== null) this.#upcalls?.fault(dev, dev.streams.indexOf(rid), record);
  }

  pageRequest(record: Int32Array): void {
    this.#requests.receive(record);
  }

  completed(token: number, error: number, rid: number): void {
    if (this.#upcalls === null) return;
    if (error !== HW_ERROR.NONE) {
      const dev = this.#deviceOf(rid);
      if (dev !== null) this.#upcalls.invalidateError(dev, error);
    }
    this.#upcalls.completed(this.#driver, token);
  }

  /** FSTS.ICE: Linux clears it; whose function it was hears of it. */
  unexpectedCompletion(rid: number): void {
    const dev = this.#deviceOf(rid);
    if (dev !== null) this.#upcalls?.invalidateError(dev, HW_ERROR.UNEXPECTED_COMPLETION);
  }
}
