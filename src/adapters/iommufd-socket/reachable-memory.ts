import { fromWords } from '../../core/bits.ts';
import type { Memory } from '../../ports/memory.ts';

const PAGE = 4096;

/** Pages of clients, at host-physical addresses from `FIRST_CLIENT_ADDRESS` on. Nothing crosses a page. */
export interface ClientPages {
  /** @returns false: nothing is there, or the client cannot be reached. */
  readNow(hpa: number, into: Uint8Array, start: number, count: number): boolean;
  /** The counterpart of `readNow`. */
  writeNow(hpa: number, from: Uint8Array, start: number, count: number): boolean;
}

/** Below are the emulated kernel's own pages, from here on those of clients. */
export const FIRST_CLIENT_ADDRESS = 2 ** 47;

/** Host-physical memory as IOMMUs and functions of a server see it: the kernel's own, and that of its clients. */
export class ReachableMemory implements Memory {
  readonly changes = -1;
  words: Int32Array;
  index = 0;
  room = 0;
  lo = 0;
  /** High word of the last successful 8-byte load, signed. */
  hi = 0;
  writable = false;
  /** Set before the first access. */
  clients: ClientPages | null = null;
  readonly #own: Memory;
  /** The page that was looked at last. */
  readonly #page = new Int32Array(PAGE / 4);
  readonly #bytes = new Uint8Array(this.#page.buffer);

  /** @param own the kernel's memory. */
  constructor(own: Memory) {
    this.#own = own;
    this.words = this.#page;
  }

  get windowed(): number {
    return this.#own.windowed ?? 0;
  }

  #fetch(hpa: number, at: number, count: number): boolean {
    return this.clients?.readNow(hpa, this.#bytes, at, count) ?? false;
  }

  locate(addr: number): boolean {
    if (addr < FIRST_CLIENT_ADDRESS) {
      const own = this.#own;
      if (!own.locate(addr)) return false;
      this.words = own.words;
      this.index = own.index;
      this.room = own.room;
      this.writable = own.writable;
      return true;
    }
    const offset = addr % PAGE;
    if (!this.#fetch(addr - offset, 0, PAGE)) return false;
    this.words = this.#page;
    this.index = offset / 4;
    this.room = (PAGE - offset) / 4;
    this.writable = true;
    return true;
  }

  load32(addr: number): boolean {
    if (addr < FIRST_CLIENT_ADDRESS) {
      if (!this.#own.load32(addr)) return false;
      this.lo = this.#own.lo;
      return true;
    }
    if (!this.#fetch(addr, 0, 4)) return false;
    this.lo = this.#page[0]!;
    return true;
  }

  load64(addr: number): boolean {
    if (addr < FIRST_CLIENT_ADDRESS) {
      if (!this.#own.load64(addr)) return false;
      this.lo = this.#own.lo;
      this.hi = this.#own.hi;
      return true;
    }
    if (!this.#fetch(addr, 0, 8)) return false;
    this.lo = this.#page[0]!;
    this.hi = this.#page[1]!;
    return true;
  }

  store32(addr: number, value: number): boolean {
    if (addr < FIRST_CLIENT_ADDRESS) return this.#own.store32(addr, value);
    this.#page[0] = value;
    return this.clients?.writeNow(addr, this.#bytes, 0, 4) ?? false;
  }

  store64(addr: number, lo: number, hi: number): boolean {
    if (addr < FIRST_CLIENT_ADDRESS) return this.#own.store64(addr, lo, hi);
    this.#page[0] = lo;
    this.#page[1] = hi;
    return this.clients?.writeNow(addr, this.#bytes, 0, 8) ?? false;
  }

  readBytes(addr: number, into: Uint8Array): boolean {
    return this.readPart(addr | 0, (addr / 2 ** 32) | 0, into, 0, into.length);
  }
  writeBytes(addr: number, from: Uint8Array): boolean {
    return this.writePart(addr | 0, (addr / 2 ** 32) | 0, from, 0, from.length);
  }

  readPart(lo: number, hi: number, into: Uint8Array, start: number, count: number): boolean {
    const from = fromWords(lo, hi);
    if (from < FIRST_CLIENT_ADDRESS) return this.#own.readPart(lo, hi, into, start, count);
    for (let done = 0; done < count; ) {
      const n = Math.min(count - done, PAGE - ((from + done) % PAGE));
      if (!(this.clients?.readNow(from + done, into, start + done, n) ?? false)) return false;
      done += n;
    }
    return true;
  }
  writePart(lo: number, hi: number, from: Uint8Array, start: number, count: number): boolean {
    const to = fromWords(lo, hi);
    if (to < FIRST_CLIENT_ADDRESS) return this.#own.writePart(lo, hi, from, start, count);
    for (let done = 0; done < count; ) {
      const n = Math.min(count - done, PAGE - ((to + done) % PAGE));
      if (!(this.clients?.writeNow(to + done, from, start + done, n) ?? false)) return false;
      done += n;
    }
    return true;
  }
}
