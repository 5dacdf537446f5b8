import { ATS, type AtsPort } from '../../src/ports/dma.ts';

/** Answers every translation request with one of 64 pages from `ram` on, so that only the function and the bus do work. */
export class Answering implements AtsPort {
  atsOut = 0;
  readonly atsShift = 12;
  readonly atsPerm = 3;
  readonly atsUntranslated = false;
  readonly atsNoSnoop = false;
  readonly #ram: number;

  /** @param ram bytes, a multiple of 256 KiB. */
  constructor(ram: number) {
    this.#ram = ram;
  }

  translationRequest(_rid: number, _pasid: number, lo: number): number {
    this.atsOut = this.#ram + (lo & 0x3_f000);
    return ATS.SUCCESS;
  }

  invalidateCompletion(): void {}

  pageRequest(): void {}
}
