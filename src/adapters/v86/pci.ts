import { type ConfigTarget, Ecam } from '../../../bus/config-access.ts';
import type { RootComplex } from '../../../bus/root-complex.ts';
import type { MmioDevice } from '../../ports/mmio.ts';
import type { PciFunction } from '../../ports/pci.ts';
import type { V86Pci } from './internals.ts';
import type { V86Mmio } from './mmio.ts';

const ENABLED = 0x8000_0000 | 0;
/** v86's functions keep 64 words of configuration. */
const CONVENTIONAL = 0x100;

/**
 * Our functions beside v86's own: its configuration mechanism and an ECAM window answer for both, and BARs of ours are
 * claimed wherever the guest moves them.
 */
export class V86PciBridge implements ConfigTarget {
  readonly #pci: V86Pci;
  readonly #complex: RootComplex;
  readonly #mmio: V86Mmio;
  readonly #original: Pick<V86Pci, 'pci_query' | 'pci_write8' | 'pci_write16' | 'pci_write32'>;
  readonly #claims = new Map<string, () => void>();

  constructor(pci: V86Pci, complex: RootComplex, mmio: V86Mmio, report: (error: unknown) => void) {
    this.#pci = pci;
    this.#complex = complex;
    this.#mmio = mmio;
    this.#original = {
      pci_query: pci.pci_query,
      pci_write8: pci.pci_write8,
      pci_write16: pci.pci_write16,
      pci_write32: pci.pci_write32,
    };
    const guarded = (action: () => void) => {
      try {
        action();
      } catch (error) {
        report(error);
      }
    };
    pci.pci_query = () => guarded(() => this.#query());
    pci.pci_write8 = (address, value) => guarded(() => this.#write(address, 1, value));
    pci.pci_write16 = (address, value) => guarded(() => this.#write(address, 2, value));
    pci.pci_write32 = (address, value) => guarded(() => this.#write(address, 4, value));
  }

  #ours(bdf: number): boolean {
    return this.#complex.configTarget(bdf >>> 8, bdf & 0xff) !== null;
  }

  #query(): void {
    const pci = this.#pci;
    const bdf = (pci.pci_addr[2]! << 8) | pci.pci_addr[1]!;
    if (!this.#ours(bdf)) {
      this.#original.pci_query.call(pci);
      return;
    }
    pci.pci_status32[0] = ENABLED;
    pci.pci_response32[0] = this.configRead(bdf >>> 8, bdf & 0xff, pci.pci_addr[0]! & 0xfc, 4) | 0;
  }

  #write(address: number, size: 1 | 2 | 4, value: number): void {
    const bdf = (address >>> 8) & 0xffff;
    if (this.#ours(bdf)) {
      this.configWrite(bdf >>> 8, bdf & 0xff, address & 0xff, size, value);
      this.#query();
      return;
    }
    // v86 indexes the space of a function that is not there.
    if (this.#pci.device_spaces[bdf] === undefined) return;
    const write = this.#original[size === 1 ? 'pci_write8' : size === 2 ? 'pci_write16' : 'pci_write32'];
    write.call(this.#pci, address, value);
  }

  configRead(bus: number, devfn: number, offset: number, size: number): number {
    const bdf = (bus << 8) | devfn;
    if (this.#ours(bdf)) return this.#complex.configRead(bus, devfn, offset, size);
    const ones = size === 4 ? 0xffff_ffff : 2 ** (8 * size) - 1;
    const space = this.#pci.device_spaces[bdf];
    if (space === undefined) return ones;
    return offset >= CONVENTIONAL ? 0 : ((space[offset >>> 2]! >>> (8 * (offset & 3))) & ones) >>> 0;
  }

  configWrite(bus: number, devfn: number, offset: number, size: number, value: number): void {
    const bdf = (bus << 8) | devfn;
    if (this.#ours(bdf)) {
      this.#complex.configWrite(bus, devfn, offset, size, value >>> 0);
      this.claimBars();
    } else if (offset < CONVENTIONAL) {
      this.#write((bdf << 8) | offset, size as 1 | 2 | 4, value);
    }
  }

  /** Follows the BARs of our functions; also after a function was plugged, unplugged or restored. */
  claimBars(): void {
    const wanted = new Map<string, { base: number; device: MmioDevice }>();
    for (const slot of this.#complex.slots()) {
      slot.fn.windows.forEach((w, bar) => {
        const base = w.address();
        if (w.io || base <= 0) return;
        const key = `${slot.fn.name}@${slot.rid}/${bar}:${base}`;
        wanted.set(key, { base, device: new BarWindow(slot.fn, bar, w.bytes) });
      });
    }
    for (const [key, release] of this.#claims) {
      if (wanted.has(key)) continue;
      release();
      this.#claims.delete(key);
    }
    for (const [key, w] of wanted)
      if (!this.#claims.has(key)) this.#claims.set(key, this.#mmio.claim(w.base, w.device, true));
  }

  /** The ECAM window for `buses` buses. */
  ecam(buses: number): MmioDevice {
    return new Ecam(this, buses);
  }
}

/** One BAR of one function as a window of the emulator. */
class BarWindow implements MmioDevice {
  readonly name: string;
  readonly bytes: number;
  readonly #fn: PciFunction;
  readonly #bar: number;

  constructor(fn: PciFunction, bar: number, bytes: number) {
    this.name = `${fn.name} BAR ${bar}`;
    this.bytes = bytes;
    this.#fn = fn;
    this.#bar = bar;
  }

  read(offset: number, size: number): number {
    return this.#fn.barRead(this.#bar, offset, size);
  }

  read64(offset: number, out: Int32Array): void {
    out[0] = this.read(offset, 4);
    out[1] = this.read(offset + 4, 4);
  }

  write(offset: number, size: number, lo: number, hi: number): void {
    this.#fn.barWrite(this.#bar, offset, Math.min(size, 4), lo >>> 0);
    if (size === 8) this.#fn.barWrite(this.#bar, offset + 4, 4, hi >>> 0);
  }
}
