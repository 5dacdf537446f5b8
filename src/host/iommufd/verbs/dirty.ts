import type { UserData } from '../../../ports/iommufd.ts';
import type { DirtySink } from '../../kernel/driver.ts';

const CHUNK = 4096;

/**
 * Collects dirty ranges into the user's bitmap: one bit per page, or-ed into what is there. Works on a chunk of the bitmap at
 * a time, because ranges arrive in ascending order and the bitmap may be large.
 */
export class DirtyBitmap implements DirtySink {
  readonly #user: UserData;
  readonly #base: bigint;
  /** The kernel shifts by the lowest set bit of the page size, also when that is no power of two. */
  readonly #shift: bigint;
  readonly #bits = new Uint8Array(CHUNK);
  /** Index of the chunk in `#bits`; -1: none. */
  #chunk = -1;
  #low = CHUNK;
  #high = -1;

  constructor(user: UserData, base: bigint, pageSize: bigint) {
    this.#user = user;
    this.#base = base;
    let shift = 0n;
    while (((pageSize >> shift) & 1n) === 0n) shift++;
    this.#shift = shift;
  }

  dirty(iova: bigint, bytes: number): void {
    const first = Number((iova - this.#base) >> this.#shift);
    const last = Number((iova + BigInt(bytes) - 1n - this.#base) >> this.#shift);
    for (let bit = first; bit <= last; ) {
      const byte = Math.floor(bit / 8);
      const chunk = Math.floor(byte / CHUNK);
      if (chunk !== this.#chunk) {
        this.flush();
        this.#chunk = chunk;
      }
      const at = byte % CHUNK;
      // Whole bytes up to the end of the chunk, or the bits of one byte.
      const whole = bit % 8 === 0 ? Math.min(Math.floor((last + 1 - bit) / 8), CHUNK - at) : 0;
      const end = whole > 0 ? at + whole : at + 1;
      if (whole > 0) {
        this.#bits.fill(0xff, at, end);
        bit += whole * 8;
      } else {
        const stop = Math.min(last, byte * 8 + 7);
        for (; bit <= stop; bit++) this.#bits[at]! |= 1 << (bit % 8);
      }
      if (at < this.#low) this.#low = at;
      if (end - 1 > this.#high) this.#high = end - 1;
    }
  }

  /** Writes the chunk to the user. Bytes that are not there are dropped, as the kernel's walk drops its error. */
  flush(): void {
    if (this.#high >= 0) {
      const offset = this.#chunk * CHUNK + this.#low;
      const there = new Uint8Array(Math.max(0, Math.min(this.#high - this.#low + 1, this.#user.length - offset)));
      if (there.length > 0 && this.#user.copyIn(offset, there)) {
        for (let i = 0; i < there.length; i++) there[i]! |= this.#bits[this.#low + i]!;
        this.#user.copyOut(offset, there);
      }
      this.#bits.fill(0, this.#low, this.#high + 1);
    }
    this.#low = CHUNK;
    this.#high = -1;
  }
}
