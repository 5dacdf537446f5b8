import { NVME_STATUS, SGL } from '../../../src/spec/nvme/registers.ts';

/** The function's way to memory: untranslated or through its ATC, as the function decides. Addresses are words. */
export interface DmaPath {
  /** @returns false: the access was refused. */
  read(lo: number, hi: number, into: Uint8Array, start: number, count: number): boolean;
  /** A memory write. @returns false: it failed. */
  write(lo: number, hi: number, from: Uint8Array, start: number, count: number): boolean;
}

const PAGE = 4096;
/** Largest transfer (MDTS 5): 32 pages. A list of that many fits one page, so no transfer walks more than two lists. */
export const MDTS = 5;
export const MAX_TRANSFER = PAGE << MDTS;
/** Descriptors an SGL may have: what 128 KiB of the smallest sensible pieces need, and a bound on work. */
const MAX_SGL = 256;

/**
 * Moves the data of one command between a buffer and the places its data pointer names: PRPs (§4.3) or an SGL (§4.4).
 * Allocates nothing but what it was made with.
 */
export class Transfer {
  readonly buffer = new Uint8Array(MAX_TRANSFER);
  readonly #dma: DmaPath;
  readonly #list = new Uint8Array(PAGE);
  readonly #descriptor = new Uint8Array(16);
  #done = 0;
  #length = 0;
  #toMemory = false;

  constructor(dma: DmaPath) {
    this.#dma = dma;
  }

  /**
   * @param sqe the command, 64 bytes as words. @param length bytes, ≤ MAX_TRANSFER. @param toMemory from the buffer into
   *   memory, else the other way. @returns a NVME_STATUS value.
   */
  run(sqe: Int32Array, length: number, toMemory: boolean): number {
    this.#done = 0;
    this.#length = length;
    this.#toMemory = toMemory;
    if (length === 0) return NVME_STATUS.SUCCESS;
    return ((sqe[0]! >>> 14) & 3) === 0 ? this.#prp(sqe) : this.#sgl(sqe);
  }

