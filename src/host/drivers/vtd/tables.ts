import { hiWord, loWord } from '../../../core/bits.ts';
import type { HwPort } from '../../../ports/hw.ts';
import { ROOT_BYTES, SM_CONTEXT_BYTES } from '../../../spec/vtd/tables.ts';
import type { PageAllocator } from '../page-allocator.ts';

/** The root table of one unit and the context tables below it (scalable format: two per bus). */
export class RootTable {
  readonly base: number;
  readonly #hw: HwPort;
  readonly #memory: PageAllocator;
  /** Context tables by (bus, upper half). */
  readonly #contexts = new Map<number, number>();

  private constructor(hw: HwPort, memory: PageAllocator, base: number) {
    this.#hw = hw;
    this.#memory = memory;
    this.base = base;
  }

  /** @returns null: out of memory. */
  static create(hw: HwPort, memory: PageAllocator): RootTable | null {
    const base = memory.allocate();
    return base < 0 ? null : new RootTable(hw, memory, base);
  }

  /**
   * Makes room for the context entries of `rids`. @param made collects a requester id of each table that had to be made.
   * @returns false: out of memory.
   */
  prepare(rids: readonly number[], made: number[]): boolean {
    return rids.every((rid) => this.#prepare(rid, made));
  }

  #prepare(rid: number, made: number[]): boolean {
    const half = rid >>> 7;
    if (this.#contexts.has(half)) return true;
    const table = this.#memory.allocate();
    if (table < 0) return false;
    this.#contexts.set(half, table);
    made.push(rid);
    this.#hw.writeEntry(this.base, (rid >>> 8) * ROOT_BYTES, half & 1, loWord(table) | 1, hiWord(table));
    return true;
  }

  #entry(rid: number): number {
    return (rid & 0x7f) * SM_CONTEXT_BYTES;
  }

  /** Writes a context entry; the word with P last. @param flags DTE, PASIDE, PRE, PDTS. */
  set(rid: number, directory: number, flags: number): void {
    const table = this.#contexts.get(rid >>> 7)!;
    for (const word of [3, 2, 1]) this.#hw.writeEntry(table, this.#entry(rid), word, 0, 0);
    this.#hw.writeEntry(table, this.#entry(rid), 0, loWord(directory) | flags | 1, hiWord(directory));
  }

  clear(rid: number): void {
    const table = this.#contexts.get(rid >>> 7);
    if (table !== undefined) this.#hw.writeEntry(table, this.#entry(rid), 0, 0, 0);
  }

  /**
   * Takes the context table around `rid` back, which `prepare` made for a device that does not come after all. The caches
   * have forgotten the entries in it.
   */
  takeBack(rid: number): void {
    const half = rid >>> 7;
    const table = this.#contexts.get(half);
    if (table === undefined) return;
    this.#contexts.delete(half);
    this.#hw.writeEntry(this.base, (rid >>> 8) * ROOT_BYTES, half & 1, 0, 0);
    this.#memory.free(table);
  }

  destroy(): void {
    for (const table of this.#contexts.values()) this.#memory.free(table);
    this.#memory.free(this.base);
  }
}
