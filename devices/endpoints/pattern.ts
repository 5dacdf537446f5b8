/**
 * Fills `bytes` with a pattern of four bytes that began `done` bytes before them.
 * @param bytes a multiple of 4 long, and at an address of its buffer that is one.
 */
export function fillPattern(bytes: Uint8Array, pattern: number, done: number): void {
  const turn = 8 * (done & 3);
  const word = turn === 0 ? pattern : (pattern >>> turn) | (pattern << (32 - turn));
  new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4).fill(word);
}

/** Index of the first byte in which the first `count` bytes of two buffers of a multiple of 4 bytes differ; `count`: none. */
export function firstDifference(a: Uint8Array, b: Uint8Array, count: number): number {
  const left = new Int32Array(a.buffer, a.byteOffset, a.length / 4);
  const right = new Int32Array(b.buffer, b.byteOffset, b.length / 4);
  let i = 0;
  while (i < count >>> 2 && left[i] === right[i]) i++;
  for (i *= 4; i < count && a[i] === b[i]; ) i++;
  return Math.min(i, count);
}
