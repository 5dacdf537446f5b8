import type { Upstream } from '../../ports/pci.ts';
import { CAP, MSI, MSIX } from '../../spec/pcie/capabilities.ts';
import { COMMAND, HEADER, STATUS } from '../../spec/pcie/header.ts';
import { bits, type FormOf, WORD } from '../saved/state-form.ts';
import type { ConfigSpace } from './config-space.ts';

/** Which ways to interrupt a function has besides its pin. */
export interface InterruptOptions {
  /** MSI vectors, a power of two up to 32; 0 or absent: no MSI. */
  readonly msi?: number;
  /** MSI-X: where table and pending bits sit. */
  readonly msix?: { readonly vectors: number; readonly bar: number; readonly table: number; readonly pending: number };
}

/** Saved state of `Interrupts`. */
export interface InterruptState {
  readonly table: readonly number[];
  readonly pending: readonly number[];
  readonly wire: number;
}

/** The interrupts of one function: MSI-X if enabled, else MSI if enabled, else the pin. Masked messages stay pending. */
export class Interrupts {
  readonly #config: ConfigSpace;
  readonly #msi: number = 0;
  readonly #msix: number = 0;
  readonly #options: InterruptOptions;
  readonly #table: Int32Array;
  readonly #pending: Int32Array;
  /** Vectors that hold the pin up. */
  #wire = 0;
  /** Where messages go and the pin is wired; null: nowhere, while the function is not plugged in. */
  upstream: Upstream | null = null;

