import { hiWord, loWord } from '../../../core/bits.ts';
import type { HwPort } from '../../../ports/hw.ts';
import { CD_BYTES, CD_SPLIT_64K } from '../../../spec/smmuv3/cd.ts';
import { S1FMT } from '../../../spec/smmuv3/ste.ts';
import type { PageAllocator } from '../page-allocator.ts';
import { CD_RULES, type CdTableLocation } from './entries.ts';
import { ENTRY_HALVES, type EntrySink, EntryWriter } from './entry-writer.ts';

const PAGE = 4096;
const L2_ENTRIES = 2 ** CD_SPLIT_64K;
const L2_PAGES = (L2_ENTRIES * CD_BYTES) / PAGE;

/** The kernel's own CD table of one device, for stage-1 domains on its RID and PASIDs. */
export class Smmuv3CdTable implements CdTableLocation {
  readonly base: number;
  readonly s1Fmt: number;
  readonly cdMax: number;
  readonly #hw: HwPort;
  readonly #memory: PageAllocator;
  readonly #pages: number;
  readonly #l2 = new Map<number, number>();
  /** The descriptors as the hardware sees them, by SSID. */
  readonly #entries = new Map<number, Int32Array>();
  readonly #writer = new EntryWriter(CD_RULES);

  private constructor(hw: HwPort, memory: PageAllocator, base: number, pages: number, twoLevel: boolean, bits: number) {
    this.#hw = hw;
    this.#memory = memory;
    this.base = base;
    this.#pages = pages;
    this.s1Fmt = twoLevel ? S1FMT.L2_64K : S1FMT.LINEAR;
    this.cdMax = bits;
  }

  /** @param bits log2 of the SSIDs the device can use. @returns null: out of memory. */
  static create(hw: HwPort, memory: PageAllocator, bits: number, twoLevelCds: boolean): Smmuv3CdTable | null {
    const twoLevel = twoLevelCds && bits > CD_SPLIT_64K;
    const bytes = twoLevel ? 8 * 2 ** (bits - CD_SPLIT_64K) : CD_BYTES * 2 ** bits;
    const pages = Math.max(1, bytes / PAGE);
    const base = memory.allocate(pages);
    return base < 0 ? null : new Smmuv3CdTable(hw, memory, base, pages, twoLevel, bits);
  }

  /** Makes room for the descriptor of `ssid`. @returns false: out of memory. */
  prepare(ssid: number): boolean {
    if (this.s1Fmt !== S1FMT.L2_64K || this.#l2.has(ssid >>> CD_SPLIT_64K)) return true;
    const table = this.#memory.allocate(L2_PAGES);
    if (table < 0) return false;
    this.#l2.set(ssid >>> CD_SPLIT_64K, table);
    this.#hw.writeEntry(this.base, 8 * (ssid >>> CD_SPLIT_64K), 0, loWord(table) | 1, hiWord(table));
    return true;
  }

  /**
   * @param sync makes the SMMU forget the descriptor of `ssid`: 0 or -errno.
   * @returns 0 or the first error of `sync`.
   */
  write(ssid: number, target: Int32Array, sync: () => number): number {
    const two = this.s1Fmt === S1FMT.L2_64K;
    const table = two ? this.#l2.get(ssid >>> CD_SPLIT_64K)! : this.base;
    const offset = CD_BYTES * (two ? ssid & (L2_ENTRIES - 1) : ssid);
    const entry = this.#entries.get(ssid) ?? new Int32Array(ENTRY_HALVES);
    let result = 0;
    const sink: EntrySink = {
      store: (word, lo, hi) => this.#hw.writeEntry(table, offset, word, lo, hi),
      sync: () => {
        result = result || sync();
      },
    };
    this.#writer.write(entry, target, sink);
    if (entry[0] === 0) this.#entries.delete(ssid);
    else this.#entries.set(ssid, entry);
    return result;
  }

  /** The descriptor of `ssid` becomes invalid. See `write`. */
  clear(ssid: number, sync: () => number): number {
    return this.#entries.has(ssid) ? this.write(ssid, new Int32Array(ENTRY_HALVES), sync) : 0;
  }

  /** A copy of the descriptor of `ssid` as the hardware sees it; zeros: it has none. */
  read(ssid: number): Int32Array {
    return this.#entries.get(ssid)?.slice() ?? new Int32Array(ENTRY_HALVES);
  }

  /** Descriptors in use besides that of SSID 0 (the RID's). */
  get pasids(): number {
    return this.#entries.size - (this.#entries.has(0) ? 1 : 0);
  }

  destroy(): void {
    for (const table of this.#l2.values()) this.#memory.free(table, L2_PAGES);
    this.#memory.free(this.base, this.#pages);
  }
}
