import { hiWord, loWord } from '../../../core/bits.ts';
import type { HwPort } from '../../../ports/hw.ts';
import { CONFIG, STE_BYTES } from '../../../spec/smmuv3/ste.ts';
import type { PageAllocator } from '../page-allocator.ts';
import type { Smmuv3DriverFeatures } from './features.ts';

const PAGE = 4096;
const L1_BYTES = 8;
/** Two-level tables are split here: 256 entries, four pages, per level-2 table. */
const SPLIT = 8;
const L2_PAGES = (2 ** SPLIT * STE_BYTES) / PAGE;
/** The Span that stands for 2^SPLIT entries. */
const SPAN = SPLIT + 1;
const FMT_TWO_LEVEL = 1 << 16;

/**
 * The stream table in host memory: two-level where the SMMU has it, else linear. Entries of streams no device owns abort.
 * `base` and `config` are what the kernel programs into STRTAB_BASE and STRTAB_BASE_CFG.
 */
export class StreamTable {
  /** Host-physical address of the (level-1) table. */
  readonly base: number;
  /** STRTAB_BASE_CFG. */
  readonly config: number;
  readonly #hw: HwPort;
  readonly #memory: PageAllocator;
  readonly #sidBits: number;
  readonly #twoLevel: boolean;
  readonly #l2 = new Map<number, number>();

  private constructor(hw: HwPort, memory: PageAllocator, features: Smmuv3DriverFeatures, base: number) {
    this.#hw = hw;
    this.#memory = memory;
    this.#sidBits = features.sidBits;
    this.#twoLevel = features.twoLevelStreams && features.sidBits > SPLIT;
    this.base = base;
    this.config = features.sidBits | (this.#twoLevel ? FMT_TWO_LEVEL | (SPLIT << 6) : 0);
  }

  /** @returns null: out of memory. */
  static create(hw: HwPort, memory: PageAllocator, features: Smmuv3DriverFeatures): StreamTable | null {
    const two = features.twoLevelStreams && features.sidBits > SPLIT;
    const bytes = two ? 2 ** (features.sidBits - SPLIT) * L1_BYTES : 2 ** features.sidBits * STE_BYTES;
    const base = memory.allocate(Math.max(1, bytes / PAGE));
    if (base < 0) return null;
    const table = new StreamTable(hw, memory, features, base);
    if (!two) table.#abortAll(base, 2 ** features.sidBits);
    return table;
  }

  #abortAll(table: number, entries: number): void {
    for (let i = 0; i < entries; i++) this.#hw.writeEntry(table, i * STE_BYTES, 0, 1 | (CONFIG.ABORT << 1), 0);
  }

  inRange(sid: number): boolean {
    return sid < 2 ** this.#sidBits;
  }

  /**
   * Makes sure the entries of `sids` exist. @param made collects a StreamID of each level-2 table that had to be made.
   * @returns false: out of memory.
   */
  prepare(sids: readonly number[], made: number[]): boolean {
    return sids.every((sid) => this.#prepare(sid, made));
  }

  #prepare(sid: number, made: number[]): boolean {
    if (!this.#twoLevel) return true;
    const index = sid >>> SPLIT;
    if (this.#l2.has(index)) return true;
    const table = this.#memory.allocate(L2_PAGES);
    if (table < 0) return false;
    this.#abortAll(table, 2 ** SPLIT);
    this.#l2.set(index, table);
    made.push(sid);
    this.#hw.writeEntry(this.base, index * L1_BYTES, 0, loWord(table) | SPAN, hiWord(table));
    return true;
  }

  /**
   * Takes the level-2 table around `sid` back, which `prepare` made for a device that does not come after all.
   * @param sync makes the SMMU forget the level-1 descriptor: 0 or -errno, and then the table is never used again.
   */
  takeBack(sid: number, sync: () => number): void {
    const index = sid >>> SPLIT;
    const table = this.#l2.get(index);
    if (table === undefined) return;
    this.#l2.delete(index);
    this.#hw.writeEntry(this.base, index * L1_BYTES, 0, 0, 0);
    if (sync() === 0) this.#memory.free(table, L2_PAGES);
  }

  /** Stores 64-bit word `word` of the entry of a prepared `sid`. */
  store(sid: number, word: number, lo: number, hi: number): void {
    const table = this.#twoLevel ? this.#l2.get(sid >>> SPLIT)! : this.base;
    const index = this.#twoLevel ? sid & (2 ** SPLIT - 1) : sid;
    this.#hw.writeEntry(table, index * STE_BYTES, word, lo, hi);
  }

  /** Host-physical address of the entry of a prepared `sid`. */
  addressOf(sid: number): number {
    return this.#twoLevel
      ? this.#l2.get(sid >>> SPLIT)! + (sid & (2 ** SPLIT - 1)) * STE_BYTES
      : this.base + sid * STE_BYTES;
  }
}
