import type { PciWindow } from '../../ports/pci.ts';

/** Where the interrupt messages of one vector go: what the kernel writes into the function for it. */
export interface MessagePlace {
  /** Bus address of the doorbell, low word. */
  readonly lo: number;
  /** High word. */
  readonly hi: number;
  /** 32 bits for MSI-X; MSI counts its vectors in the low bits. */
  readonly data: number;
}

/** What a function tells the kernel's driver. */
export interface VfioHardwareEvents {
  /** A message of this vector has arrived. */
  message(vector: number): void;
  /** The line the function's pin is wired to is up or down; other functions may hold it up as well. */
  line(up: boolean): void;
}

/** A PCI function as the kernel's vfio-pci driver has it: its registers, past every bridge. Nothing of it throws. */
export interface VfioHardware {
  /** A naturally aligned read of configuration space, 1, 2 or 4 bytes: unsigned. */
  configRead(offset: number, size: number): number;
  /** A naturally aligned write of configuration space. */
  configWrite(offset: number, size: number, value: number): void;
  /** The windows it decodes, in the order of its BARs; the order is the `window` of the next two. */
  readonly windows: readonly PciWindow[];
  /** 1, 2 or 4 bytes, naturally aligned: unsigned. */
  barRead(window: number, offset: number, size: number): number;
  /** 1, 2 or 4 bytes, naturally aligned. */
  barWrite(window: number, offset: number, size: number, value: number): void;
  /** Several accesses that may cost in all what one may. */
  together(accesses: () => void): void;
  /** The accesses of `together` have cost that: whoever wants more goes on later. */
  readonly spent: boolean;
  /** Function level reset: power-on state, configuration space included. */
  reset(): void;
  /** Where messages of a vector have to go. */
  place(vector: number): MessagePlace;
  /** Who hears its interrupts; null: nobody does. */
  events: VfioHardwareEvents | null;
}

/** A base address register as it was found. */
export interface FoundBar {
  /** 0 … 5. */
  readonly index: number;
  /** Its number among `VfioHardware.windows`. */
  readonly window: number;
  /** Bytes. */
  readonly bytes: number;
  /** The low bits that say what it is: I/O, 64-bit, prefetchable. */
  readonly type: number;
  /** It takes the next register as well. */
  readonly wide: boolean;
}

const BAR0 = 0x10;
const BARS = 6;

/** Finds the base address registers of a function by their types; sizes are those of its windows. */
export function findBars(hardware: VfioHardware): readonly FoundBar[] {
  const bars: FoundBar[] = [];
  for (let index = 0; index < BARS && bars.length < hardware.windows.length; index++) {
    const at = BAR0 + 4 * index;
    const before = hardware.configRead(at, 4);
    hardware.configWrite(at, 4, 0xffff_ffff);
    const sized = hardware.configRead(at, 4);
    hardware.configWrite(at, 4, before);
    // A BAR of 4 GiB or more has no size bits in its low half, but its type says that it is there.
    if (sized === 0) continue;
    const io = (sized & 1) !== 0;
    const wide = !io && (sized & 6) === 4;
    const { bytes } = hardware.windows[bars.length]!;
    bars.push({ index, window: bars.length, bytes, type: sized & (io ? 3 : 0xf), wide });
    if (wide) index++;
  }
  return bars;
}