  #move(lo: number, hi: number, count: number): boolean {
    const ok = this.#toMemory
      ? this.#dma.write(lo, hi, this.buffer, this.#done, count)
      : this.#dma.read(lo, hi, this.buffer, this.#done, count);
    this.#done += count;
    return ok;
  }

  #prp(sqe: Int32Array): number {
    const lo = sqe[6]!;
    const first = Math.min(PAGE - (lo & (PAGE - 1)), this.#length);
    if ((lo & 3) !== 0) return NVME_STATUS.INVALID_PRP_OFFSET;
    if (!this.#move(lo, sqe[7]!, first)) return NVME_STATUS.DATA_TRANSFER_ERROR;
    const left = this.#length - this.#done;
    if (left === 0) return NVME_STATUS.SUCCESS;
    if (left <= PAGE) {
      if ((sqe[8]! & (PAGE - 1)) !== 0) return NVME_STATUS.INVALID_PRP_OFFSET;
      return this.#move(sqe[8]!, sqe[9]!, left) ? NVME_STATUS.SUCCESS : NVME_STATUS.DATA_TRANSFER_ERROR;
    }
    return this.#prpList(sqe[8]!, sqe[9]!);
  }

  #prpList(startLo: number, startHi: number): number {
    let lo = startLo;
    let hi = startHi;
    if ((lo & 7) !== 0) return NVME_STATUS.INVALID_PRP_OFFSET;
    // The last entry of a full list page leads to the next list; MAX_TRANSFER bounds the number of lists.
    for (let lists = 0; lists <= 2 << MDTS; lists++) {
      const room = (PAGE - (lo & (PAGE - 1))) >>> 3;
      const pages = Math.ceil((this.#length - this.#done) / PAGE);
      const entries = Math.min(room, pages);
      if (!this.#dma.read(lo, hi, this.#list, 0, entries * 8)) return NVME_STATUS.DATA_TRANSFER_ERROR;
      for (let i = 0; i < entries; i++) {
        const plo = word(this.#list, i * 8);
        const phi = word(this.#list, i * 8 + 4);
        if (i === room - 1 && pages > room) {
          if ((plo & 7) !== 0) return NVME_STATUS.INVALID_PRP_OFFSET;
          lo = plo;
          hi = phi;
          break;
        }
        if ((plo & (PAGE - 1)) !== 0) return NVME_STATUS.INVALID_PRP_OFFSET;
        if (!this.#move(plo, phi, Math.min(PAGE, this.#length - this.#done))) return NVME_STATUS.DATA_TRANSFER_ERROR;
      }
      if (this.#done === this.#length) return NVME_STATUS.SUCCESS;
    }
    return NVME_STATUS.INVALID_PRP_OFFSET;
  }

  #sgl(sqe: Int32Array): number {
    let lo = sqe[6]!;
    let hi = sqe[7]!;
    let count = sqe[8]!;
    let type = sqe[9]! >>> 28;
    let budget = MAX_SGL;
    if (((sqe[9]! >>> 24) & 0xf) !== 0) return NVME_STATUS.INVALID_SGL_TYPE;
    if (type === SGL.DATA) return this.#data(lo, hi, count >>> 0, true);
    for (;;) {
      if (type !== SGL.SEGMENT && type !== SGL.LAST_SEGMENT) return NVME_STATUS.INVALID_SGL_TYPE;
      const last = type === SGL.LAST_SEGMENT;
      const descriptors = (count >>> 0) / 16;
      if (descriptors === 0 || descriptors % 1 !== 0) return NVME_STATUS.INVALID_SGL_SEGMENT;
      budget -= descriptors;
      if (budget < 0) return NVME_STATUS.INVALID_SGL_COUNT;
      const baseLo = lo;
      const baseHi = hi;
      for (let i = 0; i < descriptors; i++) {
        const at = (baseLo >>> 0) + i * 16;
        const d = this.#descriptor;
        if (!this.#dma.read(at | 0, baseHi + (at > 0xffff_ffff ? 1 : 0), d, 0, 16))
          return NVME_STATUS.DATA_TRANSFER_ERROR;
        lo = word(d, 0);
        hi = word(d, 4);
        count = word(d, 8);
        type = d[15]! >>> 4;
        if ((d[15]! & 0xf) !== 0) return NVME_STATUS.INVALID_SGL_TYPE;
        if (type === SGL.SEGMENT || type === SGL.LAST_SEGMENT) {
          if (last || i !== descriptors - 1) return NVME_STATUS.INVALID_SGL_SEGMENT;
          break;
        }
        const status = this.#data(lo, hi, count >>> 0, false, type === SGL.BIT_BUCKET);
        if (status !== NVME_STATUS.SUCCESS) return status;
        if (last && i === descriptors - 1)
          return this.#done === this.#length ? NVME_STATUS.SUCCESS : NVME_STATUS.SGL_LENGTH;
      }
      if (type !== SGL.SEGMENT && type !== SGL.LAST_SEGMENT) return NVME_STATUS.INVALID_SGL_SEGMENT;
    }
  }

  #data(lo: number, hi: number, count: number, whole: boolean, bucket = false): number {
    if (count > this.#length - this.#done || (whole && count !== this.#length)) return NVME_STATUS.SGL_LENGTH;
    if (bucket) {
      if (!this.#toMemory) return NVME_STATUS.INVALID_SGL_TYPE;
      this.#done += count;
      return NVME_STATUS.SUCCESS;
    }
    // Page by page: each may be refused or stalled by itself.
    for (let done = 0; done < count; ) {
      const at = (lo >>> 0) + done;
      const n = Math.min(count - done, PAGE - (at % PAGE));
      if (!this.#move(at | 0, hi + (at > 0xffff_ffff ? 1 : 0), n)) return NVME_STATUS.DATA_TRANSFER_ERROR;
      done += n;
    }
    return NVME_STATUS.SUCCESS;
  }
}

export function word(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
}
