import { E } from '../../spec/iommufd/errno.ts';
import { VFIO_PCI_IRQ } from '../../spec/iommufd/vfio.ts';
import { CAP, MSI, MSIX } from '../../spec/pcie/capabilities.ts';
import { COMMAND, HEADER, STATUS } from '../../spec/pcie/header.ts';
import type { EventSignal } from '../ioctl/caller.ts';
import type { VfioConfigSpace } from './config-space.ts';
import type { FoundBar, VfioHardware } from './hardware.ts';

/** No way of interrupting is set up. */
const NONE = -1;

/** A capability of the function, found once; 0: it has none. */
function find(hardware: VfioHardware, id: number): number {
  let at = hardware.configRead(HEADER.CAPABILITIES, 1) & ~3;
  for (let i = 0; i < 48 && at >= 0x40; i++) {
    if (hardware.configRead(at, 1) === id) return at;
    at = hardware.configRead(at + 1, 1) & ~3;
  }
  return 0;
}

/**
 * The interrupts of a function under vfio-pci: pin, MSI or MSI-X towards the user's eventfds, and the two events of the
 * kernel's own (errors, the request to give the device back). Errno as drivers/vfio/pci/vfio_pci_intrs.c.
 */
export class VfioInterrupts {
  /** Which of VFIO_PCI_IRQ is set up: INTX, MSI or MSIX; -1: none. */
  type = NONE;
  readonly #hardware: VfioHardware;
  readonly #config: VfioConfigSpace;
  readonly #bars: readonly FoundBar[];
  readonly #msi: number;
  readonly #msix: number;
  /** By vector (MSI, MSI-X), or one (pin). */
  #signals: (EventSignal | null)[] = [];
  readonly #single = new Map<number, EventSignal>();
  /** The pin: masked by the user, or by the kernel when it told of an interrupt. */
  #masked = false;
  #up = false;

  constructor(hardware: VfioHardware, config: VfioConfigSpace, bars: readonly FoundBar[]) {
    this.#hardware = hardware;
    this.#config = config;
    this.#bars = bars;
    this.#msi = find(hardware, CAP.MSI);
    this.#msix = find(hardware, CAP.MSIX);
  }

  /** How many interrupts an index of VFIO_PCI_IRQ has. */
  count(index: number): number {
    const hw = this.#hardware;
    switch (index) {
      case VFIO_PCI_IRQ.INTX:
        return hw.configRead(HEADER.INTERRUPT_PIN, 1) === 0 ? 0 : 1;
      case VFIO_PCI_IRQ.MSI:
        return this.#msi === 0 ? 0 : 1 << ((hw.configRead(this.#msi + MSI.CONTROL, 2) >>> 1) & 7);
      case VFIO_PCI_IRQ.MSIX:
        return this.#msix === 0 ? 0 : (hw.configRead(this.#msix + MSIX.CONTROL, 2) & 0x7ff) + 1;
      case VFIO_PCI_IRQ.ERR:
        return find(hw, CAP.PCIE) === 0 ? 0 : 1;
      default:
        return index === VFIO_PCI_IRQ.REQ ? 1 : 0;
    }
  }

