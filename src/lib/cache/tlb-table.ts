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
 * Tag 0 is an empty entry. Neighbouring pages lie in neighbouring sets, so a range of n pages is n/4 sets.
 */
export class TlbTable {
  readonly words: Int32Array;
  readonly #setMask: number;
  readonly #ways: number;
  #victim = 0;

  /** @param entries a power of two, or 0: nothing is ever kept. */
  constructor(entries: number) {
    this.#ways = Math.min(WAYS, entries);
    const sets = entries === 0 ? 1 : Math.max(1, entries / WAYS);
    this.#setMask = sets - 1;
    this.words = new Int32Array(sets * WAYS * WORDS);
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

  /** Puts an entry, over the one with the same key, into an empty way, or over the next victim of its set. */
  put(key1: number, pageLow: number, outLow: number, data: number): void {
    const ways = this.#ways;
    if (ways === 0) return;
    const t = this.words;
    const set = this.#set(key1, pageLow);
    const end = set + ways * WORDS;
    let i = -1;
    for (let at = set; at < end; at += WORDS) {
      const there = t[at + 1];
      if (there === key1 && t[at] === pageLow) {
        i = at;
        break;
      }
      if (there === 0 && i < 0) i = at;
    }
    if (i < 0) {
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

  /** Non-empty entries as [word index, four words] each, flat; and the victim counter. */
  save(): { readonly victim: number; readonly live: number[] } {
    const live: number[] = [];
    const t = this.words;
    for (let i = 0; i < t.length; i += WORDS) {
      if (t[i + 1] !== 0) live.push(i, t[i]!, t[i + 1]!, t[i + 2]!, t[i + 3]!);
    }
    return { victim: this.#victim, live };
  }

  load(data: { readonly victim: number; readonly live: readonly number[] }): void {
    this.clear();
    this.#victim = data.victim;
    for (let n = 0; n + 4 < data.live.length; n += 5) {
      const i = data.live[n]!;
      // A snapshot of a larger cache: what does not fit was never promised to stay.
      if (i + WORDS <= this.words.length) for (let w = 0; w < WORDS; w++) this.words[i + w] = data.live[n + 1 + w]!;
    }
  }
}
