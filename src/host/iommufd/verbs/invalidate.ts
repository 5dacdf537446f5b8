import type { UserData } from '../../../ports/iommufd.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import type { Invalidation } from '../../kernel/driver.ts';
import type { IommufdContext } from '../context.ts';

const MAX_ENTRY = 4096;
const MAX_ENTRIES = 1 << 19;

/**
 * HWPT_INVALIDATE, for entries in the user's memory and for words in hand. `done` is entry_num as the kernel returns it: 0
 * for what fails before the driver is asked, else the driver's count.
 */
export class Invalidator {
  done = 0;
  readonly #context: IommufdContext;
  #words = new Int32Array(1024);
  #bytes = new Uint8Array(this.#words.buffer);

  constructor(context: IommufdContext) {
    this.#context = context;
  }

  /** Finds what handles invalidations of the object; null: `#error` says why not. */
  #target(id: number, entryLen: number, entryNum: number, pointer: boolean): Invalidation | null {
    this.done = 0;
    this.#error = 0;
    if (entryNum > 0 && (!pointer || entryLen === 0 || entryLen > MAX_ENTRY || entryNum > MAX_ENTRIES)) {
      this.#error = -E.INVAL;
      return null;
    }
    const pt = this.#context.objects.any(id);
    if (pt === null) {
      this.#error = -E.NOENT;
      return null;
    }
    if (pt.kind !== 'hwpt_nested' && pt.kind !== 'viommu') {
      this.#error = -E.INVAL;
      return null;
    }
    const target = pt.kind === 'viommu' ? pt.driver.invalidation : pt.domain.invalidation;
    if (target === null) this.#error = -E.OPNOTSUPP;
    return target;
  }
  #error = 0;

  /** Entries at word `start`. Allocates nothing when `entryLen` is the kernel's. */
  words(id: number, type: number, words: Int32Array, start: number, entryLen: number, entryNum: number): number {
    const target = this.#target(id, entryLen, entryNum, true);
    if (target === null) return this.#error;
    if (type !== target.type) return -E.INVAL;
    if (entryNum === 0) return target.emptyOk ? 0 : -E.INVAL;
    if (entryLen === target.entryBytes) {
      const r = target.run(words, start, entryNum);
      this.done = target.done;
      return r;
    }
    const from = words.byteOffset + start * 4;
    const bytes = new Uint8Array(words.buffer, from, Math.min(entryLen * entryNum, words.buffer.byteLength - from));
    return this.#copied(target, entryLen, entryNum, {
      length: bytes.length,
      copyIn: (offset, into) => {
        if (offset + into.length > bytes.length) return false;
        into.set(bytes.subarray(offset, offset + into.length));
        return true;
      },
      copyOut: () => false,
    });
  }

  /** Entries in the user's memory; null: the pointer is NULL. */
  user(id: number, type: number, data: UserData | null, entryLen: number, entryNum: number): number {
    const target = this.#target(id, entryLen, entryNum, data !== null);
    if (target === null) return this.#error;
    if (type !== target.type) return -E.INVAL;
    if (entryNum === 0 || data === null) return target.emptyOk ? 0 : -E.INVAL;
    return this.#copied(target, entryLen, entryNum, data);
  }

  #copied(target: Invalidation, entryLen: number, entryNum: number, data: UserData): number {
    return target.copy === 'each'
      ? this.#each(target, entryLen, entryNum, data)
      : this.#all(target, entryLen, entryNum, data);
  }

  #each(target: Invalidation, entryLen: number, entryNum: number, data: UserData): number {
    if (entryLen !== target.entryBytes) return -E.INVAL;
    const entry = this.#bytes.subarray(0, entryLen);
    for (let i = 0; i < entryNum; i++) {
      if (!data.copyIn(i * entryLen, entry)) return -E.FAULT;
      const r = target.run(this.#words, 0, 1);
      if (r !== 0) return r;
      this.done++;
    }
    return 0;
  }

  #all(target: Invalidation, entryLen: number, entryNum: number, data: UserData): number {
    const size = target.entryBytes;
    this.#reserve(size * entryNum);
    const all = this.#bytes.subarray(0, size * entryNum);
    if (entryLen === size) {
      if (!data.copyIn(0, all)) return -E.FAULT;
    } else {
      const n = Math.min(entryLen, size);
      all.fill(0);
      for (let i = 0; i < entryNum; i++) {
        const tail = checkZero(data, i * entryLen + size, entryLen - size);
        if (tail !== 0) return tail;
        if (!data.copyIn(i * entryLen, all.subarray(i * size, i * size + n))) return -E.FAULT;
      }
    }
    const r = target.run(this.#words, 0, entryNum);
    this.done = target.done;
    return r;
  }

  #reserve(bytes: number): void {
    if (this.#bytes.length >= bytes) return;
    this.#words = new Int32Array(2 ** Math.ceil(Math.log2(bytes / 4)));
    this.#bytes = new Uint8Array(this.#words.buffer);
  }
}

/**
 * Looks for a byte that is not zero. @returns 0 all zero (or nothing to look at); -E2BIG one was found; -EFAULT the memory
 * ended before one was found.
 */
export function checkZero(data: UserData, offset: number, bytes: number): number {
  const chunk = new Uint8Array(Math.max(0, Math.min(bytes, MAX_ENTRY)));
  for (let at = 0; at < bytes; ) {
    let piece = chunk.subarray(0, Math.min(chunk.length, bytes - at));
    if (!data.copyIn(offset + at, piece)) {
      if (piece.length === 1) return -E.FAULT;
      piece = chunk.subarray(0, 1);
      if (!data.copyIn(offset + at, piece)) return -E.FAULT;
    }
    if (piece.some((b) => b !== 0)) return -E.TOOBIG;
    at += piece.length;
  }
  return 0;
}
