import { fromWords } from '../core/bits.ts';
import { ACCESS } from '../ports/dma.ts';
import type { ReplayTarget } from '../trace/index.ts';

/** One entry of the guest's tables that decides about an access. */
export interface WalkStep {
  /** What the entry is: `STE`, `CD`, `context entry`, `stage 1, level 3`, … */
  readonly what: string;
  /** Where it lies in guest memory (bytes). */
  readonly at: number;
  /** Its size (bytes). */
  readonly bytes: number;
  /** Its 32-bit words, the lowest first, signed. */
  readonly words: Int32Array;
}

/** The way of one access through the guest's tables, as they are now. */
export interface GuestWalk {
  /** The entries read, in the order hardware reads them. */
  readonly steps: readonly WalkStep[];
  /** Guest-physical address the access ends at (bytes); -1: it does not get there. */
  readonly out: number;
  /** ACCESS READ | WRITE bits that every entry on the way grants; both where no table took part. */
  readonly perm: number;
  /** Why it does not get there, or where it leaves the tables; '' when the last entry maps it. */
  readonly end: string;
}

/** Buffers for the entries of one walk at a time. */
export interface StepPool {
  /** By number of the entry on its way, and by its size in words. */
  readonly words: (Int32Array<ArrayBuffer> | undefined)[][];
  readonly bytes: (Uint8Array<ArrayBuffer> | undefined)[][];
}

/** An empty pool. */
export function stepPool(): StepPool {
  return { words: [], bytes: [] };
}

function keep<T>(of: (T | undefined)[][], step: number, size: number, buffer: T): void {
  const here = of[step] ?? [];
  of[step] = here;
  here[size] = buffer;
}

/** Reads tables of a machine, and keeps what it read as the steps of a walk. */
export class WalkedTables {
  /** ACCESS READ | WRITE bits that all entries read so far grant. */
  perm: number = ACCESS.READ | ACCESS.WRITE;
  /** Entries read so far. */
  readonly steps: WalkStep[] = [];
  readonly #target: ReplayTarget;
  readonly #pool: StepPool | null;

  /**
   * @param target whose guest memory and registers are read; nothing of it changes.
   * @param pool where the words of steps are kept, until its next walk; null: each step has its own.
   */
  constructor(target: ReplayTarget, pool: StepPool | null = null) {
    this.#target = target;
    this.#pool = pool;
  }

  /** The entry at `at` (guest-physical, bytes), or null where there is no RAM. */
  entry(what: string, at: number, bytes: number): Int32Array | null {
    const words = this.#words(bytes / 4);
    if (!this.#target.load(at, this.#bytes(words))) return null;
    this.steps.push({ what, at, bytes, words });
    return words;
  }

  #words(count: number): Int32Array<ArrayBuffer> {
    const of = this.#pool?.words;
    const known = of?.[this.steps.length]?.[count];
    if (known !== undefined) return known;
    const words = new Int32Array(count);
    if (of !== undefined) keep(of, this.steps.length, count, words);
    return words;
  }

  #bytes(words: Int32Array<ArrayBuffer>): Uint8Array {
    const of = this.#pool?.bytes;
    const known = of?.[this.steps.length]?.[words.length];
    if (known !== undefined) return known;
    const bytes = new Uint8Array(words.buffer);
    if (of !== undefined) keep(of, this.steps.length, words.length, bytes);
    return bytes;
  }

  /** An entry takes rights away: those it does not grant. */
  grants(read: boolean, write: boolean): void {
    this.perm &= (read ? ACCESS.READ : 0) | (write ? ACCESS.WRITE : 0);
  }

  /** A register of 4 bytes. @param offset in the window (bytes). */
  register(offset: number): number {
    this.#target.read(offset, 4);
    return this.#target.lo | 0;
  }

  /** A register of 8 bytes, as words. @param offset in the window (bytes). */
  register64(offset: number): readonly [number, number] {
    this.#target.read(offset, 8);
    return [this.#target.lo | 0, this.#target.hi | 0];
  }

  /** The access ends at `out` (bytes). @param end what let it through without a table; '' for a mapping. */
  arrives(out: number, end = ''): GuestWalk {
    return { steps: this.steps, out, perm: this.perm, end };
  }

  /** The access ends here. @param end the reason, a clause. */
  stops(end: string): GuestWalk {
    return { steps: this.steps, out: -1, perm: 0, end };
  }
}

/** Bits [at + count - 1 : at] of a 64-bit address in words. `count` at most 31. */
export function addressBits(lo: number, hi: number, at: number, count: number): number {
  const mask = 2 ** count - 1;
  if (at >= 32) return (hi >>> (at - 32)) & mask;
  const low = lo >>> at;
  return (at === 0 ? low : low | (hi << (32 - at))) & mask;
}

/** The low `shift` bits of an address, as a number. `shift` at most 52. */
export function offsetIn(lo: number, hi: number, shift: number): number {
  const top = shift > 32 ? hi & (2 ** (shift - 32) - 1) : 0;
  return fromWords(shift < 32 ? lo & (2 ** shift - 1) : lo, top);
}
