import { ViommuError } from '../../core/errors.ts';
import type { InterruptSink } from '../../machine/interrupt-queue.ts';
import type { Emulator } from '../../machine/machine-plan.ts';
import type { VmRam } from '../../machine/vm.ts';
import type { MmioDevice } from '../../ports/mmio.ts';
import type { FileRam } from './file-ram.ts';

const PAGE = 4096;

/** What the guest loads from one page of a register window. */
interface Mirror {
  /** Byte offset in the RAM file. */
  readonly at: number;
  readonly words: Int32Array;
}

interface Claim {
  readonly base: number;
  readonly window: MmioDevice;
  readonly mirrors: Map<number, Mirror>;
}

/** Where the parts of the machine sit in QEMU's guest-physical space. */
export interface QemuLayout {
  /** Guest-physical base of the RAM file. */
  readonly ram: number;
  /** Guest-physical start of the part that the guest's kernel leaves alone (`mem=`); from here on stores are trapped. */
  readonly window: number;
}

/**
 * QEMU as the CPU of a machine: RAM in a shared file; the register windows are a piece of that RAM whose stores the trap
 * plugin hands over one by one. Loads are not trapped: after every store the registers' values are written into the window.
 */
export class QemuEmulator implements Emulator {
  readonly ram: readonly VmRam[];
  readonly interrupts: InterruptSink;
  readonly #file: FileRam;
  readonly #layout: QemuLayout;
  readonly #claims: Claim[] = [];
  readonly #out = new Uint8Array(PAGE);
  readonly #outWords = new Int32Array(this.#out.buffer);
  /** Pages to write again after a store into a window: by default the page of the store. */
  affected: (base: number, offset: number) => readonly number[] = (_base, offset) => [offset - (offset % PAGE)];
  /** Hears of every store that no window claims. */
  onStray: ((address: number) => void) | null = null;

  /** @param file QEMU's guest RAM. @param interrupts where they are injected. */
  constructor(file: FileRam, layout: QemuLayout, interrupts: InterruptSink) {
    if (layout.window <= layout.ram || layout.window >= layout.ram + file.bytes || layout.window % PAGE !== 0) {
      throw new ViommuError('EINVAL', 'caller', 'the trapped window is a page-aligned end of the RAM file', {
        ...layout,
      });
    }
    this.#file = file;
    this.#layout = layout;
    this.interrupts = interrupts;
    this.ram = [{ base: layout.ram, bytes: layout.window - layout.ram, backing: file }];
  }

  claim(base: number, window: MmioDevice): void {
    const end = this.#layout.ram + this.#file.bytes;
    if (base < this.#layout.window || base + window.bytes > end) {
      throw new ViommuError('EINVAL', 'caller', `${window.name} lies outside the trapped window`, { base, end });
    }
    const hit = this.#claims.find((c) => c.base < base + window.bytes && base < c.base + c.window.bytes);
    if (hit !== undefined) {
      throw new ViommuError('EBUSY', 'caller', `${window.name} overlaps ${hit.window.name}`, { base, there: hit.base });
    }
    this.#claims.push({ base, window, mirrors: new Map() });
  }

  defer(action: () => void): void {
    setImmediate(action);
  }

  /** A trapped store: offset from `layout.window`. */
  store(offset: number, size: number, lo: number, hi: number): void {
    this.#file.stopped();
    const address = this.#layout.window + offset;
    const c = this.#claims.find((x) => address >= x.base && address < x.base + x.window.bytes);
    if (c === undefined) {
      this.onStray?.(address);
      return;
    }
    const at = address - c.base;
    c.window.write(at, size, lo, hi);
    for (const page of this.affected(c.base, at)) this.show(c.base, page, page === at - (at % PAGE) ? at : -1, size);
  }

  /**
   * Writes one page of a window's values into guest RAM, where they differ from what is there.
   * @param stored offset of a store that has just changed the page itself, or -1: those bytes are written in any case.
   */
  show(base: number, page: number, stored = -1, size = 0): void {
    const c = this.#claims.find((x) => x.base === base);
    if (c === undefined || page >= c.window.bytes) return;
    let m = c.mirrors.get(page);
    const fresh = m === undefined;
    if (m === undefined) {
      m = { at: base + page - this.#layout.ram, words: new Int32Array(PAGE / 4) };
      c.mirrors.set(page, m);
    }
    let from = fresh ? 0 : PAGE;
    let to = fresh ? PAGE : 0;
    if (stored >= 0) {
      from = Math.min(from, (stored - page) & ~3);
      to = Math.max(to, ((stored - page + size + 3) & ~3) >>> 0);
    }
    for (let i = 0; i < PAGE; i += 4) {
      const value = c.window.read(page + i, 4) | 0;
      if (value === m.words[i / 4]) continue;
      m.words[i / 4] = value;
      if (i < from) from = i;
      if (i + 4 > to) to = i + 4;
    }
    if (to <= from) return;
    this.#outWords.set(m.words);
    this.#file.put(m.at + from, this.#out.subarray(from, to));
  }

  /** The guest ran since memory was last read: before DMA that no store caused. */
  sync(): void {
    this.#file.stopped();
  }
}
