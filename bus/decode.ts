import type { MmioDevice } from '../src/ports/mmio.ts';
import { readBar, writeBar } from './registers.ts';
import type { PciBus, Root, Slot } from './topology.ts';

/** No window of a bridge begins or ends in the middle of so many bytes. */
const GRAIN = 0x1000;

/** The buses to search, and a count that moves on with everything that can change the answer. */
export interface DecodedBuses {
  readonly roots: readonly Root[];
  readonly generation: number;
}

/**
 * Processor accesses to functions: from the root buses through the windows of the bridges to the BAR that decodes the
 * address. The last hit is remembered until anything changes.
 */
export class Decoder {
  slot: Slot | null = null;
  bar = 0;
  /** Offset in the BAR of the last address found. */
  offset = 0;
  readonly #buses: DecodedBuses;
  readonly #io: boolean;
  #base = 0;
  #end = 0;
  #generation = -1;

  /** @param io ports instead of memory. */
  constructor(buses: DecodedBuses, io: boolean) {
    this.#buses = buses;
    this.#io = io;
  }

  /** @returns whether a function decodes `address` (bytes); then `slot`, `bar` and `offset` name the place. */
  find(address: number): boolean {
    if (this.#generation !== this.#buses.generation || address < this.#base || address >= this.#end) {
      this.#generation = this.#buses.generation;
      this.#base = this.#end = 0;
      if (!this.#buses.roots.some((r) => this.#search(r.bus, address))) return false;
    }
    this.offset = address - this.#base;
    return true;
  }

  /** Bytes from `address`, which nothing decodes, up to where something might: a lower bound. */
  gap(address: number): number {
    let least = Number.MAX_SAFE_INTEGER;
    for (const { bus } of this.#buses.roots) least = Math.min(least, this.#gap(bus, address));
    return least;
  }

  #gap(bus: PciBus, address: number): number {
    let least = Number.MAX_SAFE_INTEGER;
    for (const slot of bus.slots.values()) {
      for (const w of slot.fn.windows) {
        const base = w.io === this.#io ? w.address() : -1;
        if (base < 0 || address >= base + w.bytes) continue;
        // A BAR that a bridge keeps from decoding here may decode where the bridge's window begins.
        least = Math.min(least, base > address ? base - address : GRAIN - (address % GRAIN));
      }
      if (slot.behind !== null) least = Math.min(least, this.#gap(slot.behind, address));
    }
    return least;
  }

  #search(bus: PciBus, address: number): boolean {
    for (const slot of bus.slots.values()) {
      const windows = slot.fn.windows;
      for (let i = 0; i < windows.length; i++) {
        const w = windows[i]!;
        if (w.io !== this.#io) continue;
        const base = w.address();
        if (base < 0 || address < base || address >= base + w.bytes) continue;
        this.slot = slot;
        this.bar = i;
        this.#base = base;
        this.#end = base + w.bytes;
        return true;
      }
      const bridge = slot.bridge;
      if (bridge === null) continue;
      const passes = this.#io ? bridge.decodesIo(address) : bridge.decodes(address);
      if (passes && this.#search(slot.behind!, address)) return true;
    }
    return false;
  }
}

/** Where a piece of the processor's address space lies that belongs to PCI. */
export interface PciWindowPlace {
  /** First address, as functions see it (bytes). */
  readonly base: number;
  /** Size in bytes. */
  readonly bytes: number;
  /** What a read gives where no function answers: 0xffffffff, or 0 and accesses of functions abort there. */
  readonly unclaimed: number;
  /** Ports instead of memory. */
  readonly io?: boolean;
}

/** A piece of the processor's address space that belongs to PCI: what no function decodes reads as `unclaimed`. */
export class PciWindowSpace implements MmioDevice {
  readonly name: string;
  readonly bytes: number;
  readonly #base: number;
  readonly #decoder: Decoder;
  readonly #unclaimed: number;

  constructor(buses: DecodedBuses, place: PciWindowPlace) {
    const { io = false } = place;
    this.name = io ? 'pci-io' : 'pci-memory';
    this.bytes = place.bytes;
    this.#base = place.base;
    this.#unclaimed = place.unclaimed;
    this.#decoder = new Decoder(buses, io);
  }

  /** A function that lets nobody in now does not answer. */
  claims(offset: number): boolean {
    const d = this.#decoder;
    return d.find(this.#base + offset) ? d.slot!.gate.open : this.#unclaimed !== 0;
  }

  silent(offset: number): number {
    const address = this.#base + offset;
    return this.#decoder.find(address) ? 0 : Math.min(this.#decoder.gap(address), this.bytes - offset);
  }

  read(offset: number, size: number): number {
    const d = this.#decoder;
    if (d.find(this.#base + offset)) return readBar(d.slot!, d.bar, d.offset, size);
    return size === 4 ? this.#unclaimed : this.#unclaimed & (size === 2 ? 0xffff : 0xff);
  }

  read64(offset: number, out: Int32Array): void {
    out[0] = this.read(offset, 4);
    out[1] = this.read(offset + 4, 4);
  }

  write(offset: number, size: number, lo: number, hi: number): void {
    const d = this.#decoder;
    if (d.find(this.#base + offset)) writeBar(d.slot!, d.bar, d.offset, Math.min(size, 4), lo >>> 0);
    if (size === 8) this.write(offset + 4, 4, hi, 0);
  }
}
