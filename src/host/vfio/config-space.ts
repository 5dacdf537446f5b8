import { extendedCapability } from '../../lib/pci/capability-list.ts';
import { AER_CAP, CAP, EXT, MSI, PCIE } from '../../spec/pcie/capabilities.ts';
import { COMMAND, HEADER, STATUS } from '../../spec/pcie/header.ts';
import type { FoundBar, VfioHardware } from './hardware.ts';

/** Bytes of a PCI Express function's configuration space. */
export const VFIO_CONFIG_BYTES = 4096;
const FIRST_EXTENDED = 0x100;

/** What VFIO does with writes into the configuration space that the hardware alone cannot do. */
export interface VfioConfigEvents {
  /** The user asked for a function level reset. */
  resetAsked(): void;
  /** COMMAND's INTX_OFF bit, which is the user's only in appearance, or the MSI control word was written. */
  changed(): void;
}

/**
 * A function's configuration space as a user of vfio-pci sees it (Linux, drivers/vfio/pci/vfio_pci_config.c). Each bit is
 * the hardware's or is kept for the user (`virtual`), and may be written or not; what no table mentions is read-only.
 */
export class VfioConfigSpace {
  readonly #hardware: VfioHardware;
  readonly #bars: readonly FoundBar[];
  readonly #events: VfioConfigEvents;
  readonly #kept = new Uint8Array(VFIO_CONFIG_BYTES);
  readonly #virtual = new Uint8Array(VFIO_CONFIG_BYTES);
  readonly #writable = new Uint8Array(VFIO_CONFIG_BYTES);
  #pcie = 0;
  #aer = 0;
  #msi = 0;

  constructor(hardware: VfioHardware, bars: readonly FoundBar[], events: VfioConfigEvents) {
    this.#hardware = hardware;
    this.#bars = bars;
    this.#events = events;
  }

  /** The device is opened: what is kept for the user is the hardware's once more (`vfio_config_init`). */
  open(): void {
    const hw = this.#hardware;
    this.#virtual.fill(0);
    this.#writable.fill(0);
    for (let at = 0; at < VFIO_CONFIG_BYTES; at += 4) this.#keep(at, 4, hw.configRead(at, 4));
    this.#header();
    this.#capabilities();
    this.#extended();
  }

