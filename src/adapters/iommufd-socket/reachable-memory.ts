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

/** The bits of a table's entry, of any format, by which it leads somewhere: whether it is valid, and its address. */
const LEADS_LO = 0xffff_f001 | 0;
const LEADS_HI = 0x000f_ffff;

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
  /** A copy of the page that was located last, and its address. Walkers read from it until they locate another one. */
  readonly #page = new Int32Array(PAGE / 4);
  readonly #bytes = new Uint8Array(this.#page.buffer);
  #located = -1;
  /** What a load has read, or a store writes. */
  readonly #word = new Int32Array(2);
  readonly #wordBytes = new Uint8Array(this.#word.buffer);

  /** @param own the kernel's memory. */
  constructor(own: Memory) {
    this.#own = own;
    this.words = this.#page;
  }

  get windowed(): number {
    return this.#own.windowed ?? 0;
  }

  #load(hpa: number, count: number): boolean {
    return this.clients?.readNow(hpa, this.#wordBytes, 0, count) ?? false;
  }
  #store(hpa: number, first: number, count: number): boolean {
    return this.clients?.writeNow(hpa + first, this.#wordBytes, first, count) ?? false;
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
    this.#located = -1;
    if (!(this.clients?.readNow(addr - offset, this.#bytes, 0, PAGE) ?? false)) return false;
    this.#located = addr - offset;
    this.words = this.#page;
    this.index = offset / 4;
    this.room = (PAGE - offset) / 4;
    // It is a copy.
    this.writable = false;
    return true;
  }

  load32(addr: number): boolean {
    if (addr < FIRST_CLIENT_ADDRESS) {
      if (!this.#own.load32(addr)) return false;
      this.lo = this.#own.lo;
      return true;
    }
    if (!this.#load(addr, 4)) return false;
    this.lo = this.#word[0]!;
    return true;
  }

  load64(addr: number): boolean {
    if (addr < FIRST_CLIENT_ADDRESS) {
      if (!this.#own.load64(addr)) return false;
      this.lo = this.#own.lo;
      this.hi = this.#own.hi;
      return true;
    }
    if (!this.#load(addr, 8)) return false;
    this.lo = this.#word[0]!;
    this.hi = this.#word[1]!;
    return true;
  }

  store32(addr: number, value: number): boolean {
    if (addr < FIRST_CLIENT_ADDRESS) return this.#own.store32(addr, value);
    this.#word[0] = value;
    return this.#store(addr, 0, 4);
  }

  /**
   * In a page of a client that was located last it is the entry of a table that comes back with flags set or cleared, while the
   * client's processor may be changing it, too. Hardware compares and exchanges. Here the entry is read again, the bits that
   * differ from what was located are put in, and only bytes with such bits are written. What the client writes to these bytes
   * between the two is lost: that is a few microseconds instead of the time of a walk.
   *
   * @returns false also when the entry leads elsewhere by now, or nowhere: then the flags are not its own.
   */
  store64(addr: number, lo: number, hi: number): boolean {
    if (addr < FIRST_CLIENT_ADDRESS) return this.#own.store64(addr, lo, hi);
    const offset = addr % PAGE;
    if (addr - offset === this.#located) return this.#merge(addr, offset / 4, lo, hi);
    this.#word[0] = lo;
    this.#word[1] = hi;
    return this.#store(addr, 0, 8);
  }

  #merge(addr: number, index: number, lo: number, hi: number): boolean {
    const page = this.#page;
    const word = this.#word;
    const oldLo = page[index]!;
    const oldHi = page[index + 1]!;
    if (!this.#load(addr, 8)) return false;
    if (((word[0]! ^ oldLo) & LEADS_LO) !== 0 || ((word[1]! ^ oldHi) & LEADS_HI) !== 0) return false;
    const changedLo = lo ^ oldLo;
    const changedHi = hi ^ oldHi;
    word[0] = (word[0]! & ~changedLo) | (lo & changedLo);
    word[1] = (word[1]! & ~changedHi) | (hi & changedHi);
    page[index] = word[0];
    page[index + 1] = word[1];
    if ((changedLo | changedHi) === 0) return true;
    const first = changedLo !== 0 ? lowest(changedLo) : 4 + lowest(changedHi);
    const last = changedHi !== 0 ? 4 + highest(changedHi) : highest(changedLo);
    return this.#store(addr, first, last - first + 1);
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

/** The lowest byte of a word that is not 0. */
function lowest(word: number): number {
  return (31 - Math.clz32(word & -word)) >>> 3;
}

/** The highest one. */
function highest(word: number): number {
  return (31 - Math.clz32(word)) >>> 3;
}
