/** Words of 32 bits: guest memory, queue entries, table entries. */
export type WordArray = Int32Array | readonly number[];

/** 2^32, to put two 32-bit words into one exact number. */
export const TWO32 = 0x1_0000_0000;

/** Words (lo, hi) as a number. Exact below 2^53: physical addresses and page numbers are at most 52 bits. */
export function fromWords(lo: number, hi: number): number {
  return (hi >>> 0) * TWO32 + (lo >>> 0);
}

/** Low 32 bits of a non-negative number below 2^53, as a signed word. */
export function loWord(n: number): number {
  return n | 0;
}

/** High bits of a non-negative number below 2^53, as a word. */
export function hiWord(n: number): number {
  return (n / TWO32) | 0;
}

/** Bits [at+bits-1 : at] of a 32-bit word, unsigned. `bits` ≤ 31. */
export function field(word: number, at: number, bits: number): number {
  return (word >>> at) & ((1 << bits) - 1);
}

/** `value` rounded down to a multiple of the power of two `size` (both below 2^53). */
export function alignDown(value: number, size: number): number {
  // Exact, because a power of two only moves the exponent; a remainder of doubles costs more than a table entry.
  return Math.floor(value / size) * size;
}

/** Words as a bigint, for the public interface and for listings. */
export function toBigint(lo: number, hi: number): bigint {
  return (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
}

/** 2^0 … 2^63 as numbers: an indexed load where `2 ** n` would call a power function. */
export const POW2: Float64Array = Float64Array.from({ length: 64 }, (_, n) => 2 ** n);

/** `count` words from index `at` on as a list: for those who are told, a third of what `Array.from(subarray)` takes. */
export function wordList(words: Int32Array, at: number, count: number): number[] {
  const list: number[] = [];
  for (let n = 0; n < count; n++) list.push(words[at + n]!);
  return list;
}
