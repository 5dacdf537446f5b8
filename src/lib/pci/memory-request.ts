const NOTHING = new Uint8Array(0);

/**
 * A memory request on its way: what is left of it, from which address on. Its owner uses one object again and again, so
 * that requests allocate nothing.
 */
export class MemoryRequest {
  write = false;
  pasid = 0;
  /** Address of the next byte, low and high word. */
  lo = 0;
  hi = 0;
  /** ACCESS bits. */
  access = 0;
  /** AT value. */
  at = 0;
  /** Where the data is, or goes. */
  bytes: Uint8Array = NOTHING;
  /** Index in `bytes` of the next byte. */
  start = 0;
  /** Bytes that have not moved yet. */
  left = 0;

  /** Goes on behind `n` bytes, at most a page. */
  advance(n: number): void {
    this.start += n;
    this.left -= n;
    const next = (this.lo >>> 0) + n;
    this.lo = next | 0;
    if (next >= 0x1_0000_0000) this.hi = (this.hi + 1) | 0;
  }
}