  #keep(at: number, size: number, value: number): void {
    for (let i = 0; i < size; i++) this.#kept[at + i] = value >>> (8 * i);
  }
  #rule(at: number, size: number, virtual: number, writable: number): void {
    for (let i = 0; i < size; i++) {
      this.#virtual[at + i] = virtual >>> (8 * i);
      this.#writable[at + i] = writable >>> (8 * i);
    }
  }
  #kept16(at: number): number {
    return this.#kept[at]! | (this.#kept[at + 1]! << 8);
  }

  #header(): void {
    this.#rule(HEADER.VENDOR, 4, -1, 0);
    this.#rule(HEADER.COMMAND, 2, COMMAND.INTX_OFF, 0xffff);
    this.#rule(HEADER.STATUS, 1, STATUS.CAPABILITIES, 0);
    this.#rule(HEADER.CACHE_LINE, 2, 0, 0xffff);
    this.#rule(HEADER.BIST, 1, 0, 0xff);
    this.#rule(HEADER.CAPABILITIES, 1, 0xff, 0);
    this.#rule(HEADER.INTERRUPT_LINE, 1, 0xff, 0xff);
    this.#rule(HEADER.INTERRUPT_PIN, 1, 0xff, 0);
    for (let i = 0; i < 6; i++) this.#rule(HEADER.BAR0 + 4 * i, 4, -1, -1);
    this.#rule(HEADER.ROM, 4, -1, -1);
    this.#keep(HEADER.ROM, 4, 0);
    for (let i = 0; i < 6; i++) this.#keep(HEADER.BAR0 + 4 * i, 4, 0);
    for (const b of this.#bars) this.#keep(HEADER.BAR0 + 4 * b.index, 4, b.type);
    this.#keep(HEADER.COMMAND, 2, this.#kept16(HEADER.COMMAND) & ~COMMAND.INTX_OFF);
  }

  #capabilities(): void {
    const hw = this.#hardware;
    this.#pcie = this.#msi = 0;
    let at = hw.configRead(HEADER.CAPABILITIES, 1) & ~3;
    for (let i = 0; i < 48 && at >= 0x40; i++) {
      const id = hw.configRead(at, 1);
      this.#rule(at + 1, 1, 0xff, 0);
      if (id === CAP.PCIE) {
        this.#pcie = at;
        // Function level reset, payload and read request size are the host's.
        this.#rule(at + PCIE.DEVCTL, 2, PCIE.DEVCTL_FLR | 0x70e0, 0xffff & ~0x200);
        this.#rule(at + PCIE.DEVCTL2, 2, 0, 0xffff & ~PCIE.DEVCTL2_ARI);
      } else if (id === CAP.MSI) this.#messages(at);
      at = hw.configRead(at + 1, 1) & ~3;
    }
  }

  #messages(at: number): void {
    this.#msi = at;
    const control = this.#hardware.configRead(at + MSI.CONTROL, 2);
    const wide = (control & MSI.WIDE) !== 0;
    this.#rule(at + MSI.CONTROL, 1, 0x71, 0x71);
    this.#rule(at + MSI.ADDRESS, 4, -1, -1);
    if (wide) this.#rule(at + MSI.ADDRESS_HIGH, 4, -1, -1);
    this.#rule(at + (wide ? MSI.DATA : MSI.DATA - 4), 2, -1, -1);
    if ((control & MSI.MASKING) === 0) return;
    const mask = at + (wide ? MSI.MASK : MSI.MASK - 4);
    this.#rule(mask, 4, -1, -1);
    this.#keep(mask, 4, 0);
  }

  /** A PASID capability is not shown: users give PASIDs to the iommufd, and a VMM makes a capability of its own. */
  #extended(): void {
    const hw = this.#hardware;
    const aer = extendedCapability(hw, EXT.AER);
    this.#aer = aer;
    if (aer !== 0) {
      this.#rule(aer + AER_CAP.UNCORRECTABLE, 12, 0, -1);
      for (const at of [AER_CAP.UNCORRECTABLE, AER_CAP.UNCORRECTABLE_MASK, AER_CAP.UNCORRECTABLE_SEVERITY])
        this.#rule(aer + at, 4, 0, 0x07ff_f031);
      this.#rule(aer + AER_CAP.CORRECTABLE, 4, 0, 0xf1c1);
      this.#rule(aer + AER_CAP.CORRECTABLE_MASK, 4, 0, 0xf1c1);
      this.#rule(aer + AER_CAP.CONTROL, 4, 0, 0x140);
    }
    let before = 0;
    let at = FIRST_EXTENDED;
    for (let i = 0; i < 960 && at >= FIRST_EXTENDED; i++) {
      const head = hw.configRead(at, 4);
      if (head === 0 || head === 0xffff_ffff) return;
      this.#rule(at, 4, -1, 0);
      const next = (head >>> 20) & 0xffc;
      if ((head & 0xffff) === EXT.PASID) this.#hide(before, at, next);
      else before = at;
      at = next;
    }
  }

  #hide(before: number, at: number, next: number): void {
    const from = before === 0 ? at : before;
    const head = before === 0 ? 0 : this.#kept16(before) | ((this.#kept[before + 2]! & 0xf) << 16);
    this.#keep(from, 4, (head | (next << 20)) >>> 0);
  }

  /** What a user reads; the caller has cut the range to the space. */
  read(at: number, into: Uint8Array, count: number): void {
    for (let done = 0; done < count; ) {
      const size = stepAt(at + done, count - done);
      const hw = this.#hardware.configRead(at + done, size);
      for (let i = 0; i < size; i++) {
        const virtual = this.#virtual[at + done + i]!;
        into[done + i] = ((hw >>> (8 * i)) & 0xff & ~virtual) | (this.#seen(at + done + i) & virtual);
      }
      done += size;
    }
  }

  /** A kept byte as it is read: BARs show the bits that their size leaves. */
  #seen(at: number): number {
    const n = (at - HEADER.BAR0) >> 2;
    if (at < HEADER.BAR0 || n >= 6) return at >= HEADER.ROM && at < HEADER.ROM + 4 ? 0 : this.#kept[at]!;
    for (const b of this.#bars) {
      if (b.index !== n && !(b.wide && b.index === n - 1)) continue;
      const low = b.index === n;
      const size = BigInt(b.bytes);
      const mask = Number((-size >> (low ? 0n : 32n)) & 0xffff_ffffn);
      const byte = at & 3;
      const kept = this.#kept[at]! & (mask >>> (8 * byte)) & 0xff;
      return low && byte === 0 ? (kept & ~(b.type & 1 ? 3 : 0xf)) | b.type : kept;
    }
    return 0;
  }

  write(at: number, from: Uint8Array): void {
    for (let done = 0; done < from.length; ) {
      const size = stepAt(at + done, from.length - done);
      let value = 0;
      for (let i = 0; i < size; i++) value |= from[done + i]! << (8 * i);
      this.#write(at + done, size, value >>> 0);
      done += size;
    }
  }

  #write(at: number, size: number, value: number): void {
    let hardware = 0;
    for (let i = 0; i < size; i++) {
      const byte = (value >>> (8 * i)) & 0xff;
      const writable = this.#writable[at + i]!;
      const kept = writable & this.#virtual[at + i]!;
      this.#kept[at + i] = (this.#kept[at + i]! & ~kept) | (byte & kept);
      hardware |= (writable & ~this.#virtual[at + i]!) << (8 * i);
    }
    if (hardware !== 0) {
      const old = this.#hardware.configRead(at, size);
      this.#hardware.configWrite(at, size, ((old & ~hardware) | (value & hardware)) >>> 0);
    }
    if (at <= HEADER.COMMAND + 1 && at + size > HEADER.COMMAND) this.#events.changed();
    const msi = this.#msi + MSI.CONTROL;
    if (this.#msi !== 0 && at < msi + 2 && at + size > msi) this.#events.changed();
    const control = this.#pcie + PCIE.DEVCTL;
    if (this.#pcie === 0 || at > control + 1 || at + size <= control) return;
    if ((this.#kept16(control) & PCIE.DEVCTL_FLR) === 0) return;
    this.#keep(control, 2, this.#kept16(control) & ~PCIE.DEVCTL_FLR);
    if ((this.#hardware.configRead(this.#pcie + PCIE.DEVCAP, 4) & PCIE.DEVCAP_FLR) !== 0) this.#events.resetAsked();
  }

  /** COMMAND.INTX_OFF as the user wrote it: the hardware's bit is how the kernel masks the line. */
  get intxOff(): boolean {
    return (this.#kept16(HEADER.COMMAND) & COMMAND.INTX_OFF) !== 0;
  }

  /** The user may access memory (or I/O) windows. */
  decodes(io: boolean): boolean {
    return (this.#hardware.configRead(HEADER.COMMAND, 2) & (io ? COMMAND.IO : COMMAND.MEM)) !== 0;
  }

  /** Controls that a reset of the kernel saves and puts back (`pci_save_pcie_state`, `pci_save_aer_state`). */
  get controls(): readonly { readonly at: number; readonly size: number }[] {
    const pcie = [PCIE.DEVCTL, PCIE.LNKCTL, PCIE.DEVCTL2, PCIE.LNKCTL2].map((at) => ({ at: this.#pcie + at, size: 2 }));
    const { UNCORRECTABLE_MASK, UNCORRECTABLE_SEVERITY, CORRECTABLE_MASK, CONTROL } = AER_CAP;
    const aer = [UNCORRECTABLE_MASK, UNCORRECTABLE_SEVERITY, CORRECTABLE_MASK, CONTROL].map((at) => ({
      at: this.#aer + at,
      size: 4,
    }));
    return [...(this.#pcie === 0 ? [] : pcie), ...(this.#aer === 0 ? [] : aer)];
  }

  /** MSI's enable bit follows what SET_IRQS did. */
  showMsi(enabled: boolean): void {
    if (this.#msi === 0 || enabled) return;
    const control = this.#msi + MSI.CONTROL;
    this.#keep(control, 1, this.#kept[control]! & ~MSI.ENABLE);
  }
}

/** Whole registers as far as alignment allows, as the kernel accesses them. */
export function stepAt(at: number, left: number): number {
  if (at % 4 === 0 && left >= 4) return 4;
  return at % 2 === 0 && left >= 2 ? 2 : 1;
}
