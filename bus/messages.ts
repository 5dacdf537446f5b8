import type { EndpointPort } from '../src/ports/dma.ts';
import type { Root } from './root.ts';
import type { RootComplex } from './root-complex.ts';
import type { Slot } from './topology.ts';

/**
 * Messages from the IOMMU to functions, by stream id. With latencies they travel on the virtual clock and keep their order;
 * a function that disappears meanwhile never answers.
 */
export class Messages implements EndpointPort {
  readonly #complex: RootComplex;
  readonly #root: Root;

  constructor(complex: RootComplex, root: Root) {
    this.#complex = complex;
    this.#root = root;
  }

  invalidate(rid: number, pasid: number, itag: number, lo: number, hi: number, global: boolean): boolean {
    const slot = this.#complex.byStream(this.#root, rid);
    const fn = slot?.fn;
    if (slot === undefined || fn?.invalidate === undefined) return false;
    const delay = this.#complex.latency.invalidate;
    if (delay === 0) return fn.invalidate(pasid, itag, lo, hi, global);
    this.#later(delay, slot, () => {
      // A function that refuses answers with UR, and that ends the request as a completion does.
      if (fn.invalidate!(pasid, itag, lo, hi, global)) return;
      this.#root.iommu.ats?.invalidateCompletion(rid, (2 ** itag) | 0, 1);
    });
    return true;
  }

  pageResponse(rid: number, pasid: number, group: number, code: number): void {
    const slot = this.#complex.byStream(this.#root, rid);
    if (slot === undefined) return;
    const delay = this.#complex.latency.response;
    if (delay === 0) slot.fn.pageResponse?.(pasid, group, code);
    else this.#later(delay, slot, () => slot.fn.pageResponse?.(pasid, group, code));
  }

  resumed(rid: number, token: number, outcome: number): void {
    const slot = this.#complex.byStream(this.#root, rid);
    if (slot === undefined) return;
    const delay = this.#complex.latency.response;
    if (delay === 0) slot.fn.resumed?.(token, outcome);
    else this.#later(delay, slot, () => slot.fn.resumed?.(token, outcome));
  }

  #later(delay: number, slot: Slot, action: () => void): void {
    this.#complex.clock!.after(delay, () => {
      if (this.#complex.plugged(slot)) action();
    });
  }
}
