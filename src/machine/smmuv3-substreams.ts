import { NO_PASID, type TranslatePort } from '../ports/dma.ts';

/**
 * Requests on their way to a physical SMMU whose guest has translation off. To the guest no stream table is read then, so that a
 * SubstreamID means nothing and the request goes where one without goes (IHI 0070 §6.3.9.6). The host, which always
 * translates, has no configuration without stage 1 that takes SubstreamIDs: they are left away before it.
 */
export class SubstreamsUnseen implements TranslatePort {
  readonly #hw: TranslatePort;
  /** Whether the guest's stream that sends under a requester id of the host is without translation. */
  readonly #off: (rid: number) => boolean;

  constructor(hw: TranslatePort, off: (rid: number) => boolean) {
    this.#hw = hw;
    this.#off = off;
  }

  translate(rid: number, pasid: number, lo: number, hi: number, access: number, at: number): number {
    return this.#hw.translate(rid, pasid !== NO_PASID && this.#off(rid) ? NO_PASID : pasid, lo, hi, access, at);
  }

  get out(): number {
    return this.#hw.out;
  }
  get outShift(): number {
    return this.#hw.outShift;
  }
  get outPerm(): number {
    return this.#hw.outPerm;
  }
  get guestShift(): number {
    return this.#hw.guestShift;
  }
  get tag(): number {
    return this.#hw.tag;
  }
  get stallToken(): number {
    return this.#hw.stallToken ?? 0;
  }
}