  /** Adds the capabilities to `config`. @throws ViommuError `ENOSPC` when there is no room. */
  constructor(config: ConfigSpace, options: InterruptOptions) {
    this.#config = config;
    this.#options = options;
    const vectors = options.msix?.vectors ?? 0;
    this.#table = new Int32Array(vectors * 4);
    this.#pending = new Int32Array(Math.max(1, Math.ceil(vectors / 32)));
    const msi = options.msi ?? 0;
    if (msi > 0) {
      const at = config.addCapability(CAP.MSI, MSI.BYTES);
      this.#msi = at;
      config.preset(at + MSI.CONTROL, 2, MSI.WIDE | MSI.MASKING | (Math.log2(msi) << 1));
      config.writable(at + MSI.CONTROL, 2, MSI.ENABLE | 0x70);
      config.writable(at + MSI.ADDRESS, 4, 0xffff_fffc);
      config.writable(at + MSI.ADDRESS_HIGH, 4, 0xffff_ffff);
      config.writable(at + MSI.DATA, 2, 0xffff);
      config.writable(at + MSI.MASK, 4, msi === 32 ? 0xffff_ffff : 2 ** msi - 1);
      config.changing(at + MSI.PENDING, 4, 0xffff_ffff);
      config.watch(at + MSI.CONTROL, 2, () => this.#settle());
      config.watch(at + MSI.MASK, 4, () => this.#settle());
    }
    if (options.msix !== undefined) {
      const at = config.addCapability(CAP.MSIX, MSIX.BYTES);
      this.#msix = at;
      config.preset(at + MSIX.CONTROL, 2, vectors - 1);
      config.writable(at + MSIX.CONTROL, 2, MSIX.ENABLE | MSIX.FUNCTION_MASK);
      config.preset(at + MSIX.TABLE, 4, options.msix.table | options.msix.bar);
      config.preset(at + MSIX.PBA, 4, options.msix.pending | options.msix.bar);
      config.watch(at + MSIX.CONTROL, 2, () => this.#settle());
    }
    config.changing(HEADER.STATUS, 2, STATUS.INTX);
    config.watch(HEADER.COMMAND, 2, () => this.#settle());
    this.reset();
  }

  /** Software has enabled MSI-X. */
  get msixEnabled(): boolean {
    return this.#msix !== 0 && (this.#config.get(this.#msix + MSIX.CONTROL, 2) & MSIX.ENABLE) !== 0;
  }

  /** Software has enabled MSI. */
  get msiEnabled(): boolean {
    return this.#msi !== 0 && (this.#config.get(this.#msi + MSI.CONTROL, 2) & MSI.ENABLE) !== 0;
  }

  /** An event of `vector`: one message, or the pin goes up until `clear(vector)`. */
  raise(vector: number): void {
    if (this.msixEnabled) this.#raiseX(vector);
    else if (this.msiEnabled) this.#raiseMsi(vector);
    else {
      this.#wire |= 1 << (vector & 31);
      this.#settle();
    }
  }

  /** The cause of `vector` is gone: it no longer holds the pin. Messages need no such thing. */
  clear(vector: number): void {
    this.#wire &= ~(1 << (vector & 31));
    this.#settle();
  }

  #raiseX(vector: number): void {
    if (vector * 4 >= this.#table.length) return;
    const masked = (this.#config.get(this.#msix + MSIX.CONTROL, 2) & MSIX.FUNCTION_MASK) !== 0;
    if (masked || (this.#table[vector * 4 + 3]! & MSIX.ENTRY_MASK) !== 0) {
      this.#pending[vector >>> 5]! |= 1 << (vector & 31);
      return;
    }
    this.#pending[vector >>> 5]! &= ~(1 << (vector & 31));
    this.upstream?.message(this.#table[vector * 4]! & ~3, this.#table[vector * 4 + 1]!, this.#table[vector * 4 + 2]!);
  }

  #raiseMsi(vector: number): void {
    const c = this.#config;
    const at = this.#msi;
    const granted = 1 << ((c.get(at + MSI.CONTROL, 2) >>> 4) & 7);
    const n = vector & (granted - 1);
    const bit = 1 << n;
    const pending = c.get(at + MSI.PENDING, 4);
    if ((c.get(at + MSI.MASK, 4) & bit) !== 0) {
      c.set(at + MSI.PENDING, 4, (pending | bit) >>> 0);
      return;
    }
    c.set(at + MSI.PENDING, 4, (pending & ~bit) >>> 0);
    const data = (c.get(at + MSI.DATA, 2) & ~(granted - 1)) | n;
    this.upstream?.message(c.get(at + MSI.ADDRESS, 4) | 0, c.get(at + MSI.ADDRESS_HIGH, 4) | 0, data);
  }

  /** Sends what was pending and is no longer masked; sets the pin. */
  #settle(): void {
    if (this.msixEnabled) {
      for (let v = 0; v * 4 < this.#table.length; v++) {
        if ((this.#pending[v >>> 5]! & (1 << (v & 31))) !== 0) this.#raiseX(v);
      }
    } else if (this.msiEnabled) {
      let left = this.#config.get(this.#msi + MSI.PENDING, 4);
      for (let v = 0; left !== 0; v++, left >>>= 1) if ((left & 1) !== 0) this.#raiseMsi(v);
    }
    const pin = this.#config.get(HEADER.INTERRUPT_PIN, 1);
    const off = this.msixEnabled || this.msiEnabled || (this.#config.get(HEADER.COMMAND, 2) & COMMAND.INTX_OFF) !== 0;
    const status = this.#config.get(HEADER.STATUS, 2) & ~STATUS.INTX;
    this.#config.set(HEADER.STATUS, 2, status | (this.#wire !== 0 ? STATUS.INTX : 0));
    if (pin !== 0) this.upstream?.intx(pin, this.#wire !== 0 && !off);
  }

  /** Whether a BAR offset is in the MSI-X structures. */
  claims(bar: number, offset: number): boolean {
    const x = this.#options.msix;
    if (x === undefined || x.bar !== bar) return false;
    const inTable = offset >= x.table && offset < x.table + x.vectors * MSIX.ENTRY;
    return inTable || (offset >= x.pending && offset < x.pending + this.#pending.length * 8);
  }

  /** Reads of 1, 2 or 4 bytes; software uses 4 and 8. */
  read(offset: number, size: number): number {
    const x = this.#options.msix!;
    const word = offset - (offset & 3);
    const value =
      word >= x.table && word < x.table + x.vectors * MSIX.ENTRY
        ? this.#table[(word - x.table) / 4]!
        : (this.#pending[(word - x.pending) / 4] ?? 0);
    return size === 4 ? value >>> 0 : (value >>> (8 * (offset & 3))) & (size === 2 ? 0xffff : 0xff);
  }

  /** Only whole words count (PCIe §6.1.4.2); pending bits are read-only. */
  write(offset: number, size: number, value: number): void {
    const x = this.#options.msix!;
    if (size !== 4 || offset < x.table || offset >= x.table + x.vectors * MSIX.ENTRY) return;
    this.#table[(offset - x.table) / 4] = value;
    if ((offset & 0xc) === 0xc) this.#settle();
  }

  /** Every vector masked and none pending; the pin is down. */
  reset(): void {
    this.#table.fill(0);
    for (let v = 3; v < this.#table.length; v += 4) this.#table[v] = MSIX.ENTRY_MASK;
    this.#pending.fill(0);
    this.#wire = 0;
    const pin = this.#config.get(HEADER.INTERRUPT_PIN, 1);
    if (pin !== 0) this.upstream?.intx(pin, false);
  }

  /** @internal What each field of a saved state may hold. */
  form(): FormOf<InterruptState> {
    const vectors = this.#table.length / 4;
    const own = (i: number) => bits(vectors >= 32 * (i + 1) ? -1 : 2 ** Math.max(0, vectors - 32 * i) - 1);
    return {
      members: {
        table: { each: WORD, length: this.#table.length },
        pending: { each: own, length: this.#pending.length },
        wire: WORD,
      },
    };
  }

  /** Table, pending bits and pin. */
  save(): InterruptState {
    return { table: Array.from(this.#table), pending: Array.from(this.#pending), wire: this.#wire };
  }

  /** Goes back to a saved state. Call it after the configuration space was loaded: the pin is set as that says. */
  load(state: InterruptState): void {
    this.#table.set(state.table);
    this.#pending.set(state.pending);
    this.#wire = state.wire;
    // The pin is as the loaded configuration space has it; messages that were pending stay so.
    const pin = this.#config.get(HEADER.INTERRUPT_PIN, 1);
    const off = this.msixEnabled || this.msiEnabled || (this.#config.get(HEADER.COMMAND, 2) & COMMAND.INTX_OFF) !== 0;
    if (pin !== 0) this.upstream?.intx(pin, this.#wire !== 0 && !off);
  }
}
