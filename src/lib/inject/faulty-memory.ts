import { fromWords } from '../../core/bits.ts';
import type { Memory } from '../../ports/memory.ts';

interface Range {
  readonly base: number;
  readonly end: number;
}

/** A memory in which chosen ranges answer with an external abort, so that any fetch of any structure can be made to fail. */
export class FaultyMemory implements Memory {
  words: Int32Array = new Int32Array(0);
  index = 0;
  room = 0;
  lo = 0;
  hi = 0;
  writable = false;
  readonly #memory: Memory;
  #ranges: Range[] = [];

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  /** Accesses that touch [base, base + bytes) abort. @returns makes it good again. */
  abort(base: number, bytes: number): () => void {
    const range = { base, end: base + bytes };
    this.#ranges.push(range);
    return () => {
      this.#ranges = this.#ranges.filter((r) => r !== range);
    };
  }

  #bad(addr: number, bytes: number): boolean {
    for (const r of this.#ranges) if (addr < r.end && r.base < addr + bytes) return true;
    return false;
  }

  locate(addr: number): boolean {
    if (this.#bad(addr, 4) || !this.#memory.locate(addr)) return false;
    this.words = this.#memory.words;
    this.index = this.#memory.index;
    this.room = this.#memory.room;
    this.writable = this.#memory.writable;
    // The room ends where the next bad range begins.
    for (const r of this.#ranges) {
      if (r.base > addr) this.room = Math.min(this.room, Math.floor((r.base - addr) / 4));
    }
    return true;
  }

  load32(addr: number): boolean {
    if (this.#bad(addr, 4) || !this.#memory.load32(addr)) return false;
    this.lo = this.#memory.lo;
    return true;
  }

  load64(addr: number): boolean {
    if (this.#bad(addr, 8) || !this.#memory.load64(addr)) return false;
    this.lo = this.#memory.lo;
    this.hi = this.#memory.hi;
    return true;
  }

  store32(addr: number, value: number): boolean {
    return !this.#bad(addr, 4) && this.#memory.store32(addr, value);
  }

  store64(addr: number, lo: number, hi: number): boolean {
    return !this.#bad(addr, 8) && this.#memory.store64(addr, lo, hi);
  }

  /** Bytes of [addr, addr + bytes) before the first bad one. */
  #good(addr: number, bytes: number): number {
    let good = bytes;
    for (const r of this.#ranges) if (addr < r.end && r.base < addr + good) good = Math.max(0, r.base - addr);
    return good;
  }

  readBytes(addr: number, into: Uint8Array): boolean {
    return this.readPart(addr | 0, (addr / 2 ** 32) | 0, into, 0, into.length);
  }

  writeBytes(addr: number, from: Uint8Array): boolean {
    return this.writePart(addr | 0, (addr / 2 ** 32) | 0, from, 0, from.length);
  }

  readPart(lo: number, hi: number, into: Uint8Array, start: number, count: number): boolean {
    const good = this.#good(fromWords(lo, hi), count);
    return this.#memory.readPart(lo, hi, into, start, good) && good === count;
  }

  writePart(lo: number, hi: number, from: Uint8Array, start: number, count: number): boolean {
    const good = this.#good(fromWords(lo, hi), count);
    return this.#memory.writePart(lo, hi, from, start, good) && good === count;
  }
}
