import { ViommuError } from '../../core/errors.ts';
import { HEADER, STATUS } from '../../spec/pcie/header.ts';
import type { FormOf } from '../saved/state-form.ts';

interface Watch {
  readonly start: number;
  readonly end: number;
  readonly after: (before: number, now: number) => void;
  readonly at: number;
}

/**
 * Configuration space of one function: 256 bytes (conventional) or 4096 (PCI Express), byte masks for what software may
 * write or clear, and observers for registers with an effect. Guest writes never throw.
 */
export class ConfigSpace {
  /** Bytes: 256 or 4096. */
  readonly size: number;
  readonly #bytes: Uint8Array;
  readonly #reset: Uint8Array;
  readonly #rw: Uint8Array;
  readonly #w1c: Uint8Array;
  /** Bits that the function itself sets and clears while it runs. */
  readonly #own: Uint8Array;
  readonly #watches: Watch[] = [];
  /** Offset of the last capability of each list: the next one is linked behind it. */
  #last = 0;
  #free = 0x40;
  #lastExtended = 0;
  #freeExtended = 0x100;
  #writes = 0;

  /** @param size 256 or 4096 bytes. */
  constructor(size: 256 | 4096) {
    this.size = size;
    this.#bytes = new Uint8Array(size);
    this.#reset = new Uint8Array(size);
    this.#rw = new Uint8Array(size);
    this.#w1c = new Uint8Array(size);
    this.#own = new Uint8Array(size);
  }

  /** Counts guest writes: whoever caches something derived from this space compares it. */
  get writes(): number {
    return this.#writes;
  }

  /** A read of 1, 2 or 4 bytes: unsigned; beyond the space all ones. */
  read(offset: number, size: number): number {
    if (offset < 0 || offset + size > this.size) return size === 4 ? 0xffff_ffff : size === 2 ? 0xffff : 0xff;
    return this.get(offset, size);
  }

  /** A guest write of 1, 2 or 4 bytes: masks first, then whoever watches the bytes touched. */
  write(offset: number, size: number, value: number): void {
    if (offset < 0 || offset + size > this.size) return;
    this.#writes++;
    const watches = this.#watches;
    let seen = -1;
    for (let i = 0; i < watches.length; i++) {
      const w = watches[i]!;
      if (w.start < offset + size && offset < w.end) {
        seen = i;
        break;
      }
    }
    if (seen < 0) {
      this.#merge(offset, size, value);
      return;
    }
    const touched = watches.filter((w) => w.start < offset + size && offset < w.end);
    const before = touched.map((w) => this.get(w.at, w.end - w.at));
    this.#merge(offset, size, value);
    touched.forEach((w, i) => {
      w.after(before[i]!, this.get(w.at, w.end - w.at));
    });
  }

