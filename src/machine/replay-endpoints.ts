import { guestRid } from '../lib/pci/rids.ts';
import { type AtsPort, type EndpointPort, NO_PASID } from '../ports/dma.ts';
import type { GrantedTranslations } from './granted.ts';

/**
 * The functions of a recording, as far as they answer: a recording does not show their translation caches (a translation
 * request looks like DMA in it), so every invalidation is completed at once.
 */
export class PromptEndpoints implements EndpointPort {
  readonly #ats: AtsPort;
  readonly #granted: GrantedTranslations | null;

  /** @param granted hears of every invalidation. */
  constructor(ats: AtsPort, granted: GrantedTranslations | null = null) {
    this.#ats = ats;
    this.#granted = granted;
  }

  invalidate(rid: number, pasid: number, itag: number, lo: number, hi: number): boolean {
    if (pasid === NO_PASID) this.#granted?.invalidated(guestRid(rid), lo, hi);
    this.#ats.invalidateCompletion(rid, 1 << itag, 1);
    return true;
  }

  pageResponse(): void {}

  resumed(): void {}
}
