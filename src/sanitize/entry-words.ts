/** What hardware makes of the words of a configuration entry. */
export interface EntryWords {
  /** Hardware looks at these bits, given what the entry says; valid until the next call. */
  readonly used: (words: Int32Array) => ArrayLike<number>;
  readonly valid: (words: Int32Array) => boolean;
}

/** Whether two entries say the same to hardware. */
export function agree(a: Int32Array, b: Int32Array, used: EntryWords['used']): boolean {
  for (const words of [a, b]) {
    const m = used(words);
    for (let i = 0; i < a.length; i++) if (((a[i]! ^ b[i]!) & (m[i] ?? 0)) !== 0) return false;
  }
  return true;
}

export function copy(mask: ArrayLike<number>): Int32Array {
  return Int32Array.from(mask);
}

/** Whether what follows the first store of a change is a step of its own, so that an invalidation between is what is missing. */
export function isNextStep(w: EntryWords, base: Int32Array, first: Int32Array | null, last: Int32Array): boolean {
  if (first === null || !w.valid(last)) return false;
  if (!w.valid(first)) return true;
  return isOneWord(looked(base, first, w)) && isOneWord(looked(first, last, w));
}

function isOneWord(words: number): boolean {
  return (words & (words - 1)) === 0;
}

/** Bit n: 64-bit word n differs, in what hardware looks at with either of two entries. */
export function looked(from: Int32Array, to: Int32Array, w: EntryWords): number {
  const mask = copy(w.used(from));
  const other = w.valid(to) ? w.used(to) : [];
  for (let i = 0; i < other.length; i++) mask[i] = (mask[i] ?? 0) | other[i]!;
  return changes(from, to, mask);
}

/** Bit n: 64-bit word n differs, in what the mask has. */
export function changes(a: Int32Array, b: Int32Array, mask: Int32Array | null): number {
  let out = 0;
  for (let i = 0; i < b.length; i++) {
    if (((a[i]! ^ b[i]!) & (mask === null ? -1 : (mask[i] ?? 0))) !== 0) out |= 1 << (i >>> 1);
  }
  return out;
}
