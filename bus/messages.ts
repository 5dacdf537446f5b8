import { toBigint } from '../src/core/bits.ts';
import { type EndpointPort, NO_PASID } from '../src/ports/dma.ts';
import { NOT_SET_UP } from './departure.ts';
import type { Fabric } from './fabric.ts';
import type { Slot } from './topology.ts';

/**
 * Messages from the IOMMU to functions, by stream id. With latencies they travel on the virtual clock and keep their order;
 * a function that disappears meanwhile never answers. A message that names a PASID of a slice is the slice's.
 */
export class Messages implements EndpointPort {
  readonly #fabric: Fabric;
  readonly #find: (stream: number) => Slot | undefined;
  /** The slice's own name of the PASID `#addressee` was asked for. */
  #pasid = NO_PASID;

  /** @param find the function an IOMMU knows by a requester id (hardware numbering). */
  constructor(fabric: Fabric, find: (stream: number) => Slot | undefined) {
    this.#fabric = fabric;
    this.#find = find;
  }

  /** Whose a PASID of a function is: a slice's, whose name of it is left in `#pasid`, or its own. */
  #addressee(slot: Slot, pasid: number): Slot {
    this.#pasid = pasid;
    if (slot.slices.size === 0 || pasid === NO_PASID) return slot;
    for (const part of slot.slices) {
      const own = part.slice!.guestPasid(pasid);
      if (own === NOT_SET_UP) continue;
      this.#pasid = own;
      return part;
    }
    return slot;
  }

  invalidate(rid: number, pasid: number, itag: number, lo: number, hi: number, global: boolean): boolean {
    const slot = this.#find(rid);
    if (slot?.fn.invalidate === undefined) return false;
    this.#fabric.onMessage?.({
      kind: 'invalidate request',
      stream: rid,
      pasid,
      address: toBigint(lo, hi),
      itag,
      global,
    });
    const to = this.#addressee(slot, pasid);
    if (this.#fabric.latency.invalidate > 0) {
      this.#invalidateLater(slot, to, rid, itag, lo, hi, global);
      return true;
    }
    if (to.fn.invalidate?.(this.#pasid, itag, lo, hi, global) === true) return true;
    if (!slot.hostAts) return false;
    this.#unsupported(slot, rid, itag);
    return true;
  }

  /** By the PASID that `#addressee` has found. */
  #invalidateLater(slot: Slot, to: Slot, rid: number, itag: number, lo: number, hi: number, global: boolean): void {
    const own = this.#pasid;
    this.#later(this.#fabric.latency.invalidate, slot, () => {
      if (this.#fabric.plugged(to) && to.fn.invalidate?.(own, itag, lo, hi, global) === true) return;
      this.#unsupported(slot, rid, itag);
    });
  }

  /** A function that refuses answers with UR, and that ends the request as a completion does. So does a slice that has gone. */
  #unsupported(slot: Slot, rid: number, itag: number): void {
    slot.bus.root.iommu.ats?.invalidateCompletion(rid, 1 << itag, 1);
  }

  pageResponse(rid: number, pasid: number, group: number, code: number): void {
    const slot = this.#find(rid);
    if (slot === undefined) return;
    this.#fabric.onMessage?.({ kind: 'page group response', stream: rid, pasid, group, code });
    const to = this.#addressee(slot, pasid);
    const own = this.#pasid;
    const delay = this.#fabric.latency.response;
    if (delay === 0) to.fn.pageResponse?.(own, group, code);
    else this.#later(delay, to, () => to.fn.pageResponse?.(own, group, code));
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
