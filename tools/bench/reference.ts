import type { Prepared } from './case.ts';

const PAGES = 65_536;
const TABLES = 160;

/**
 * The yardstick: a 4-level page walk with 4 KiB granule over one Int32Array, 65,536 mapped pages in random order, no
 * checks but the valid bit. Other costs are given as multiples of it, so that they can be compared between machines.
 */
export function referenceWalk(): Prepared {
  const memory = new Int32Array(TABLES * 1024);
  const order = new Int32Array(PAGES);
  let next = 3;
  memory[0] = (1 << 12) | 3;
  memory[1 * 1024] = (2 << 12) | 3;
  for (let page = 0; page < PAGES; page++) {
    const slot = 2 * 1024 + (page >>> 9) * 2;
    if (memory[slot] === 0) memory[slot] = (next++ << 12) | 3;
    memory[((memory[slot]! >>> 12) << 10) + (page & 511) * 2] = (page << 12) | 3;
    order[page] = page;
  }
  let seed = 1;
  for (let n = PAGES - 1; n > 0; n--) {
    seed ^= seed << 13;
    seed ^= seed >>> 17;
    seed ^= seed << 5;
    const other = (seed >>> 0) % (n + 1);
    [order[n], order[other]] = [order[other]!, order[n]!];
  }
  let sum = 0;
  return {
    ops: PAGES,
    run() {
      for (let n = 0; n < PAGES; n++) sum ^= walk(memory, order[n]! << 12);
      if (sum === 0x7fff_ffff) throw new Error('never: keeps the loop alive');
    },
  };
}

/** @param lo a 32-bit input address; the upper 16 bits of the 48 are zero. @returns the physical page, or -1. */
function walk(memory: Int32Array, lo: number): number {
  const d0 = memory[0]!;
  if ((d0 & 1) === 0) return -1;
  const d1 = memory[((d0 >>> 12) << 10) + (lo >>> 30) * 2]!;
  if ((d1 & 1) === 0) return -1;
  const d2 = memory[((d1 >>> 12) << 10) + ((lo >>> 21) & 511) * 2]!;
  if ((d2 & 1) === 0) return -1;
  const d3 = memory[((d2 >>> 12) << 10) + ((lo >>> 12) & 511) * 2]!;
  return (d3 & 1) === 0 ? -1 : d3 >>> 12;
}
