import { NO_PASID } from '../../../ports/dma.ts';
import { HW_ERROR, type HwPort } from '../../../ports/hw.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { INV, inv, invType, WAIT_PD } from '../../../spec/vtd/invalidation.ts';
import { UnconfirmedInvalidations } from '../unconfirmed.ts';

/** Descriptors between two waits. */
const BATCH = 128;
const WORDS = 8;

/** Masks from here on mean "everything": 2^52 pages are all of a 64-bit address space. */
export const ALL_PAGES = 52;

/** Who is told what became of invalidations. */
export interface VtdDriverQueueListener {
  /** Completions of the function at `sid` are outstanding under `token`, for its PASID `pasid` (NO_PASID: none). */
  pending(sid: number, token: number, pasid: number): void;
  /** The function at `sid` did not answer. */
  timedOut(sid: number, pasid: number): void;
  /** Queues the invalidation of everything that functions may hold. */
  deviceTlbs(): void;
  /** See `UnconfirmedParts.changed`. */
  unconfirmed(some: boolean): void;
}

/** log2 of the smallest naturally aligned power-of-two range that holds `pages` pages from `page` on; at most 52. */
export function spanOf(page: number, pages: number): number {
  if (pages <= 1) return 0;
  if (pages >= 2 ** ALL_PAGES) return ALL_PAGES;
  const last = page + pages - 1;
  if (last <= 0x7fff_ffff) return 32 - Math.clz32(page ^ last);
  let mask = 0;
  for (let unit = 1; Math.floor(page / unit) !== Math.floor(last / unit); unit *= 2) mask++;
  return mask;
}

/**
 * The kernel's invalidation queue of one unit in scalable mode: 256-bit descriptors in batches with a wait behind them.
 * Building and submitting allocates nothing. A descriptor the hardware refuses is skipped; whoever flushes is told, and an
 * invalidation is asked for again before the next descriptors.
 */
export class VtdDriverQueue {
  #words = new Int32Array(BATCH * WORDS);
  #count = 0;
  /** A submission can cause work that submits again: each depth builds in its own buffer. */
  readonly #buffers = [this.#words];
  #depth = 0;
  /** What went wrong in batches that went out because they were full. */
  #early = 0;
  readonly #hw: HwPort;
  readonly #listener: VtdDriverQueueListener;
  /** What the unit refused to forget. */
  readonly unconfirmed: UnconfirmedInvalidations;

  constructor(hw: HwPort, listener: VtdDriverQueueListener) {
    this.#hw = hw;
    this.#listener = listener;
    this.unconfirmed = new UnconfirmedInvalidations({
      everything: () => this.#everything(),
      changed: (some) => listener.unconfirmed(some),
    });
  }