  #merge(offset: number, size: number, value: number): void {
    for (let i = 0; i < size; i++) {
      const at = offset + i;
      const byte = (value >>> (8 * i)) & 0xff;
      const rw = this.#rw[at]!;
      this.#bytes[at] = ((this.#bytes[at]! & ~rw) | (byte & rw)) & ~(byte & this.#w1c[at]!);
    }
  }

  /** The stored bytes as a little-endian number, without any side effect. */
  get(offset: number, size: number): number {
    const b = this.#bytes;
    if (size === 4) return (b[offset]! | (b[offset + 1]! << 8) | (b[offset + 2]! << 16) | (b[offset + 3]! << 24)) >>> 0;
    if (size === 2) return b[offset]! | (b[offset + 1]! << 8);
    return b[offset]!;
  }

  /** Stores past every mask: for the function itself. */
  set(offset: number, size: number, value: number): void {
    for (let i = 0; i < size; i++) this.#bytes[offset + i] = value >>> (8 * i);
  }

  /** Stores the value and makes it the one a reset gives back. */
  preset(offset: number, size: number, value: number): void {
    this.set(offset, size, value);
    for (let i = 0; i < size; i++) this.#reset[offset + i] = value >>> (8 * i);
  }

  /** Bits software may write. */
  writable(offset: number, size: number, mask: number): void {
    for (let i = 0; i < size; i++) this.#rw[offset + i] = mask >>> (8 * i);
  }

  /** Bits software clears by writing one. */
  clearable(offset: number, size: number, mask: number): void {
    for (let i = 0; i < size; i++) this.#w1c[offset + i] = mask >>> (8 * i);
  }

  /** Bits that change by themselves while the function runs, whatever software may do with them. */
  changing(offset: number, size: number, mask: number): void {
    for (let i = 0; i < size; i++) this.#own[offset + i]! |= mask >>> (8 * i);
  }

  /** @internal What saved bytes may hold: bits that never change are as they are here. */
  form(): FormOf<readonly number[]> {
    return {
      each: (i) => ({ from: 0, to: 255, fits: (byte) => ((byte ^ this.#reset[i]!) & ~this.#loose(i)) === 0 }),
      length: this.size,
    };
  }

  #loose(i: number): number {
    return this.#rw[i]! | this.#w1c[i]! | this.#own[i]!;
  }

  /** Calls `after` with the old and new register value behind every guest write that touches it. */
  watch(offset: number, size: 1 | 2 | 4, after: (before: number, now: number) => void): void {
    this.#watches.push({ start: offset, end: offset + size, at: offset, after });
  }

  /**
   * Links a capability into the list that starts at 0x34.
   * @returns its offset. @throws ViommuError `ENOSPC` when the first 256 bytes are full.
   */
  addCapability(id: number, bytes: number): number {
    const at = this.#free;
    if (at + bytes > 0x100) throw new ViommuError('ENOSPC', 'caller', 'no room for another capability', { id, bytes });
    this.#free = (at + bytes + 3) & ~3;
    this.preset(at, 1, id);
    this.preset(this.#last === 0 ? HEADER.CAPABILITIES : this.#last + 1, 1, at);
    this.#last = at;
    this.preset(HEADER.STATUS, 2, this.get(HEADER.STATUS, 2) | STATUS.CAPABILITIES);
    return at;
  }

  /**
   * Links an extended capability; the first one sits at 0x100.
   * @returns its offset. @throws ViommuError `ENOSPC` when the space has no extended part or it is full.
   */
  addExtended(id: number, version: number, bytes: number): number {
    const at = this.#freeExtended;
    if (at + bytes > this.size) throw new ViommuError('ENOSPC', 'caller', 'no room for an extended capability', { id });
    this.#freeExtended = (at + bytes + 3) & ~3;
    this.preset(at, 4, (id | (version << 16)) >>> 0);
    if (this.#lastExtended !== 0) {
      const head = this.get(this.#lastExtended, 4) & 0xf_ffff;
      this.preset(this.#lastExtended, 4, (head | (at << 20)) >>> 0);
    }
    this.#lastExtended = at;
    return at;
  }

  /** Offset of a capability, 0 when absent. */
  find(id: number): number {
    let at = this.get(HEADER.CAPABILITIES, 1) & ~3;
    for (let i = 0; i < 48 && at >= 0x40; i++) {
      if (this.get(at, 1) === id) return at;
      at = this.get(at + 1, 1) & ~3;
    }
    return 0;
  }

  /** Offset of an extended capability, 0 when absent. */
  findExtended(id: number): number {
    if (this.size < 4096) return 0;
    let at = 0x100;
    for (let i = 0; i < 960 && at >= 0x100; i++) {
      const head = this.get(at, 4);
      if (head === 0) return 0;
      if ((head & 0xffff) === id) return at;
      at = (head >>> 20) & 0xffc;
    }
    return 0;
  }

  /** Power-on contents; observers are not called. */
  reset(): void {
    this.#bytes.set(this.#reset);
    this.#writes++;
  }

  /** The bytes as they are now. */
  save(): number[] {
    return Array.from(this.#bytes);
  }

  /** Goes back to saved bytes; observers are not called. @param bytes what `save` gave. */
  load(bytes: readonly number[]): void {
    this.#bytes.set(bytes);
    this.#writes++;
  }
}
