/** 64-bit words in a stream table entry and in a context descriptor. */
export const ENTRY_QWORDS = 8;
/** The same as 32-bit words: lo and hi of each. */
export const ENTRY_HALVES = 2 * ENTRY_QWORDS;

/** What the hardware reads of an entry, and what may change under it. Entries are 16 halves: lo, hi of words 0-7. */
export interface EntryRules {
  /** Sets in `used` (zeroed) every bit the hardware looks at when the entry is `entry`. */
  used(entry: Int32Array, used: Int32Array): void;
  /** Sets in `safe` (zeroed) bits whose change between the two does no harm at any moment; null: none. */
  readonly safe: ((from: Int32Array, to: Int32Array, safe: Int32Array) => void) | null;
}

/** Where the steps of an update go: the table in host memory, and the invalidation that makes the hardware look again. */
export interface EntrySink {
  store(word: number, lo: number, hi: number): void;
  sync(): void;
}

/**
 * Rewrites table entries under running hardware, in steps with a sync after each that changed something. An update is
 * *hitless* when one 64-bit store turns one configuration into the other: everything the current configuration ignores is
 * prepared before it, everything the new one ignores is cleared after it. Otherwise the entry is invalid in between.
 */
export class EntryWriter {
  readonly #rules: EntryRules;
  readonly #usedNow = new Int32Array(ENTRY_HALVES);
  readonly #usedNext = new Int32Array(ENTRY_HALVES);
  readonly #safe = new Int32Array(ENTRY_HALVES);
  readonly #prepared = new Int32Array(ENTRY_HALVES);

  constructor(rules: EntryRules) {
    this.#rules = rules;
  }

  /**
   * Turns `entry` into `target` (the caller's copy follows every store).
   * @returns whether the update was hitless.
   */
  write(entry: Int32Array, target: Int32Array, sink: EntrySink): boolean {
    const differing = this.#compare(entry, target);
    if (differing === 0) {
      this.#put(entry, target, 0, ENTRY_QWORDS, sink);
      return true;
    }
    if ((differing & (differing - 1)) === 0) {
      const critical = 31 - Math.clz32(differing);
      this.#prepared[2 * critical] = entry[2 * critical]!;
      this.#prepared[2 * critical + 1] = entry[2 * critical + 1]!;
      this.#put(entry, this.#prepared, 0, ENTRY_QWORDS, sink);
      this.#put(entry, target, critical, 1, sink);
      this.#put(entry, target, 0, ENTRY_QWORDS, sink);
      return true;
    }
    this.#prepared.fill(0, 0, 2);
    this.#put(entry, this.#prepared, 0, 1, sink);
    this.#put(entry, target, 1, ENTRY_QWORDS - 1, sink);
    this.#put(entry, target, 0, 1, sink);
    return false;
  }

  /**
   * Fills `#prepared` with `entry`, its ignored bits already as in `target`.
   * @returns a bit for each word that still differs in bits the target uses.
   */
  #compare(entry: Int32Array, target: Int32Array): number {
    this.#usedNow.fill(0);
    this.#usedNext.fill(0);
    this.#safe.fill(0);
    this.#rules.used(entry, this.#usedNow);
    this.#rules.used(target, this.#usedNext);
    this.#rules.safe?.(entry, target, this.#safe);
    let differing = 0;
    for (let i = 0; i < ENTRY_HALVES; i++) {
      // A safe bit that only one side uses is sequenced like any other bit.
      const safe = this.#safe[i]! & this.#usedNow[i]! & this.#usedNext[i]!;
      const pinned = this.#usedNow[i]! & ~safe;
      const prepared = (entry[i]! & pinned) | (target[i]! & ~pinned);
      this.#prepared[i] = prepared;
      if ((prepared & this.#usedNext[i]!) !== target[i]!) differing |= 1 << (i >> 1);
    }
    return differing;
  }

  #put(entry: Int32Array, wanted: Int32Array, first: number, count: number, sink: EntrySink): void {
    let changed = false;
    for (let w = first; w < first + count; w++) {
      const lo = wanted[2 * w]!;
      const hi = wanted[2 * w + 1]!;
      if (entry[2 * w] === lo && entry[2 * w + 1] === hi) continue;
      entry[2 * w] = lo;
      entry[2 * w + 1] = hi;
      sink.store(w, lo, hi);
      changed = true;
    }
    if (changed) sink.sync();
  }
}