  /** In the order of VT-d §6.5.3.3: what a cache is filled from is forgotten before it. */
  #everything(): number {
    this.contextGlobal();
    this.pasidCacheGlobal();
    this.iotlbGlobal();
    const r = this.flush();
    if (r !== 0) return r;
    this.#listener.deviceTlbs();
    return this.flush();
  }

  #add(w0: number, w1: number, w2: number, w3: number): void {
    if (this.#count === BATCH) this.#early ||= this.flush();
    const at = this.#count++ * WORDS;
    const words = this.#words;
    words[at] = w0;
    words[at + 1] = w1;
    words[at + 2] = w2;
    words[at + 3] = w3;
  }

  contextDevice(sid: number): void {
    this.#add(INV.CONTEXT | (3 << 4), sid, 0, 0);
  }

  contextGlobal(): void {
    this.#add(INV.CONTEXT | (1 << 4), 0, 0, 0);
  }

  iotlbGlobal(): void {
    this.#add(INV.IOTLB | (1 << 4), 0, 0, 0);
  }

  iotlbDomain(did: number): void {
    this.#add(INV.IOTLB | (2 << 4) | (did << 16), 0, 0, 0);
  }

  /** @param mask log2 pages; `page` lies in the range. */
  iotlbPages(did: number, page: number, mask: number, leaf: boolean): void {
    this.#add(INV.IOTLB | (3 << 4) | (did << 16), 0, pageLo(page, mask) | mask | (leaf ? 0x40 : 0), pageHi(page, mask));
  }

  pasidCache(did: number, pasid: number): void {
    this.#add(INV.PASID_CACHE | (1 << 4) | (did << 16), pasid, 0, 0);
  }

  pasidCacheGlobal(): void {
    this.#add(INV.PASID_CACHE | (3 << 4), 0, 0, 0);
  }

  pasidIotlb(did: number, pasid: number): void {
    this.#add(INV.PASID_IOTLB | (2 << 4) | (did << 16), pasid, 0, 0);
  }

  pasidIotlbPages(did: number, pasid: number, page: number, mask: number, leaf: boolean): void {
    if (mask >= ALL_PAGES) {
      this.pasidIotlb(did, pasid);
      return;
    }
    const w2 = pageLo(page, mask) | mask | (leaf ? 0x40 : 0);
    this.#add(INV.PASID_IOTLB | (3 << 4) | (did << 16), pasid, w2, pageHi(page, mask));
  }

  /** Device TLB of one (function, PASID); NO_PASID: a descriptor without. */
  deviceTlb(sid: number, pasid: number, page: number, mask: number): void {
    // Size in the address: ones below the highest bit of the range, a zero there (VT-d §4.2.3); all pages: 0x7fff…f000.
    const m = Math.min(mask, ALL_PAGES);
    const lo = m === 0 ? pageLo(page, 0) : pageLo(page, m) | (m > 20 ? ~0xfff : ((1 << (m + 11)) - 1) & ~0xfff);
    const hi = m <= 21 ? pageHi(page, m) : pageHi(page, m) | (m >= ALL_PAGES ? 0x7fff_ffff : (1 << (m - 21)) - 1);
    this.deviceTlbRaw(sid, pasid, m === 0 ? lo : lo | 0x800, hi, false);
  }

  /** @param lo,hi address in the ATS encoding: S at bit 11. */
  deviceTlbRaw(sid: number, pasid: number, lo: number, hi: number, global: boolean): void {
    const s = (lo & 0x800) !== 0;
    const page = lo & ~0xfff;
    if (pasid === NO_PASID) this.#add(INV.DEVICE_TLB, sid, page | (s ? 1 : 0), hi);
    else this.#add(INV.PASID_DEVICE_TLB | (sid << 16), pasid, page | (s ? 0x800 : 0) | (global ? 1 : 0), hi);
  }

  pageResponse(sid: number, pasid: number, group: number, code: number): void {
    const w0 = INV.PAGE_GROUP_RESPONSE | (pasid === NO_PASID ? 0 : 0x10) | ((code & 0xf) << 12) | (sid << 16);
    this.#add(w0, pasid === NO_PASID ? 0 : pasid, (group & 0x1ff) << 3, 0);
  }

  /** @param fence later descriptors start behind it. @param drain page requests received before are visible behind it. */
  wait(fence: boolean, drain: boolean): void {
    this.#add(INV.WAIT | (fence ? 0x40 : 0) | (drain ? WAIT_PD : 0), 0, 0, 0);
  }

  /**
   * Submits what was added, and before it what was refused earlier, and waits. What a function does not answer in time is told to the listener
   * and is no error here.
   * @param settles false: what was refused earlier is no concern of these descriptors.
   * @returns 0, or -EIO: the unit refused a descriptor, or could not read one, or still refuses an earlier one. Those behind it were run.
   */
  flush(settles = true): number {
    const total = this.#count;
    let result = this.#early;
    this.#early = 0;
    if (total === 0) return result || (settles ? this.unconfirmed.settle() : 0);
    const batch = this.#words;
    this.#count = 0;
    this.#depth++;
    this.#buffers[this.#depth] ??= new Int32Array(BATCH * WORDS);
    this.#words = this.#buffers[this.#depth]!;
    if (settles) result ||= this.unconfirmed.settle();
    for (let at = 0; at < total; ) {
      this.#hw.submit(batch, at * WORDS, total - at);
      const { done, error, pending } = this.#hw;
      if (pending > 0) this.#outstanding(batch, at, error === HW_ERROR.NONE ? total : at + done, pending);
      if (error === HW_ERROR.NONE) break;
      at += done;
      if (error === HW_ERROR.ATC_TIMEOUT) this.#listener.timedOut(sidOf(batch, at * WORDS), pasidOf(batch, at * WORDS));
      else {
        result = -E.IO;
        if (isInvalidation(batch[at * WORDS]!)) this.unconfirmed.refused();
      }
      at++;
    }
    this.#depth--;
    this.#words = this.#buffers[this.#depth]!;
    this.#count = 0;
    return result;
  }

  #outstanding(batch: Int32Array, from: number, to: number, token: number): void {
    for (let i = from; i < to; i++) {
      const sid = sidOf(batch, i * WORDS);
      if (sid >= 0) this.#listener.pending(sid, token, pasidOf(batch, i * WORDS));
    }
  }
}

/** Whether some cache is to forget something. */
function isInvalidation(w0: number): boolean {
  const type = invType(w0);
  return type !== INV.WAIT && type !== INV.PAGE_GROUP_RESPONSE;
}

/** Function a device-TLB descriptor goes to; -1: another type. */
function sidOf(words: Int32Array, at: number): number {
  const type = invType(words[at]!);
  if (type === INV.DEVICE_TLB) return inv.sid(words[at + 1]!);
  return type === INV.PASID_DEVICE_TLB ? inv.sidLow(words[at]!) : -1;
}

/** PASID of a device-TLB descriptor, or NO_PASID. */
function pasidOf(words: Int32Array, at: number): number {
  return invType(words[at]!) === INV.PASID_DEVICE_TLB ? inv.pasid(words[at + 1]!) : NO_PASID;
}

/** Low and high word of a page's address, rounded down to 2^mask pages. */
function pageLo(page: number, mask: number): number {
  if (mask >= 20) return 0;
  return (page << 12) & (-1 << (mask + 12));
}
function pageHi(page: number, mask: number): number {
  const hi = (page / 0x10_0000) | 0;
  if (mask <= 20) return hi;
  return mask >= ALL_PAGES ? 0 : hi & (-1 << (mask - 20));
}
