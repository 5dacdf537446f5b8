import type { Memory } from '../../../src/ports/memory.ts';

/** Where a guest's tables are, and what an entry of them looks like. */
export interface TableFormat {
  /** Low bits of an entry that points to a table. */
  readonly table: number;
  /** Low bits of an entry that points to a page. */
  readonly leaf: number;
  /** Where entries say that tables are, less where they are (bytes): a guest with two stages has other addresses. */
  readonly shift?: number;
}

/** Tables of four levels and 4 KiB pages, as a guest builds them in memory; pages for them are taken one after the other. */
export class GuestPages {
  #next: number;
  readonly #memory: Memory;

  /** @param at the first page for tables (bytes). */
  constructor(memory: Memory, at: number) {
    this.#memory = memory;
    this.#next = at;
  }

  /** A page of zeros. */
  page(): number {
    this.#next += 4096;
    return this.#next - 4096;
  }

  /** Maps the page at `address` to the one at `to` in the tables that start at `root`. */
  map(root: number, address: number, to: number, format: TableFormat): void {
    const memory = this.#memory;
    const shift = format.shift ?? 0;
    let table = root;
    for (const level of [39, 30, 21]) {
      const at = table + 8 * (Math.floor(address / 2 ** level) & 511);
      memory.load64(at);
      if (memory.lo === 0) this.#store(at, this.page() + shift + format.table);
      memory.load64(at);
      table = memory.hi * 2 ** 32 + ((memory.lo & ~0xfff) >>> 0) - shift;
    }
    this.#store(table + 8 * (Math.floor(address / 4096) & 511), to + format.leaf);
  }

  #store(at: number, value: number): void {
    this.#memory.store64(at, value | 0, (value / 2 ** 32) | 0);
  }
}
