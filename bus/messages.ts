import { toBigint } from '../src/core/bits.ts';
import type { EndpointPort } from '../src/ports/dma.ts';
import type { Fabric } from './fabric.ts';
import type { Slot } from './topology.ts';

/**
 * Messages from the IOMMU to functions, by stream id. With latencies they travel on the virtual clock and keep their order;
 * a function that disappears meanwhile never answers.
 */
export class Messages implements EndpointPort {
  readonly #fabric: Fabric;
  readonly #find: (stream: number) => Slot | undefined;

  /** @param find the function an IOMMU knows by a requester id (hardware numbering). */
  constructor(fabric: Fabric, find: (stream: number) => Slot | undefined) {
    this.#fabric = fabric;
    this.#find = find;
  }

  invalidate(rid: number, pasid: number, itag: number, lo: number, hi: number, global: boolean): boolean {
    const slot = this.#find(rid);
    const fn = slot?.fn;
    if (slot === undefined || fn?.invalidate === undefined) return false;
    this.#fabric.onMessage?.({
      kind: 'invalidate request',
      stream: rid,
      pasid,
      address: toBigint(lo, hi),
      itag,
      global,
    });
    const delay = this.#fabric.latency.invalidate;
    if (delay === 0) {
      if (fn.invalidate(pasid, itag, lo, hi, global)) return true;
      if (!slot.hostAts) return false;
      slot.bus.root.iommu.ats?.invalidateCompletion(rid, (2 ** itag) | 0, 1);
      return true;
    }
    this.#later(delay, slot, () => {
      // A function that refuses answers with UR, and that ends the request as a completion does.
      if (fn.invalidate!(pasid, itag, lo, hi, global)) return;
      slot.bus.root.iommu.ats?.invalidateCompletion(rid, (2 ** itag) | 0, 1);
    });
    return true;
  }

  pageResponse(rid: number, pasid: number, group: number, code: number): void {
    const slot = this.#find(rid);
    if (slot === undefined) return;
    this.#fabric.onMessage?.({ kind: 'page group response', stream: rid, pasid, group, code });
    const delay = this.#fabric.latency.response;
    if (delay === 0) slot.fn.pageResponse?.(pasid, group, code);
    else this.#later(delay, slot, () => slot.fn.pageResponse?.(pasid, group, code));
  }

  resumed(rid: number, token: number, outcome: number): void {
    const slot = this.#find(rid);
    if (slot === undefined) return;
    const delay = this.#fabric.latency.response;
    if (delay === 0) slot.fn.resumed?.(token, outcome);
    else this.#later(delay, slot, () => slot.fn.resumed?.(token, outcome));
  }

  #later(delay: number, slot: Slot, action: () => void): void {
    this.#fabric.clock!.after(delay, () => {
      if (this.#fabric.plugged(slot)) action();
    });
  }
}
