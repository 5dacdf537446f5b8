import { NO_PASID } from '../../ports/dma.ts';
import { HW_ERROR, type HwEvents } from '../../ports/hw.ts';
import type { HostDevice, PagingDomain } from '../kernel/driver.ts';
import type { DriverUpcalls } from '../upcalls/driver-upcalls.ts';

export interface DriverInterruptsParts {
  /** The driver's identity, as in `HostDevice.iommu`. */
  readonly driver: object;
  readonly upcalls: DriverUpcalls | null;
  readonly deviceOf: (rid: number) => HostDevice | null;
  /** The stage 2 that a PASID of a device's stream translates with; null: none of the kernel's. */
  readonly stageTwoOf: (dev: HostDevice, stream: number, pasid: number) => PagingDomain | null;
  /** The handlers of the fault queue and of the page-request queue. */
  readonly fault: (record: Int32Array, ats?: boolean) => void;
  readonly pageRequest: (record: Int32Array) => void;
  /**
   * Outstanding completions are in. @returns whose their errors are: the function's guest (true), or the kernel's, which
   * logs them; null: the token is none of this driver's.
   */
  readonly completed: (token: number, error: number) => boolean | null;
}

/** A driver's interrupt handlers: what the hardware says, to the kernel's paths and to the listeners of upcalls. */
export class DriverInterrupts implements HwEvents {
  readonly #p: DriverInterruptsParts;

  constructor(parts: DriverInterruptsParts) {
    this.#p = parts;
  }

  streamMiss(rid: number, pasid: number): boolean {
    const { upcalls, deviceOf } = this.#p;
    const dev = upcalls === null ? null : deviceOf(rid);
    return dev === null || upcalls === null ? false : upcalls.streamMiss(dev, dev.streams.indexOf(rid), pasid);
  }

  stageTwoMiss(rid: number, pasid: number, ipa: number, access: number, lo: number, hi: number): boolean {
    const { upcalls, deviceOf, stageTwoOf } = this.#p;
    const dev = upcalls === null ? null : deviceOf(rid);
    if (upcalls === null || dev === null) return false;
    const stream = dev.streams.indexOf(rid);
    const domain = stageTwoOf(dev, stream, pasid);
    return domain !== null && upcalls.stageTwoMiss(dev, domain, stream, pasid, ipa, access, lo, hi);
  }

  fault(record: Int32Array, ats?: boolean): void {
    this.#p.fault(record, ats);
  }

  pageRequest(record: Int32Array): void {
    this.#p.pageRequest(record);
  }

  completed(token: number, error: number, rid: number): void {
    const { driver, upcalls, completed } = this.#p;
    const guests = completed(token, error);
    if (guests === null || upcalls === null) return;
    upcalls.completed(driver, token, guests ? error : HW_ERROR.NONE, rid);
  }

  /** VT-d's FSTS.ICE: Linux clears it; whose function it was hears of it. */
  unexpectedCompletion(rid: number): void {
    const { upcalls, deviceOf } = this.#p;
    const dev = deviceOf(rid);
    if (dev !== null) upcalls?.invalidateError(dev, HW_ERROR.UNEXPECTED_COMPLETION, dev.streams.indexOf(rid), NO_PASID);
  }
}
