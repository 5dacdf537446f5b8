import { TWO32 } from '../../src/core/bits.ts';
import { type FormOf, WORD } from '../../src/lib/saved/state-form.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import { WHOLE_SPACE } from '../../src/spec/pcie/messages.ts';

/** Words of an entry: tag, page number low, page number high, output page low, output page high | permissions | flags. */
const WORDS = 5;
const WAYS = 4;
/** Largest size kept as one entry: 8 TiB. A larger completion is used for the piece around the address. */
const MOST_SHIFT = 43;
const GLOBAL = 0x100_0000;
/** log2 of the pages an invalidation looks up one by one; beyond, it goes through all entries. */
const FEW_LOG2 = 5;
/**
 * Entries that invalidations of larger ranges go through without a use of the cache in between: a queue full of them is one
 * access of the guest. Beyond, everything is dropped, which a cache may do at any time.
 */
const MOST_SEARCHED = 2 ** 19;

/** Saved state of `Atc`. */
export interface AtcState {
  readonly words: readonly number[];
  readonly sizes: number;
  readonly victim: number;
}

/**
 * Address translation cache of a function: set-associative, entries of any power of two from 4 KiB on, each of one PASID
 * (or of requests without). Results of a lookup are fields. Nothing allocates after construction.
 */
export class Atc {
  /** Entries it holds; 0: it keeps nothing. */
  readonly entries: number;
  readonly #sets: number;
  readonly #mask: number;
  readonly #shift: number;
  #words: Int32Array | null = null;
  /** Bit n: an entry of 2^(12+n) bytes may exist. */
  #sizes = 0;
  #victim = 0;
  /** Entries that were gone through since the last lookup. */
  #searched = 0;
  /** Output address of the byte looked up, log2 bytes and ACCESS bits of its entry. */
  out = 0;
  /** log2 bytes of the entry the last lookup found. */
  shift = 0;
  /** ACCESS bits of that entry. */
  perm = 0;
  /** Entries dropped so far, for whoever watches. */
  dropped = 0;

  /** @param entries a power of two ≥ 4; 0: nothing is kept. */
  constructor(entries: number) {
    this.entries = entries;
    this.#sets = Math.max(1, entries / WAYS);
    this.#mask = this.#sets - 1;
    this.#shift = 32 - Math.log2(this.#sets);
  }

  #set(pasid: number, pageLo: number, pageHi: number, size: number): number {
    const mixed = pageLo ^ (pageHi << 9) ^ (size << 27);
    // Multiplicative hashing: the upper bits are the good ones. One set: a shift by 32 would be a shift by 0.
    return (Math.imul(mixed + Math.imul(pasid + 2, 0x51ed), 0x9e37_79b1) >>> this.#shift) & this.#mask;
  }

