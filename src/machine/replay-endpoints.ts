import type { AtsPort, EndpointPort } from '../ports/dma.ts';

/**
 * The functions of a recording, as far as they answer: a recording does not show their translation caches (a translation
 * request looks like DMA in it), so every invalidation is completed at once.
 */
export class PromptEndpoints implements EndpointPort {
  readonly #ats: AtsPort;

  constructor(ats: AtsPort) {
    this.#ats = ats;
  }

  invalidate(rid: number, _pasid: number, itag: number): boolean {
    this.#ats.invalidateCompletion(rid, 1 << itag, 1);
    return true;
  }

  pageResponse(): void {}

  resumed(): void {}
}
