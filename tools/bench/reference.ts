import type { Prepared } from './case.ts';
import { shuffled } from './parts/shuffled.ts';

const PAGES = 65_536;
/** Bits 47:32 of the input addresses: 256 MiB at 0x1200_0000_0000. */
const BASE_HI = 0x1200;

/**
 * The yardstick: a 4-level walk of 64-bit descriptors with 4 KiB granule in one Int32Array, as two words each, over
 * 65,536 mapped pages in random order. It checks descriptor types and puts address and offset together, and does nothing
 * else an IOMMU does. Other costs are given as multiples of it, so that they can be compared between machines.
 */
export class ReferenceWalk implements Prepared {
  readonly ops = PAGES;
  readonly #memory = new Int32Array(160 * 1024);
  readonly #order = shuffled(PAGES);
  outLo = 0;
  outHi = 0;
  sum = 0;

  constructor() {
    let next = 1;
    for (let page = 0; page < PAGES; page++) {
      let table = 0;
      for (let level = 0; level < 3; level++) {
        const at = (table << 10) + indexAt(level, page << 12, BASE_HI) * 2;
        if (this.#memory[at] === 0) this.#memory[at] = (next++ << 12) | 3;
        table = this.#memory[at]! >>> 12;
      }
      const leaf = (table << 10) + (page & 511) * 2;
      this.#memory[leaf] = (page << 12) | 3;
      this.#memory[leaf + 1] = 1;
    }
  }

  run(): void {
    for (let n = 0; n < PAGES; n++)
      if (this.#walk((this.#order[n]! << 12) | 8, BASE_HI)) this.sum ^= this.outLo ^ this.outHi;
  }

  #walk(lo: number, hi: number): boolean {
    const m = this.#memory;
    let table = 0;
    for (let level = 0; level < 4; level++) {
      const at = table + indexAt(level, lo, hi) * 2;
      const d = m[at]!;
      const dhi = m[at + 1]!;
      if ((d & 3) !== 3) return false;
      if (level === 3) {
        this.outLo = (d & ~0xfff) | (lo & 0xfff);
        this.outHi = dhi & 0xffff;
      }
      table = ((d >>> 12) | (dhi << 20)) << 10;
    }
    return true;
  }
}

function indexAt(level: number, lo: number, hi: number): number {
  const shift = 39 - 9 * level;
  return (shift >= 32 ? hi >>> (shift - 32) : shift === 30 ? (lo >>> 30) | (hi << 2) : lo >>> shift) & 511;
}
