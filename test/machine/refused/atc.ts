import { AT, ATS, type AtsPort, DMA, type EndpointPort, NO_PASID, type TranslatePort } from '../../../src/ports/dma.ts';
import { rangeShift } from '../../../src/spec/pcie/messages.ts';

/** Functions with ATCs that hold every translation they have ever got until it is invalidated, and answer at once. */
export class Atcs implements EndpointPort {
  readonly #hw: TranslatePort & AtsPort;
  /** Output page by function, PASID and page. */
  readonly #held = new Map<string, number>();

  constructor(hw: TranslatePort & AtsPort) {
    this.#hw = hw;
  }

  invalidate(rid: number, pasid: number, itag: number, lo: number, hi: number, global: boolean): boolean {
    const shift = rangeShift(lo, hi);
    const at = (hi >>> 0) * 2 ** 32 + ((lo & ~0xfff) >>> 0);
    for (const key of [...this.#held.keys()]) {
      const [r, p, page] = key.split(' ').map(Number) as [number, number, number];
      const inside = shift >= 52 || Math.floor(page / 2 ** shift) === Math.floor(at / 2 ** shift);
      // A global invalidation means every PASID (PCIe 6.0 §10.3.8).
      const named = p === pasid || (global && p !== NO_PASID);
      if (r === rid && named && inside) this.#held.delete(key);
    }
    this.#hw.invalidateCompletion(rid, (1 << itag) | 0, 1);
    return true;
  }
  pageResponse(): void {}
  resumed(): void {}

  /** A write of the function to a page. @returns the host-physical address, -1: it asks in vain and sends it untranslated. */
  held(rid: number, pasid: number, page: number, access: number): number {
    const key = `${rid} ${pasid} ${page}`;
    const known = this.#held.get(key);
    if (known !== undefined) return known;
    const hw = this.#hw;
    if (hw.translationRequest(rid, pasid, page | 0, 0, access) !== ATS.SUCCESS) return -1;
    if ((access & ~hw.atsPerm & 3) !== 0 || hw.atsUntranslated) return -1;
    const out = hw.atsOut - (hw.atsOut % 4096);
    this.#held.set(key, out);
    return out;
  }

  /** The function is gone, or reset. */
  forget(): void {
    this.#held.clear();
  }
}

/** One untranslated access. @returns the host-physical address, or -1. */
export function untranslated(hw: TranslatePort, rid: number, pasid: number, at: number, access: number): number {
  return hw.translate(rid, pasid, at | 0, 0, access, AT.UNTRANSLATED) === DMA.OK ? hw.out : -1;
}

export { NO_PASID };
