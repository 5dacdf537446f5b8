import { fromWords } from '../../core/bits.ts';
import { ViommuError } from '../../core/errors.ts';
import type { Backing, Memory, MemoryWindow } from '../../ports/memory.ts';
import type { AccessGate } from '../access/access-gate.ts';

interface Piece {
  readonly base: number;
  /** The base, once the piece is taken away: nothing is found in it any more. */
  end: number;
  readonly backing: Backing;
  /** First word of the piece in its backing. */
  readonly first: number;
  words: Int32Array;
  /** The same storage, byte by byte. */
  bytes: Uint8Array;
  readonly writable: boolean;
  /** The backing is shared with somebody else: pages are fetched before and flushed after. */
  readonly shared: boolean;
}

interface Window {
  readonly base: number;
  readonly end: number;
  readonly device: MemoryWindow;
}

/** What lies where, shared by all views of a space. */
interface Layout {
  pieces: Piece[];
  windows: Window[];
  count: number;
  /** Each is told when something has changed: who walks tables asks for every word, and reads a field. */
  readonly views: AddressSpace[];
}

const NONE: Piece = {
  base: 0,
  end: 0,
  backing: { words: () => new Int32Array(0) },
  first: 0,
  words: new Int32Array(0),
  bytes: new Uint8Array(0),
  writable: false,
  shared: false,
};

function bytesOf(words: Int32Array): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
}

/** Transfers up to this many bytes are moved one by one: making a view of the storage would cost more. */
const SMALL = 64;

/** Plain storage: `bytes` of zeroed memory, committed by the system page by page as it is touched. */
export function ramBacking(bytes: number): Backing {
  if (!(bytes > 0 && bytes % 4096 === 0)) {
    throw new ViommuError('EINVAL', 'caller', 'RAM comes in whole 4 KiB pages', { bytes });
  }
  const words = new Int32Array(bytes / 4);
  return { words: () => words };
}

/**
 * A physical address space: RAM pieces and register windows at disjoint places, holes between them. Used for the guest's
 * and for the host's side alike. Loads and stores allocate nothing.
 */
export class AddressSpace implements Memory {
  windowed = 0;
  /** -1 as soon as a backing is shared with somebody else: its pages must be looked for each time. */
  changes: number;
  words = NONE.words;
  index = 0;
  room = 0;
  lo = 0;
  /** High word of the last successful 8-byte load, signed. */
  hi = 0;
  writable = false;
  #last: Piece = NONE;
  readonly #layout: Layout;
  /** Whose accesses these are; null: a processor's, or functions' that have passed the bus. */
  readonly #gate: AccessGate | null;
  readonly #alone: boolean;

  /** @param of the space this is a view of; the rest: see `view`. */
  constructor(of: AddressSpace | null = null, gate: AccessGate | null = null, alone = false) {
    this.#layout = of === null ? { pieces: [], windows: [], count: 0, views: [] } : of.#layout;
    this.changes = of?.changes ?? 0;
    this.#layout.views.push(this);
    this.#gate = gate;
    this.#alone = alone;
  }

  /**
   * The same space as the device behind `gate` sees it: while it has an access to registers under way, it lets nobody in, and
   * while that is a read, no function's request gets through.
   * @param alone writes are like reads: a walker, in the middle of a decision.
   */
  view(gate: AccessGate, alone = false): AddressSpace {
    return new AddressSpace(this, gate, alone);
  }

  /**
   * Puts RAM at `base` (bytes, 4 KiB aligned): `bytes` of `backing` from its byte `offset` on.
   * @returns takes it away again.
   * @throws ViommuError `EINVAL` unaligned or empty; `EBUSY` when something is there already.
   */
  addRam(base: number, bytes: number, backing: Backing, writable = true, offset = 0): () => void {
    if (base % 4096 !== 0 || bytes % 4096 !== 0 || offset % 4096 !== 0 || !(bytes > 0)) {
      throw new ViommuError('EINVAL', 'caller', 'RAM needs 4 KiB alignment', { base, bytes, offset });
    }
    this.#refuseOverlap(base, base + bytes);
    const shared = backing.fetch !== undefined || backing.wrote !== undefined;
    const words = backing.words();
    const piece: Piece = {
      base,
      end: base + bytes,
      backing,
      first: offset / 4,
      words,
      bytes: bytesOf(words),
      writable,
      shared,
    };
    const layout = this.#layout;
    layout.pieces.push(piece);
    this.#changed();
    layout.pieces.sort((a, b) => a.base - b.base);
    return () => {
      layout.pieces = layout.pieces.filter((p) => p !== piece);
      piece.end = piece.base;
      this.#changed();
    };
  }

