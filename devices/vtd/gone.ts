import { NO_PASID } from '../../src/ports/dma.ts';
import type { VtdStream } from './stream.ts';

/**
 * Streams that were taken out while answers to device-TLB invalidations may be missing: what comes of those still goes by the
 * requester id that the guest named. Of a slice it comes under the slice's own host PASIDs.
 */
export class GoneStreams {
  readonly #rids = new Map<number, number>();

  /** A stream goes, with what it has still attached. */
  add(s: VtdStream): void {
    const { devId } = s.vfio;
    this.#rids.set(keyOf(devId, s.index, s.slice ?? NO_PASID), s.rid);
    if (!s.renamed) return;
    for (const slot of s.slots.list) {
      for (const host of slot.host) if (host !== NO_PASID) this.#rids.set(keyOf(devId, s.index, host), s.rid);
    }
  }

  /** The requester id that stood for a host PASID (NO_PASID: for the stream itself); undefined: none did. */
  rid(devId: number, index: number, host: number): number | undefined {
    return this.#rids.get(keyOf(devId, index, host));
  }

  /** No answer is missing any more. */
  clear(): void {
    this.#rids.clear();
  }
}

/** PASIDs have 20 bits; device ids and indices of streams are far below 2^16. */
function keyOf(devId: number, index: number, host: number): number {
  return (devId * 2 ** 16 + index) * 2 ** 21 + host + 1;
}