  /** Where the MSI-X table lies: its BAR's index, and bytes in it; null: there is none. */
  get table(): { readonly index: number; readonly start: number; readonly end: number } | null {
    if (this.#msix === 0) return null;
    const word = this.#hardware.configRead(this.#msix + MSIX.TABLE, 4);
    const start = (word & ~7) >>> 0;
    return { index: word & 7, start, end: start + this.count(VFIO_PCI_IRQ.MSIX) * MSIX.ENTRY };
  }

  /** The pin begins to be listened to. @returns 0; -EINVAL another way is set up; -ENODEV there is no pin. */
  enablePin(signal: EventSignal | null): number {
    if (this.type !== NONE) return -E.INVAL;
    if (this.count(VFIO_PCI_IRQ.INTX) === 0) return -E.NODEV;
    this.type = VFIO_PCI_IRQ.INTX;
    this.#signals = [signal];
    this.#masked = this.#config.intxOff;
    this.#gatePin();
    // A level that is up already interrupts at once.
    this.#deliverPin();
    return 0;
  }

  /** MSI or MSI-X is turned on, with every vector silent. @returns 0; -EINVAL the function does not have so many. */
  enableMessages(index: number, vectors: number): number {
    if (this.type !== NONE || vectors > this.count(index)) return -E.INVAL;
    this.type = index;
    this.#signals = new Array<EventSignal | null>(index === VFIO_PCI_IRQ.MSIX ? this.count(index) : vectors).fill(null);
    this.program();
    return 0;
  }

  /** Vectors that can be given eventfds: MSI has as many as it was turned on with. */
  get vectors(): number {
    return this.#signals.length;
  }

  /** Who is told of a vector from now on; null: nobody. The one before is let go. */
  connect(vector: number, signal: EventSignal | null): void {
    this.#signals[vector]?.release();
    this.#signals[vector] = signal;
    if (this.type === VFIO_PCI_IRQ.MSIX) this.#maskVector(vector, signal === null);
    if (this.type === VFIO_PCI_IRQ.MSI) this.#maskMsi();
    if (this.type === VFIO_PCI_IRQ.INTX) this.#gatePin();
  }

  /** As if the interrupt had come. */
  trigger(vector: number): void {
    this.#signals[vector]?.signal();
  }

  /** Nothing interrupts any more. */
  disable(): void {
    const hw = this.#hardware;
    if (this.type === VFIO_PCI_IRQ.MSIX) this.#msixControl(0);
    if (this.type === VFIO_PCI_IRQ.MSI) {
      const at = this.#msi + MSI.CONTROL;
      hw.configWrite(at, 2, hw.configRead(at, 2) & ~MSI.ENABLE);
    }
    if (this.type === VFIO_PCI_IRQ.INTX) this.#pinOff(false);
    for (const signal of this.#signals) signal?.release();
    this.#signals = [];
    this.type = NONE;
    this.#config.showMsi(false);
  }

  /** The function's MSI or MSI-X registers as the kernel wants them; again after a reset. */
  program(): void {
    const hw = this.#hardware;
    if (this.type === VFIO_PCI_IRQ.MSIX) {
      this.#msixControl(MSIX.ENABLE | MSIX.FUNCTION_MASK);
      for (const [v, signal] of this.#signals.entries()) {
        const { lo, hi, data } = hw.place(v);
        for (const [i, word] of [lo, hi, data].entries()) this.#tableWrite(v, 4 * i, word);
        this.#maskVector(v, signal === null);
      }
      this.#msixControl(MSIX.ENABLE);
    }
    if (this.type === VFIO_PCI_IRQ.MSI) {
      const at = this.#msi;
      const { lo, hi, data } = hw.place(0);
      const control = hw.configRead(at + MSI.CONTROL, 2);
      const wide = (control & MSI.WIDE) !== 0;
      hw.configWrite(at + MSI.ADDRESS, 4, lo);
      if (wide) hw.configWrite(at + MSI.ADDRESS_HIGH, 4, hi);
      hw.configWrite(at + (wide ? MSI.DATA : MSI.DATA - 4), 2, data);
      const granted = 31 - Math.clz32(Math.max(1, 2 * this.#signals.length - 1));
      hw.configWrite(at + MSI.CONTROL, 2, (control & ~0x70) | (granted << 4) | MSI.ENABLE);
      this.#maskMsi();
    }
    if (this.type === VFIO_PCI_IRQ.INTX) this.#gatePin();
  }

  #msixControl(bits: number): void {
    const hw = this.#hardware;
    const at = this.#msix + MSIX.CONTROL;
    hw.configWrite(at, 2, (hw.configRead(at, 2) & ~(MSIX.ENABLE | MSIX.FUNCTION_MASK)) | bits);
  }
  #tableWrite(vector: number, offset: number, value: number): void {
    const { index, start } = this.table!;
    const bar = this.#bars.find((b) => b.index === index);
    if (bar !== undefined) this.#hardware.barWrite(bar.window, start + vector * MSIX.ENTRY + offset, 4, value >>> 0);
  }
  #maskVector(vector: number, masked: boolean): void {
    this.#tableWrite(vector, 12, masked ? MSIX.ENTRY_MASK : 0);
  }
  #maskMsi(): void {
    const hw = this.#hardware;
    const control = hw.configRead(this.#msi + MSI.CONTROL, 2);
    if ((control & MSI.MASKING) === 0) return;
    let mask = 0;
    for (const [v, signal] of this.#signals.entries()) if (signal === null) mask |= 1 << v;
    const at = this.#msi + ((control & MSI.WIDE) !== 0 ? MSI.MASK : MSI.MASK - 4);
    hw.configWrite(at, 4, mask >>> 0);
  }

  /** A message of the function has arrived. */
  message(vector: number): void {
    if (this.type === VFIO_PCI_IRQ.MSI || this.type === VFIO_PCI_IRQ.MSIX) this.trigger(vector);
  }

  /** The line moved, and it may be this function that moved it. */
  line(up: boolean): void {
    this.#up = up;
    this.#deliverPin();
  }

  /** A level is told of once: it is masked until the user says that it has been served. */
  #deliverPin(): void {
    if (this.type !== VFIO_PCI_IRQ.INTX || this.#masked || !this.#up || this.#config.intxOff) return;
    if ((this.#hardware.configRead(HEADER.STATUS, 2) & STATUS.INTX) === 0) return;
    this.#masked = true;
    this.#gatePin();
    this.trigger(0);
  }

  /** The user masks the pin. */
  mask(): void {
    this.#masked = true;
    this.#gatePin();
  }
  /** The user has served the pin: if it is still up, that is told again. */
  unmask(): void {
    this.#masked = false;
    this.#gatePin();
    this.#deliverPin();
  }

  /** COMMAND or MSI control were written by the user. */
  configChanged(): void {
    this.#config.showMsi(this.type === VFIO_PCI_IRQ.MSI);
    this.#gatePin();
    this.#deliverPin();
  }

  #gatePin(): void {
    if (this.type === VFIO_PCI_IRQ.INTX) this.#pinOff(this.#masked || this.#config.intxOff);
  }
  #pinOff(off: boolean): void {
    const hw = this.#hardware;
    const command = hw.configRead(HEADER.COMMAND, 2);
    hw.configWrite(HEADER.COMMAND, 2, off ? command | COMMAND.INTX_OFF : command & ~COMMAND.INTX_OFF);
  }

  /** ERR and REQ: who is told of it; null: nobody. */
  connectSingle(index: number, signal: EventSignal | null): void {
    this.#single.get(index)?.release();
    if (signal === null) this.#single.delete(index);
    else this.#single.set(index, signal);
  }
  /** Somebody is told of an error or a request. */
  listens(index: number): boolean {
    return this.#single.has(index);
  }
  /** Tells of an error or of a request. @returns false: nobody listens. */
  triggerSingle(index: number): boolean {
    const signal = this.#single.get(index);
    signal?.signal();
    return signal !== undefined;
  }

  /** The device is closed. */
  close(): void {
    this.disable();
    for (const signal of this.#single.values()) signal.release();
    this.#single.clear();
  }
}
