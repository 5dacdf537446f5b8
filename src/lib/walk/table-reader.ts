import { POW2, TWO32 } from '../../core/bits.ts';
import type { Memory } from '../../ports/memory.ts';

/**
 * Reads descriptors by addresses in words: from one level to the next everything stays an integer. The piece of memory
 * found once is indexed directly until memory says that it changed (or, when it never says, until the next request).
 */
export class TableReader {
  readonly #memory: Memory;
  readonly #window = new Int32Array(2);
  /** Storage the index of the last `at` refers to. */
  words: Int32Array = this.#window;
  /** The piece, as far as it lies in one 4 GiB block: [lo, lo + bytes) in block `hi`; -1: none. */
  #hi = -1;
  #lo = 0;
  #bytes = 0;
  #changes = -1;
  /** Index of the descriptor at `lo`. */
  #first = 0;

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  /** To be called at the start of each request. */
  begin(): void {
    const changes = this.#memory.changes;
    if (changes !== undefined && changes >= 0 && changes === this.#changes) return;
    this.#changes = changes ?? -1;
    this.#hi = -1;
  }

  /** @param lo,hi an 8-byte aligned address. @returns index of its low word in `words`, or -1: external abort. */
  at(lo: number, hi: number): number {
    const within = (lo - this.#lo) >>> 0;
    if (hi === this.#hi && within < this.#bytes) return this.#first + (within >>> 2);
    return this.#open(lo, hi);
  }

  #open(lo: number, hi: number): number {
    const m = this.#memory;
    const address = hi * TWO32 + (lo >>> 0);
    if (m.locate(address)) {
      this.words = m.words;
      this.#first = m.index;
      this.#hi = hi;
      this.#lo = lo;
      // Below 2^31, so that it stays a small integer.
      this.#bytes = Math.min(m.room * 4, POW2[32]! - (lo >>> 0), 0x7fff_fff8);
      return m.index;
    }
    this.#hi = -1;
    this.words = this.#window;
    // A register window answers, a hole aborts.
    if (!m.load64(address)) return -1;
    this.#window[0] = m.lo;
    this.#window[1] = m.hi;
    return 0;
  }
}
