import { hiWord, loWord } from '../../../core/bits.ts';
import type { HwPort } from '../../../ports/hw.ts';
import { PASID_BYTES, PASID_DIR_BYTES } from '../../../spec/vtd/tables.ts';
import type { PageAllocator } from '../page-allocator.ts';
import { PASID_ENTRY_WORDS } from './entries.ts';

const PAGE = 4096;
const ENTRIES_PER_TABLE = 64;

/** The PASID directory and tables of one device. */
export class PasidTable {
  readonly directory: number;
  /** PASIDs the directory can hold. */
  readonly capacity: number;
  /** PDTS of the context entry. */
  readonly pdts: number;
  readonly #hw: HwPort;
  readonly #memory: PageAllocator;
  readonly #pages: number;
  readonly #tables = new Map<number, number>();

  private constructor(hw: HwPort, memory: PageAllocator, directory: number, pages: number) {
    this.#hw = hw;
    this.#memory = memory;
    this.directory = directory;
    this.#pages = pages;
    const entries = (pages * PAGE) / PASID_DIR_BYTES;
    this.capacity = entries * ENTRIES_PER_TABLE;
    this.pdts = Math.log2(entries) - 7;
  }

  /** @param pasids how many the device can use; the directory is at least a page. @returns null: out of memory. */
  static create(hw: HwPort, memory: PageAllocator, pasids: number): PasidTable | null {
    const bytes = (Math.max(pasids, 1) / ENTRIES_PER_TABLE) * PASID_DIR_BYTES;
    const pages = 2 ** Math.ceil(Math.log2(Math.max(1, bytes / PAGE)));
    const directory = memory.allocate(pages);
    return directory < 0 ? null : new PasidTable(hw, memory, directory, pages);
  }

  /** Makes room for the entry of `pasid`. @returns false: out of memory. */
  prepare(pasid: number): boolean {
    const index = pasid >>> 6;
    if (this.#tables.has(index)) return true;
    const table = this.#memory.allocate();
    if (table < 0) return false;
    this.#tables.set(index, table);
    this.#hw.writeEntry(this.directory, index * PASID_DIR_BYTES, 0, loWord(table) | 1, hiWord(table));
    return true;
  }

  /** Stores a whole entry, the word with P last. */
  write(pasid: number, entry: Int32Array): void {
    for (let word = PASID_ENTRY_WORDS / 2 - 1; word >= 0; word--) this.writeWord(pasid, word, entry);
  }

  /** @param word 64-bit word of the entry. */
  writeWord(pasid: number, word: number, entry: Int32Array): void {
    const table = this.#tables.get(pasid >>> 6)!;
    this.#hw.writeEntry(table, (pasid & 0x3f) * PASID_BYTES, word, entry[2 * word]!, entry[2 * word + 1]!);
  }

  destroy(): void {
    for (const table of this.#tables.values()) this.#memory.free(table);
    this.#memory.free(this.directory, this.#pages);
  }
}
