/** Mapping sizes an entry can have, as log2 bytes; other sizes are kept as the next smaller one. */
export const SIZE_CLASSES = [12, 14, 16, 21, 25, 29, 30, 34] as const;

/** Class index for a log2 size; sizes below 4 KiB have none. */
export const CLASS_OF_SHIFT: Int8Array = Int8Array.from({ length: 64 }, (_, shift) =>
  SIZE_CLASSES.reduce((best, size, i) => (size <= shift ? i : best), -1),
);

/** log2 bytes by class, for indexed access. */
export const SHIFT_OF_CLASS: Int8Array = Int8Array.from(SIZE_CLASSES);

const WORDS = 4;
const WAYS = 4;
/** Entries a table begins with. */
const FIRST_ENTRIES = 256;
/** How much larger it becomes at a time. */
const GROWTH = 4;
/** A table smaller than this grows before an entry loses its place, so that a few pages are all kept. */
const LOSES_FROM = 4096;
/** A larger one grows when it has lost this part of its entries to others. */
const LOST_PART = 32;

/** What a table holds, with the size it had. */
export interface TlbTableData {
  readonly entries: number;
  readonly victim: number;
  /** [word index, four words] of each entry, flat. */
  readonly live: readonly number[];
}

/** Low 32 bits of the page number of a 64-bit address in pages of 2^shift. @param shift 12..63. */
export function pageLo(lo: number, hi: number, shift: number): number {
  return shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32);
}

/** Bits 44:32 of that page number. */
export function pageHi(hi: number, shift: number): number {
  return shift < 32 ? (hi >>> shift) & 0x1fff : 0;
}

/**
 * Set-associative storage of translations: four ways of 16 bytes make one 64-byte set.
 * Entry: [page number low, tag 16 | class 3 | page number high 13, output page low, output page high 8 | 24 bits of data].
 * Tag 0 is an empty entry, and one whose tag nobody has any more is as good as empty. Neighbouring pages lie in neighbouring
 * sets, so a range of n pages is n/4 sets. A table begins small and grows up to its size as entries push each other out.
 */
export class TlbTable {
  words = new Int32Array(0);
  readonly #most: number;
  readonly #live: Int32Array;
  readonly #ways: number;
  #setMask = 0;
  #victim = 0;
  /** Entries that live ones have lost their places to, since the table has its size. */
  #lost = 0;

  /**
   * @param entries a power of two: it grows up to that; 0: nothing is ever kept.
   * @param live a bit per tag: set while entries with it can be found.
   */
  constructor(entries: number, live: Int32Array) {
    this.#most = entries;
    this.#live = live;
    this.#ways = Math.min(WAYS, entries);
    this.#resize(Math.min(entries, FIRST_ENTRIES));
  }

  /** An empty table of another size. */
  #resize(entries: number): void {
    const sets = Math.max(1, entries / WAYS);
    this.#setMask = sets - 1;
    this.words = new Int32Array(sets * WAYS * WORDS);
    this.#lost = 0;
  }

  #grow(): void {
    const old = this.words;
    this.#resize(Math.min((old.length / WORDS) * GROWTH, this.#most));
    for (let i = 0; i < old.length; i += WORDS) {
      if (!this.#dead(old[i + 1]!)) this.put(old[i + 1]!, old[i]!, old[i + 2]!, old[i + 3]!);
    }
  }

  /** Whether the entry with this second word is empty, or of a tag that nobody has any more. */
  #dead(key1: number): boolean {
    return (this.#live[key1 >>> 21]! & (1 << (key1 >>> 16))) === 0;
  }

  /** Word index of the set that holds a page. */
  #set(key1: number, pageLow: number): number {
    const region = (pageLow >>> 17) ^ Math.imul(key1, 0x85eb_ca6b);
    const mixed = Math.imul(region, 0x9e37_79b1);
    return (((mixed ^ (mixed >>> 15)) + (pageLow >>> 2)) & this.#setMask) * (WAYS * WORDS);
  }

  /** @returns word index of the entry with this key, or -1. `key1` carries tag, class and the high page bits. */
  find(key1: number, pageLow: number): number {
    const t = this.words;
    const i = this.#set(key1, pageLow);
    if (t[i] === pageLow && t[i + 1] === key1) return i;
    if (t[i + 4] === pageLow && t[i + 5] === key1) return i + 4;
    if (t[i + 8] === pageLow && t[i + 9] === key1) return i + 8;
    if (t[i + 12] === pageLow && t[i + 13] === key1) return i + 12;
    return -1;
  }

  /** Puts an entry, over the one with the same key, into a free way, or over the next victim of its set. */
  put(key1: number, pageLow: number, outLow: number, data: number): void {
    const ways = this.#ways;
    if (ways === 0) return;
    const t = this.words;
    const set = this.#set(key1, pageLow);
    const end = set + ways * WORDS;
    let i = -1;
    for (let at = set; at < end; at += WORDS) {
      const there = t[at + 1]!;
      if (there === key1 && t[at] === pageLow) {
        i = at;
        break;
      }
      if (i < 0 && this.#dead(there)) i = at;
    }
    if (i < 0) {
      const entries = t.length / WORDS;
      if (entries < this.#most && (entries < LOSES_FROM || ++this.#lost > entries / LOST_PART)) {
        this.#grow();
        this.put(key1, pageLow, outLow, data);
        return;
      }
      this.#victim = (this.#victim + 1) & 0xff;
      i = set + (this.#victim & (ways - 1)) * WORDS;
    }
    t[i] = pageLow;
    t[i + 1] = key1;
    t[i + 2] = outLow;
    t[i + 3] = data;
  }

  drop(key1: number, pageLow: number): void {
    const i = this.find(key1, pageLow);
    if (i >= 0) this.words[i + 1] = 0;
  }

  /**
   * Drops the entries of `count` pages from `first` on, which share everything above the low 17 bits of their numbers: the
   * sets of such pages follow each other.
   */
  dropRun(key1: number, first: number, count: number): void {
    const t = this.words;
    const last = t.length - 1;
    let set = this.#set(key1, first);
    for (let sets = ((first & 3) + count + 3) >> 2; sets > 0; sets--) {
      if (t[set + 1] === key1 && (t[set]! - first) >>> 0 < count) t[set + 1] = 0;
      if (t[set + 5] === key1 && (t[set + 4]! - first) >>> 0 < count) t[set + 5] = 0;
      if (t[set + 9] === key1 && (t[set + 8]! - first) >>> 0 < count) t[set + 9] = 0;
      if (t[set + 13] === key1 && (t[set + 12]! - first) >>> 0 < count) t[set + 13] = 0;
      set = (set + WAYS * WORDS) & last;
    }
  }

  clear(): void {
    this.words.fill(0);
  }

  save(): TlbTableData {
    const live: number[] = [];
    const t = this.words;
    for (let i = 0; i < t.length; i += WORDS) {
      if (t[i + 1] !== 0) live.push(i, t[i]!, t[i + 1]!, t[i + 2]!, t[i + 3]!);
    }
    return { entries: t.length / WORDS, victim: this.#victim, live };
  }

  load(data: TlbTableData): void {
    this.#resize(Math.min(data.entries, this.#most));
    this.#victim = data.victim;
    for (let n = 0; n + 4 < data.live.length; n += 5) {
      const i = data.live[n]!;
      // A snapshot of a larger cache: what does not fit was never promised to stay.
      if (i + WORDS <= this.words.length) for (let w = 0; w < WORDS; w++) this.words[i + w] = data.live[n + 1 + w]!;
    }
  }
}
