import { fromWords } from '../src/core/bits.ts';
import type { MemoryRequest } from '../src/lib/pci/memory-request.ts';
import { AT, DMA, NO_PASID } from '../src/ports/dma.ts';
import { type Departure, deliverInterrupt, NOT_SET_UP } from './departure.ts';
import type { Fabric } from './fabric.ts';
import { directPeer } from './peer.ts';
import type { Slot } from './topology.ts';

const PAGE = 4096;
/** Failing pieces of one request that are tried one by one: a guest's length must not become unbounded work. */
const MOST_TRIES = 4096;
/** Units of work of each of them. */
const TRY_WORK = 4;
/** Units of an access of up to 4 bytes that did not go to RAM, whoever answers. */
const WINDOW_WORK = 0.5;

/** The piece QEMU's memory core makes of a failing access: naturally aligned, at most 4 bytes. */
function pieceOf(lo: number, left: number): number {
  const aligned = (lo & 3) === 0 ? 4 : (lo & 1) === 0 ? 2 : 1;
  const n = Math.min(aligned, left);
  return n === 3 ? 2 : n;
}

/** The way of memory requests of one function: a peer below the same switch, or the IOMMU and then memory. */
export class MemoryPath {
  /** Bytes the last request moved before it failed. */
  done = 0;
  /** Names the stalled access when the answer was STALLED. */
  stallToken = 0;
  /**
   * QEMU's memory core does not stop at a failing piece but tries the rest of the request, piece by piece: one fault record
   * each. Real requests end at their first abort.
   */
  insist = false;
  readonly #fabric: Fabric;
  readonly #slot: Slot;
  readonly #departure: Departure;
  /** Bytes the last piece really was; 0: all of it. */
  #taken = 0;

  constructor(fabric: Fabric, slot: Slot, departure: Departure) {
    this.#fabric = fabric;
    this.#slot = slot;
    this.#departure = departure;
  }

  /** Moves a request, split at page boundaries. @returns a DMA value; `done` says how far it came. */
  move(r: MemoryRequest): number {
    this.done = 0;
    if (r.pasid === NOT_SET_UP || !this.#departure.may(r.at)) return DMA.ABORT;
    let result: number = DMA.OK;
    let tries = 0;
    while (r.left > 0) {
      let n = Math.min(r.left, PAGE - (r.lo & (PAGE - 1)));
      const outcome = this.#piece(r, n);
      if (this.#taken > 0) n = this.#taken;
      if (outcome !== DMA.OK && outcome !== DMA.RAZ_WI) {
        if (!this.insist || tries++ === MOST_TRIES) return outcome;
        result = outcome;
        this.#slot.gate.spend(TRY_WORK);
        if (this.#taken === 0) n = pieceOf(r.lo, n);
      } else if (result === DMA.OK) this.done += n;
      r.advance(n);
    }
    return result;
  }

  /** The next `count` bytes of a request; they lie in one page. */
  #piece(r: MemoryRequest, count: number): number {
    this.#taken = 0;
    const slot = this.#slot;
    const peer = directPeer(this.#fabric.peers, slot, r.lo, r.hi, r.at);
    if (peer !== null) {
      const offset = fromWords(r.lo, r.hi) - peer.base;
      return peer.transfer(r.write, offset, r.bytes, r.start, count) ? DMA.OK : DMA.ABORT;
    }
    const { iommu } = slot.bus.root;
    const port = iommu.translate;
    const outcome = port.translate(this.#departure.stream, r.pasid, r.lo, r.hi, r.access, r.at);
    switch (outcome) {
      case DMA.OK:
        return this.#memory(r, port.out | 0, (port.out / 2 ** 32) | 0, count);
      case DMA.RAZ_WI:
        if (!r.write) r.bytes.fill(0, r.start, r.start + count);
        return DMA.RAZ_WI;
      case DMA.STALLED:
        this.stallToken = port.stallToken ?? 0;
        return DMA.STALLED;
      case DMA.INTERRUPT:
        return this.#interrupt(r, count);
      default:
        return outcome;
    }
  }

  /** @param lo,hi where the IOMMU says that the piece lies. */
  #memory(r: MemoryRequest, lo: number, hi: number, count: number): number {
    const { permits } = this.#slot.bus.root.iommu;
    if (r.at === AT.TRANSLATED && permits?.(lo, hi) === false) return this.#departure.refuseForgery();
    this.#fabric.sender = this.#departure;
    const { memory } = this.#fabric;
    const before = memory.windowed ?? 0;
    const done = r.write
      ? memory.writePart(lo, hi, r.bytes, r.start, count)
      : memory.readPart(lo, hi, r.bytes, r.start, count);
    const windowed = (memory.windowed ?? 0) - before;
    if (windowed > 0) this.#slot.gate.spend(windowed * WINDOW_WORK);
    return done ? DMA.OK : DMA.ABORT;
  }

  /** Only a DWORD write without PASID is an interrupt (VT-d §3.15); QEMU makes several of a longer one. */
  #interrupt(r: MemoryRequest, count: number): number {
    if (this.insist) this.#taken = pieceOf(r.lo, count);
    const { remap } = this.#slot.bus.root.iommu;
    if (!r.write || r.pasid !== NO_PASID) return DMA.ABORT;
    if ((r.lo & 3) !== 0 || (this.#taken > 0 ? this.#taken : r.left) !== 4) {
      remap?.refused?.(this.#departure.requester);
      return DMA.ABORT;
    }
    const { bytes, start } = r;
    const data = bytes[start]! | (bytes[start + 1]! << 8) | (bytes[start + 2]! << 16) | (bytes[start + 3]! << 24);
    const rid = this.#fabric.anonymousWrites ? 0 : this.#departure.requester;
    return deliverInterrupt(this.#fabric, this.#slot.bus.root, rid, r.lo >>> 0, data >>> 0);
  }
}
