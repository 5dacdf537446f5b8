import { E } from '../../spec/iommufd/errno.ts';
import { VFIO, VFIO_PCI_IRQ, VFIO_PCI_REGION } from '../../spec/iommufd/vfio.ts';
import { COMMAND, HEADER } from '../../spec/pcie/header.ts';
import type { Caller } from '../ioctl/caller.ts';
import { stepAt, VFIO_CONFIG_BYTES, VfioConfigSpace } from './config-space.ts';
import type { VfioDriver } from './driver.ts';
import { type FoundBar, findBars, type VfioHardware } from './hardware.ts';
import { deviceInfo, inRegion, irqInfo, noFeature, regionInfo, regionOf } from './info.ts';
import { VfioInterrupts } from './interrupts.ts';
import { setIrqs } from './set-irqs.ts';

/** A PCI function under the kernel's vfio-pci driver: regions, interrupts, resets. Errno as Linux has them. */
export class VfioPciDevice implements VfioDriver {
  readonly #hardware: VfioHardware;
  readonly #bars: readonly FoundBar[];
  readonly #config: VfioConfigSpace;
  readonly #irqs: VfioInterrupts;
  /** Commands that only the bus can answer: hot resets of several functions. */
  readonly #ofBus: VfioDriver['ioctl'];

  /** @param ofBus answers what is not a matter of this function alone. */
  constructor(hardware: VfioHardware, ofBus: VfioDriver['ioctl'] = () => -E.NODEV) {
    this.#hardware = hardware;
    this.#ofBus = ofBus;
    this.#bars = findBars(hardware);
    this.#config = new VfioConfigSpace(hardware, this.#bars, {
      resetAsked: () => this.reset(),
      changed: () => this.#irqs.configChanged(),
    });
    this.#irqs = new VfioInterrupts(hardware, this.#config, this.#bars);
    hardware.events = {
      message: (vector) => this.#irqs.message(vector),
      line: (up) => this.#irqs.line(up),
    };
  }

  /** How it is open; null: it is not. */
  open: 'cdev' | 'group' | null = null;

  /** A fresh device whose windows the host has enabled. */
  opened(by: 'cdev' | 'group' = 'cdev'): void {
    this.open = by;
    this.#hardware.reset();
    this.#hardware.configWrite(HEADER.COMMAND, 2, COMMAND.MEM | COMMAND.IO);
    this.#config.open();
  }

  closed(): void {
    this.open = null;
    this.#irqs.close();
    this.#hardware.configWrite(HEADER.COMMAND, 2, 0);
    this.#hardware.reset();
  }

  ioctl(request: number, arg: bigint, caller: Caller): number {
    switch (request) {
      case VFIO.DEVICE_GET_INFO:
        return deviceInfo(arg, caller);
      case VFIO.DEVICE_GET_REGION_INFO:
        return regionInfo(arg, caller, (index) => this.#bytes(index));
      case VFIO.DEVICE_GET_IRQ_INFO:
        return irqInfo(arg, caller, (index) => this.#irqs.count(index), true);
      case VFIO.DEVICE_SET_IRQS:
        return setIrqs(this.#irqs, arg, caller);
      case VFIO.DEVICE_RESET:
        this.reset();
        return 0;
      case VFIO.DEVICE_GET_PCI_HOT_RESET_INFO:
      case VFIO.DEVICE_PCI_HOT_RESET:
        return this.#ofBus(request, arg, caller);
      case VFIO.DEVICE_FEATURE:
        return noFeature(arg, caller);
      default:
        return -E.NOTTY;
    }
  }

  #bytes(index: number): number {
    if (index === VFIO_PCI_REGION.CONFIG) return VFIO_CONFIG_BYTES;
    return this.#bars.find((b) => b.index === index)?.bytes ?? 0;
  }

  /** A reset as the kernel does it: what places the function and the kernel's own interrupt vectors are put back. */
  reset(): void {
    const hw = this.#hardware;
    const header = Array.from({ length: 16 }, (_, i) => hw.configRead(4 * i, 4));
    const controls = this.#config.controls.map(({ at, size }) => ({ at, size, value: hw.configRead(at, size) }));
    hw.reset();
    // The controls of PCI Express first, then the header from its end on, and at last what the header lets happen.
    for (const { at, size, value } of controls) hw.configWrite(at, size, value);
    for (let i = 15; i >= 1; i--) hw.configWrite(4 * i, 4, header[i]!);
    this.#irqs.program();
  }

  /** The host wants the device back (hot-unplug). @returns false: the user did not say that it listens. */
  request(): boolean {
    return this.#irqs.triggerSingle(VFIO_PCI_IRQ.REQ);
  }

  /** An uncorrectable error of the function. @returns false: nobody listens. */
  error(): boolean {
    return this.#irqs.triggerSingle(VFIO_PCI_IRQ.ERR);
  }

  /**
   * Reads a region. @returns bytes: fewer than wanted at the end of a BAR, and when they have cost what one access may (the
   * caller goes on with the rest later); -EFAULT beyond configuration space; -EINVAL behind a BAR; -EIO it is not decoded.
   */
  pread(offset: bigint, into: Uint8Array): number {
    const bar = this.#place(offset, into.length);
    if (typeof bar === 'number') {
      if (bar > 0) this.#hardware.together(() => this.#config.read(inRegion(offset), into, bar));
      return bar;
    }
    return this.#pieces(bar, inRegion(offset), into.length, (at, done, step) => {
      const value = this.#inTable(bar.index, at) ? -1 : this.#hardware.barRead(bar.window, at, step);
      for (let i = 0; i < step; i++) into[done + i] = value >>> (8 * i);
    });
  }

  /** The counterpart of `pread`. */
  pwrite(offset: bigint, from: Uint8Array): number {
    const bar = this.#place(offset, from.length);
    if (typeof bar === 'number') {
      if (bar > 0) this.#hardware.together(() => this.#config.write(inRegion(offset), from));
      return bar;
    }
    return this.#pieces(bar, inRegion(offset), from.length, (at, done, step) => {
      let value = 0;
      for (let i = 0; i < step; i++) value |= from[done + i]! << (8 * i);
      if (!this.#inTable(bar.index, at)) this.#hardware.barWrite(bar.window, at, step, value >>> 0);
    });
  }

  /** The BAR an access goes to; else what it comes to: all of it for configuration space, or -errno. */
  #place(offset: bigint, count: number): FoundBar | number {
    if (count === 0) return 0;
    const index = regionOf(offset);
    const at = inRegion(offset);
    if (index === VFIO_PCI_REGION.CONFIG) return at + count > VFIO_CONFIG_BYTES ? -E.FAULT : count;
    const bar = this.#bars.find((b) => b.index === index);
    if (bar === undefined || at >= bar.bytes) return -E.INVAL;
    return this.#config.decodes((bar.type & 1) !== 0) ? bar : -E.IO;
  }

  /** Register accesses up to the end of a BAR, at least one of them. @returns bytes. */
  #pieces(
    bar: FoundBar,
    from: number,
    count: number,
    access: (at: number, done: number, step: number) => void,
  ): number {
    const hw = this.#hardware;
    const n = Math.min(count, bar.bytes - from);
    let done = 0;
    hw.together(() => {
      do {
        const step = stepAt(from + done, n - done);
        access(from + done, done, step);
        done += step;
      } while (done < n && !hw.spent);
    });
    return done;
  }

  /** The MSI-X table is the kernel's: users read ones there, and what they write is lost. */
  #inTable(index: number, at: number): boolean {
    const table = this.#irqs.table;
    return table !== null && table.index === index && at >= table.start && at < table.end;
  }
}