  /**
   * Puts a register window at `base` (bytes, 4-aligned).
   * @returns takes it away again. @throws ViommuError `EBUSY` on overlap.
   */
  addWindow(base: number, bytes: number, device: MemoryWindow): () => void {
    if (base % 4 !== 0 || bytes % 4 !== 0 || !(bytes > 0)) {
      throw new ViommuError('EINVAL', 'caller', `window ${device.name} is not made of whole words`, { base, bytes });
    }
    this.#refuseOverlap(base, base + bytes);
    const window: Window = { base, end: base + bytes, device };
    const layout = this.#layout;
    layout.windows.push(window);
    return () => {
      layout.windows = layout.windows.filter((w) => w !== window);
    };
  }

  #changed(): void {
    const layout = this.#layout;
    layout.count++;
    const changes = layout.pieces.some((p) => p.shared) ? -1 : layout.count;
    for (const view of layout.views) view.changes = changes;
  }

  #refuseOverlap(base: number, end: number): void {
    const { pieces, windows } = this.#layout;
    const hit = pieces.find((p) => p.base < end && base < p.end) ?? windows.find((w) => w.base < end && base < w.end);
    if (hit !== undefined) {
      const what = 'device' in hit ? `window ${hit.device.name}` : 'RAM';
      throw new ViommuError('EBUSY', 'caller', `overlaps ${what}`, { base, end, there: hit.base, thereEnd: hit.end });
    }
  }

  /** A backing gave its storage a new place (`words()` answers differently now). */
  moved(): void {
    this.#changed();
    for (const p of this.#layout.pieces) {
      p.words = p.backing.words();
      p.bytes = bytesOf(p.words);
    }
  }

  /** The RAM pieces, in ascending order. */
  ram(): readonly { readonly base: number; readonly bytes: number; readonly backing: Backing }[] {
    return this.#layout.pieces.map((p) => ({ base: p.base, bytes: p.end - p.base, backing: p.backing }));
  }

  locate(addr: number): boolean {
    let p = this.#last;
    if (addr < p.base || addr >= p.end) {
      const found = this.#find(addr);
      if (found === null) return false;
      this.#last = p = found;
    }
    const i = p.first + (addr - p.base) / 4;
    this.words = p.words;
    this.index = i;
    this.room = p.first + (p.end - p.base) / 4 - i;
    this.writable = p.writable;
    if (p.shared) this.#fetch(p, i);
    return true;
  }

  #fetch(p: Piece, index: number): void {
    p.backing.fetch?.(index * 4);
    // The next page has not been fetched yet.
    this.room = Math.min(this.room, 1024 - (index % 1024));
  }

  #find(addr: number): Piece | null {
    const list = this.#layout.pieces;
    let lo = 0;
    let hi = list.length - 1;
    while (lo <= hi) {
      const mid = (lo + hi) >>> 1;
      const p = list[mid]!;
      if (addr < p.base) hi = mid - 1;
      else if (addr >= p.end) lo = mid + 1;
      else return p;
    }
    return null;
  }

  #window(addr: number, write: boolean): Window | null {
    const { windows } = this.#layout;
    for (let i = 0; i < windows.length; i++) {
      const w = windows[i]!;
      if (addr >= w.base && addr < w.end) return w.device.claims?.(addr - w.base, write) === false ? null : w;
    }
    return null;
  }

  /** A read of registers into `lo`. @returns false: it aborts. */
  #in(w: Window, addr: number, size: number): boolean {
    const gate = this.#gate;
    if (gate === null) {
      this.lo = w.device.read(addr - w.base, size) | 0;
      return true;
    }
    if (!gate.seal()) return false;
    try {
      // Its own registers, which were open a moment ago, do not answer to the device itself.
      if (w.device.claims?.(addr - w.base) === false) return false;
      this.lo = w.device.read(addr - w.base, size) | 0;
    } finally {
      gate.unseal();
    }
    return true;
  }

  /** A write of registers. @returns false: it aborts. */
  #out(w: Window, addr: number, size: number, value: number): boolean {
    const gate = this.#gate;
    if (gate === null) {
      w.device.write(addr - w.base, size, value >>> 0);
      return true;
    }
    if (!(this.#alone ? gate.seal() : gate.send())) return false;
    try {
      if (w.device.claims?.(addr - w.base, true) === false) return false;
      w.device.write(addr - w.base, size, value >>> 0);
    } finally {
      if (this.#alone) gate.unseal();
      else gate.sent();
    }
    return true;
  }

  load32(addr: number): boolean {
    if (this.locate(addr)) {
      this.lo = this.words[this.index]!;
      return true;
    }
    const w = this.#window(addr, false);
    return w !== null && this.#in(w, addr, 4);
  }

  load64(addr: number): boolean {
    if (this.locate(addr)) {
      this.lo = this.words[this.index]!;
      this.hi = this.words[this.index + 1]!;
      return true;
    }
    if (!this.load32(addr + 4)) return false;
    this.hi = this.lo;
    return this.load32(addr);
  }

  store32(addr: number, value: number): boolean {
    if (this.locate(addr)) {
      if (!this.writable) return false;
      this.words[this.index] = value;
      if (this.#last.shared) this.#last.backing.wrote?.(this.index * 4, 4);
      return true;
    }
    const w = this.#window(addr, true);
    return w !== null && this.#out(w, addr, 4, value);
  }

  store64(addr: number, lo: number, hi: number): boolean {
    if (this.locate(addr)) {
      if (!this.writable) return false;
      this.words[this.index] = lo;
      this.words[this.index + 1] = hi;
      if (this.#last.shared) this.#last.backing.wrote?.(this.index * 4, 8);
      return true;
    }
    return this.store32(addr, lo) && this.store32(addr + 4, hi);
  }

  readBytes(addr: number, into: Uint8Array): boolean {
    return this.readPart(addr | 0, (addr / 2 ** 32) | 0, into, 0, into.length);
  }

  writeBytes(addr: number, from: Uint8Array): boolean {
    return this.writePart(addr | 0, (addr / 2 ** 32) | 0, from, 0, from.length);
  }

  readPart(lo: number, hi: number, into: Uint8Array, start: number, count: number): boolean {
    const skew = lo & 3;
    for (let done = 0; done < count; ) {
      const at = fromWords(lo, hi) + done;
      const odd = (skew + done) & 3;
      if (this.locate(at - odd)) {
        const n = Math.min(count - done, this.room * 4 - odd);
        const { bytes } = this.#last;
        const from = this.index * 4 + odd;
        if (n <= SMALL) for (let i = 0; i < n; i++) into[start + done + i] = bytes[from + i]!;
        else into.set(bytes.subarray(from, from + n), start + done);
        done += n;
        continue;
      }
      const w = this.#window(at, false);
      const size = this.#windowStep(at, count - done);
      this.windowed++;
      if (w === null || !this.#in(w, at, size)) return false;
      const value = this.lo;
      for (let i = 0; i < size; i++) into[start + done + i] = value >>> (8 * i);
      done += size;
    }
    return true;
  }

  writePart(lo: number, hi: number, from: Uint8Array, start: number, count: number): boolean {
    const skew = lo & 3;
    for (let done = 0; done < count; ) {
      const at = fromWords(lo, hi) + done;
      const odd = (skew + done) & 3;
      if (this.locate(at - odd)) {
        if (!this.writable) return false;
        const n = Math.min(count - done, this.room * 4 - odd);
        const { bytes, shared, backing } = this.#last;
        const to = this.index * 4 + odd;
        if (n <= SMALL) for (let i = 0; i < n; i++) bytes[to + i] = from[start + done + i]!;
        else bytes.set(from.subarray(start + done, start + done + n), to);
        if (shared) backing.wrote?.(to, n);
        done += n;
        continue;
      }
      const w = this.#window(at, true);
      if (w === null) return false;
      const size = this.#windowStep(at, count - done);
      let value = 0;
      for (let i = 0; i < size; i++) value |= from[start + done + i]! << (8 * i);
      this.windowed++;
      if (!this.#out(w, at, size, value)) return false;
      done += size;
    }
    return true;
  }

  /** The access size QEMU's memory core would pick: the largest naturally aligned one of 4, 2, 1 bytes that fits. */
  #windowStep(at: number, left: number): number {
    if (at % 4 === 0 && left >= 4) return 4;
    return at % 2 === 0 && left >= 2 ? 2 : 1;
  }
}
