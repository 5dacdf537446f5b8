import { bits, type FormOf, WORD } from '../lib/saved/state-form.ts';
import type { InterruptRemapPort } from '../ports/dma.ts';
import type { InterruptPort } from '../ports/irq.ts';
import type { MmioDevice } from '../ports/mmio.ts';

/** Requester id of the IOAPIC in DMAR scopes (bus 0xff, 00.0). */
export const IOAPIC_RID = 0xff00;
const PINS = 24;
const VERSION = 0x0017_0020;
const SELECT = 0x00;
const DATA = 0x10;
const EOI = 0x40;
/** Redirection entry, low word: read-only delivery status and Remote IRR, level trigger, mask. */
const ENTRY = { STATUS: 1 << 12, REMOTE_IRR: 1 << 14, LEVEL: 1 << 15, MASK: 1 << 16 } as const;
const MESSAGES = 0xfee0_0000;

export interface IoapicState {
  readonly select: number;
  readonly id: number;
  readonly entries: readonly number[];
  readonly levels: number;
}

const READ_ONLY = ENTRY.STATUS;

/** What each field of a saved I/O APIC may hold. */
export const IOAPIC_FORM: FormOf<IoapicState> = {
  members: {
    select: { from: 0, to: 0xff },
    id: bits(0x0f00_0000),
    entries: { each: (i) => ((i & 1) === 0 ? bits(~READ_ONLY) : WORD), length: 2 * PINS },
    levels: bits(2 ** PINS - 1),
  },
};

/**
 * I/O APIC (82093AA, version 0x20) with 24 pins. What it sends are messages like any function's, through interrupt remapping
 * when that is on: bits 63:48 of an entry are address bits 19:4, so a remappable entry makes a remappable message.
 */
export class Ioapic implements MmioDevice {
  readonly name = 'ioapic';
  readonly bytes = 0x1000;
  /** Interrupt remapping between it and the processors; null: none. */
  remap: InterruptRemapPort | null = null;
  readonly #irq: InterruptPort | null;
  readonly #entries = new Int32Array(2 * PINS);
  #select = 0;
  #id = 0;
  #levels = 0;

  constructor(irq: InterruptPort | null) {
    this.#irq = irq;
    this.reset();
  }

  reset(): void {
    this.#select = this.#id = this.#levels = 0;
    for (let pin = 0; pin < PINS; pin++) {
      this.#entries[2 * pin] = ENTRY.MASK;
      this.#entries[2 * pin + 1] = 0;
    }
  }

  read(offset: number, size: number): number {
    if (offset === SELECT) return this.#select;
    return offset === DATA && size === 4 ? this.#register() : 0;
  }

  read64(offset: number, out: Int32Array): void {
    out[0] = this.read(offset, 4);
    out[1] = 0;
  }

  #register(): number {
    const i = this.#select - 0x10;
    if (this.#select === 0 || this.#select === 2) return this.#id;
    if (this.#select === 1) return VERSION;
    return i >= 0 && i < 2 * PINS ? this.#entries[i]! >>> 0 : 0;
  }

  write(offset: number, size: number, lo: number): void {
    if (offset === SELECT) this.#select = lo & 0xff;
    else if (offset === DATA && size >= 4) this.#store(lo);
    else if (offset === EOI && size >= 4) this.endOfInterrupt(lo & 0xff);
  }

  #store(value: number): void {
    if (this.#select === 0) this.#id = value & 0x0f00_0000;
    const i = this.#select - 0x10;
    if (i < 0 || i >= 2 * PINS) return;
    if ((i & 1) === 1) {
      this.#entries[i] = value;
      return;
    }
    const kept = this.#entries[i]! & (ENTRY.STATUS | ENTRY.REMOTE_IRR);
    // The status bits are read-only; an edge-triggered entry has no Remote IRR.
    let now = (value & ~(ENTRY.STATUS | ENTRY.REMOTE_IRR)) | kept;
    if ((now & ENTRY.LEVEL) === 0) now &= ~ENTRY.REMOTE_IRR;
    this.#entries[i] = now;
    this.#service(i >> 1, false);
  }

  /** A line of the board: level of pin 0 … 23. */
  level(pin: number, asserted: boolean): void {
    const bit = 1 << pin;
    const rises = asserted && (this.#levels & bit) === 0;
    this.#levels = asserted ? this.#levels | bit : this.#levels & ~bit;
    this.#service(pin, rises);
  }

  /** Sends what the pin has to say: an edge once, a level until it was acknowledged and is gone. */
  #service(pin: number, edge: boolean): void {
    const low = this.#entries[2 * pin]!;
    if ((low & ENTRY.MASK) !== 0) return;
    const level = (low & ENTRY.LEVEL) !== 0;
    if (level ? (this.#levels & (1 << pin)) === 0 || (low & ENTRY.REMOTE_IRR) !== 0 : !edge) return;
    if (level) this.#entries[2 * pin] = low | ENTRY.REMOTE_IRR;
    const high = this.#entries[2 * pin + 1]!;
    // Destination mode is address bit 2; vector, delivery mode and trigger are the data.
    const address = (MESSAGES | ((high >>> 16) << 4) | ((low >>> 9) & 4)) >>> 0;
    const data = (low & 0x7ff) | (level ? ENTRY.LEVEL | ENTRY.REMOTE_IRR : 0);
    const { remap } = this;
    if (remap === null) this.#irq?.message(address, data);
    else if (remap.remap(IOAPIC_RID, address, data) && remap.posted !== true) {
      this.#irq?.message(remap.outAddress, remap.outData);
    }
  }

  /** A processor finished a level-triggered vector: pins still held interrupt again. */
  endOfInterrupt(vector: number): void {
    for (let pin = 0; pin < PINS; pin++) {
      const low = this.#entries[2 * pin]!;
      if ((low & 0xff) !== vector || (low & ENTRY.REMOTE_IRR) === 0) continue;
      this.#entries[2 * pin] = low & ~ENTRY.REMOTE_IRR;
      this.#service(pin, false);
    }
  }

  save(): IoapicState {
    return { select: this.#select, id: this.#id, entries: Array.from(this.#entries), levels: this.#levels };
  }

  load(state: IoapicState): void {
    this.#select = state.select;
    this.#id = state.id;
    this.#entries.set(state.entries);
    this.#levels = state.levels;
  }
}