  /** Looks an address up. @param pasid NO_PASID or 0 to 2^20-1. @returns true: `out`, `shift` and `perm` are valid. */
  lookup(pasid: number, lo: number, hi: number): boolean {
    const w = this.#words;
    if (w === null) return false;
    this.#searched = 0;
    for (let sizes = this.#sizes; sizes !== 0; sizes &= sizes - 1) {
      const size = 31 - Math.clz32(sizes & -sizes);
      const shift = 12 + size;
      const pl = (shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32)) | 0;
      const ph = (shift < 32 ? hi >>> shift : 0) | 0;
      const at = this.#find(w, pasid, pl, ph, size);
      if (at < 0) continue;
      const high = w[at + 4]!;
      const page = (high & 0xf_ffff) * TWO32 + (w[at + 3]! >>> 0);
      this.out = page * 4096 + (shift < 32 ? lo & ((1 << shift) - 1) : within(lo, hi, shift));
      this.shift = shift;
      this.perm = (high >>> 20) & 0xf;
      return true;
    }
    return false;
  }

  #find(w: Int32Array, pasid: number, pl: number, ph: number, size: number): number {
    const tag = tagOf(pasid, size);
    let at = this.#set(pasid, pl, ph, size) * WAYS * WORDS;
    for (let way = 0; way < WAYS; way++, at += WORDS) {
      if (w[at] === tag && w[at + 1] === pl && w[at + 2] === ph) return at;
    }
    return -1;
  }

  /**
   * Keeps a completion.
   * @param out the translated address (bytes). @param shift log2 bytes of its range. @param perm ACCESS bits.
   */
  insert(pasid: number, lo: number, hi: number, out: number, rangeLog2: number, perm: number, global: boolean): void {
    if (this.entries === 0) return;
    const shift = Math.min(rangeLog2, MOST_SHIFT);
    const size = shift - 12;
    this.#words ??= new Int32Array(this.#sets * WAYS * WORDS);
    const w = this.#words;
    const pl = (shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32)) | 0;
    const ph = (shift < 32 ? hi >>> shift : 0) | 0;
    let at = this.#find(w, pasid, pl, ph, size);
    if (at < 0) at = this.#room(w, this.#set(pasid, pl, ph, size));
    // Almost every completion is for one page: no power of two to compute.
    const page = shift === 12 ? Math.floor(out / 4096) : Math.floor(out / 2 ** shift) * 2 ** (shift - 12);
    w[at] = tagOf(pasid, size);
    w[at + 1] = pl;
    w[at + 2] = ph;
    w[at + 3] = page | 0;
    w[at + 4] = ((page / TWO32) & 0xf_ffff) | (perm << 20) | (global ? GLOBAL : 0);
    this.#sizes |= 1 << size;
  }

  #room(w: Int32Array, set: number): number {
    const first = set * WAYS * WORDS;
    for (let way = 0; way < WAYS; way++) if (w[first + way * WORDS] === 0) return first + way * WORDS;
    this.#victim = (this.#victim + 1) & (WAYS - 1);
    return first + this.#victim * WORDS;
  }

  /**
   * Drops every entry that touches the aligned range of 2^shift bytes around lo/hi.
   * @param pasid NO_PASID: entries without PASID. @param global entries of every PASID as well.
   */
  invalidate(pasid: number, lo: number, hi: number, shift: number, global: boolean): void {
    const w = this.#words;
    if (w === null || this.#sizes === 0) return;
    if (!global && this.#dropFew(w, pasid, lo, hi, shift)) return;
    this.#searched += this.entries;
    if (this.#searched > MOST_SEARCHED) {
      this.clear();
      return;
    }
    let left = 0;
    for (let at = 0; at < w.length; at += WORDS) {
      const tag = w[at]!;
      if (tag === 0) continue;
      const size = (tag >>> 22) & 0x1f;
      if ((global || (tag & 0x1f_ffff) === pasid + 1) && overlaps(w, at, 12 + size, lo, hi, shift)) {
        w[at] = 0;
        this.dropped++;
      } else left |= 1 << size;
    }
    this.#sizes = left;
  }

  /** A small range: looks up each entry that could be in it. @returns false: too many, and nothing was done. */
  #dropFew(w: Int32Array, pasid: number, lo: number, hi: number, range: number): boolean {
    if (range > 12 + FEW_LOG2) return false;
    for (let sizes = this.#sizes; sizes !== 0; sizes &= sizes - 1) {
      const size = 31 - Math.clz32(sizes & -sizes);
      const shift = 12 + size;
      const count = shift >= range ? 1 : 1 << (range - shift);
      const pl = (shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32)) & -count;
      const ph = (shift < 32 ? hi >>> shift : 0) | 0;
      for (let n = 0; n < count; n++) {
        const at = this.#find(w, pasid, pl | n, ph, size);
        if (at < 0) continue;
        w[at] = 0;
        this.dropped++;
      }
    }
    return true;
  }

  /** Drops every entry. */
  clear(): void {
    const w = this.#words;
    if (w === null) return;
    for (let at = 0; at < w.length; at += WORDS) if (w[at] !== 0) this.dropped++;
    w.fill(0);
    this.#sizes = 0;
  }

  /** Entries in use. */
  get used(): number {
    const w = this.#words;
    let n = 0;
    if (w !== null) for (let at = 0; at < w.length; at += WORDS) if (w[at] !== 0) n++;
    return n;
  }

  /** @internal What each field of a saved state may hold. */
  form(): FormOf<AtcState> {
    const words = this.entries === 0 ? 0 : this.#sets * WAYS * WORDS;
    return {
      members: {
        words: { each: WORD, most: words, groups: Math.max(words, 1) },
        sizes: WORD,
        victim: { from: 0, to: WAYS - 1 },
      },
    };
  }

  /** Its entries. */
  save(): AtcState {
    return { words: this.#words === null ? [] : Array.from(this.#words), sizes: this.#sizes, victim: this.#victim };
  }

  /** Goes back to saved entries. @param state of a cache of the same size. */
  load(state: AtcState): void {
    this.#words = state.words.length === 0 ? null : Int32Array.from(state.words);
    this.#sizes = state.sizes;
    this.#victim = state.victim;
  }
}

/** Valid bit, size class, PASID + 1 (0: none). */
function tagOf(pasid: number, size: number): number {
  return 0x8000_0000 | (size << 22) | (pasid === NO_PASID ? 0 : pasid + 1);
}

function within(lo: number, hi: number, shift: number): number {
  return (hi & (2 ** (shift - 32) - 1)) * TWO32 + (lo >>> 0);
}

/** Two aligned power-of-two ranges meet when they are equal above the larger one's size. */
function overlaps(w: Int32Array, at: number, entry: number, lo: number, hi: number, range: number): boolean {
  if (range >= WHOLE_SPACE) return true;
  const pl = w[at + 1]!;
  const ph = w[at + 2]!;
  const elo = entry < 32 ? pl << entry : 0;
  const ehi = entry < 32 ? (ph << entry) | (pl >>> (32 - entry)) : pl << (entry - 32);
  const shift = Math.max(entry, range);
  if (shift >= 32) return (ehi ^ hi) >>> (shift - 32) === 0;
  return (elo ^ lo) >>> shift === 0 && ehi === (hi | 0);
}
