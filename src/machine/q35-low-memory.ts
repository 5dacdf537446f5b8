import type { ConfigSpace } from '../lib/pci/config-space.ts';
import { type FormOf, UNSIGNED } from '../lib/saved/state-form.ts';
import type { MemoryWindow } from '../ports/memory.ts';
import type { MmioDevice } from '../ports/mmio.ts';

/** Where the programmable attribute map begins; it ends at 1 MiB. */
export const PAM_AREA = 0xc_0000;
/** Bytes of it. */
const PAM_BYTES = 0x4_0000;

/** PAM0 of the host bridge, writable like all of its registers; PAM1 to PAM6 follow. */
const PAM0 = 0x90;
/** Pieces below 0xf0000 are this large; PAM0 has one of 64 KiB above them. */
const PIECE = 0x4000;
const TOP = 0x3_0000;
const PAGE = 4096;

/** A 4 KiB page that is not all zero. */
export interface LowMemoryPage {
  /** Its number from 0xc0000 on. */
  readonly page: number;
  readonly words: readonly number[];
}

/** What each field of saved pages may hold. */
export const LOW_MEMORY_FORM: FormOf<readonly LowMemoryPage[]> = {
  each: {
    members: { page: { from: 0, to: PAM_BYTES / PAGE - 1 }, words: { each: UNSIGNED, length: PAGE / 4 } },
  },
  most: PAM_BYTES / PAGE,
};

/**
 * The option ROM and BIOS area of `q35`, 0xc0000 to 0xfffff: RAM where the PAM registers of the host bridge let anything
 * through, else ROM, which reads as 0 (no firmware is in it) and takes no writes: a processor's vanish, a function's abort.
 * The chipset tells reads from writes; QEMU 11.1 does both with the RAM as soon as one of them is let through.
 */
export class LowMemory implements MmioDevice, Pick<MemoryWindow, 'claims'> {
  readonly name = 'pam';
  readonly bytes = PAM_BYTES;
  readonly #ram = new Uint8Array(PAM_BYTES);
  readonly #config: ConfigSpace;

  /** @param config of the host bridge. */
  constructor(config: ConfigSpace) {
    this.#config = config;
  }

  /** Whether RAM is seen at an offset. */
  #open(offset: number): boolean {
    const piece = offset >= TOP ? -1 : Math.floor(offset / PIECE);
    return ((this.#config.get(PAM0 + 1 + (piece >> 1), 1) >>> (4 * (piece & 1))) & 3) !== 0;
  }

  claims(offset: number, write = false): boolean {
    return !write || this.#open(offset);
  }

  read(offset: number, size: number): number {
    if (!this.#open(offset)) return 0;
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = ((value << 8) | this.#ram[offset + i]!) >>> 0;
    return value;
  }

  read64(offset: number, out: Int32Array): void {
    out[0] = this.read(offset, 4);
    out[1] = this.read(offset + 4, 4);
  }

  write(offset: number, size: number, lo: number, hi: number): void {
    if (!this.#open(offset)) return;
    for (let i = 0; i < size; i++) this.#ram[offset + i] = (i < 4 ? lo : hi) >>> (8 * (i & 3));
  }

  save(): readonly LowMemoryPage[] {
    const words = new Uint32Array(this.#ram.buffer);
    const pages: LowMemoryPage[] = [];
    for (let page = 0; page < PAM_BYTES / PAGE; page++) {
      const part = words.subarray((page * PAGE) / 4, ((page + 1) * PAGE) / 4);
      if (part.some((w) => w !== 0)) pages.push({ page, words: [...part] });
    }
    return pages;
  }

  load(pages: readonly LowMemoryPage[]): void {
    this.#ram.fill(0);
    const words = new Uint32Array(this.#ram.buffer);
    for (const p of pages) words.set(p.words, (p.page * PAGE) / 4);
  }
}
