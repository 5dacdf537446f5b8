import { firstRunAt } from '../../../lib/memory/runs.ts';
import type { PageFile, PinAccount, UserMemory } from '../../../ports/iommufd.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { type AccountMode, charge, uncharge } from './accounting.ts';

const PAGE = 4096;

/** Pages [first, last] are pinned `pins` times; the first lies at `hpa`, the rest follows it. */
interface Run {
  first: number;
  last: number;
  hpa: number;
  pins: number;
}

/** Called for each physically contiguous piece: bytes from the first page of the object, host-physical address, bytes. */
export type RunVisitor = (startByte: number, hpa: number, bytes: number) => number;

/** What one map call names. */
export interface PagesParts {
  readonly source: UserMemory;
  /** The source's address of page 0: a multiple of the page size. */
  readonly base: bigint;
  /** Pages. */
  readonly count: number;
  readonly writable: boolean;
  /** null: process memory. */
  readonly file: PageFile | null;
  /** Who pays for its pins; null: nobody counts. */
  readonly account: PinAccount | null;
  readonly mode: AccountMode;
}

/**
 * The memory behind one map call: a piece of a process's address space, or of a file. Areas made by IOAS_COPY share it.
 * A page is pinned once however many domains use it, and stays where it is while anybody pins it, even when the process
 * that owned it is gone.
 */
export class Pages implements PagesParts {
  readonly source: UserMemory;
  readonly base: bigint;
  readonly count: number;
  readonly writable: boolean;
  readonly file: PageFile | null;
  readonly mode: AccountMode;
  /** A dma-buf whose exporter took its memory away after it was mapped. */
  revoked = false;
  readonly #runs: Run[] = [];
  #account: PinAccount | null;
  #pinned = 0;

  constructor(parts: PagesParts) {
    this.source = parts.source;
    this.base = parts.base;
    this.count = parts.count;
    this.writable = parts.writable;
    this.file = parts.file;
    this.#account = parts.account;
    this.mode = parts.mode;
  }

  get dmabuf(): boolean {
    return this.file !== null && this.file.kind === 'dmabuf';
  }

  /** Pages that are pinned by anybody. */
  get pinned(): number {
    return this.#pinned;
  }
  /** Who pays for them. */
  get account(): PinAccount | null {
    return this.#account;
  }
  /** Another process pays from now on; the caller has charged it, and takes the charge off the old one. */
  moveAccount(to: PinAccount | null): void {
    this.#account = to;
  }

  /** How many users hold a page. */
  pinsOf(page: number): number {
    const r = this.#runs[firstRunAt(this.#runs, page)];
    return r !== undefined && r.first <= page ? r.pins : 0;
  }

  /** Makes `page` the first page of a run, if it lies inside one. */
  #cut(page: number): void {
    const i = firstRunAt(this.#runs, page);
    const r = this.#runs[i];
    if (r === undefined || r.first >= page) return;
    const rest: Run = { first: page, last: r.last, hpa: r.hpa + (page - r.first) * PAGE, pins: r.pins };
    r.last = page - 1;
    this.#runs.splice(i + 1, 0, rest);
  }

  /**
   * Pins pages [first, last].
   * @returns 0; -EFAULT process memory that is not there or not writable; -EINVAL beyond the end of a file; -ENOMEM too much
   *   is pinned, or more than the account may lock. Nothing is pinned then.
   */
  pin(first: number, last: number): number {
    const before = this.#pinned;
    const r = this.#pinPages(first, last);
    const more = this.#pinned - before;
    if (r !== 0 || more === 0 || charge(this.#account, this.mode, more)) return r;
    this.#unpinPages(first, last);
    return -E.NOMEM;
  }

  #pinPages(first: number, last: number): number {
    this.#cut(first);
    this.#cut(last + 1);
    let i = firstRunAt(this.#runs, first);
    for (let page = first; page <= last; ) {
      const r = this.#runs[i];
      if (r !== undefined && r.first <= page) {
        r.pins++;
        page = r.last + 1;
        i++;
        continue;
      }
      const want = Math.min(last + 1, r === undefined ? Number.POSITIVE_INFINITY : r.first) - page;
      if (!this.source.pin(this.base + BigInt(page) * 4096n, BigInt(want * PAGE), this.writable)) {
        if (page > first) this.#unpinPages(first, page - 1);
        return -(this.source.failure || (this.file === null ? E.FAULT : E.INVAL));
      }
      const got = this.source.run / PAGE;
      const before = this.#runs[i - 1];
      if (
        before !== undefined &&
        before.pins === 1 &&
        before.last === page - 1 &&
        page > first &&
        before.hpa + (page - before.first) * PAGE === this.source.hpa
      ) {
        before.last += got;
      } else {
        this.#runs.splice(i, 0, { first: page, last: page + got - 1, hpa: this.source.hpa, pins: 1 });
        i++;
      }
      page += got;
      this.#pinned += got;
    }
    return 0;
  }

  /** Undoes one `pin` of exactly these pages (or of a range that contains them). */
  unpin(first: number, last: number): void {
    const before = this.#pinned;
    this.#unpinPages(first, last);
    if (this.#pinned < before) uncharge(this.#account, this.mode, before - this.#pinned);
  }

  #unpinPages(first: number, last: number): void {
    this.#cut(first);
    this.#cut(last + 1);
    const from = firstRunAt(this.#runs, first);
    let to = from;
    let gone = 0;
    for (; to < this.#runs.length && this.#runs[to]!.first <= last; to++) {
      const r = this.#runs[to]!;
      if (--r.pins > 0) continue;
      gone++;
      this.#pinned -= r.last - r.first + 1;
      this.source.unpin?.(r.hpa, (r.last - r.first + 1) * PAGE);
    }
    if (gone === 0) return;
    const kept = this.#runs.slice(from, to).filter((r) => r.pins > 0);
    this.#runs.splice(from, to - from, ...kept);
  }

  /**
   * Visits pinned memory [startByte, startByte + bytes) piece by piece, in order, until the visitor returns something else
   * than 0. Pieces that continue each other physically are joined.
   */
  visit(startByte: number, bytes: number, visitor: RunVisitor): number {
    const end = startByte + bytes;
    let at = startByte;
    for (let i = firstRunAt(this.#runs, Math.floor(startByte / PAGE)); at < end; ) {
      const r = this.#runs[i]!;
      const hpa = r.hpa + (at - r.first * PAGE);
      let last = r;
      while (++i < this.#runs.length) {
        const n = this.#runs[i]!;
        if ((last.last + 1) * PAGE >= end || n.first !== last.last + 1) break;
        if (n.hpa !== last.hpa + (n.first - last.first) * PAGE) break;
        last = n;
      }
      const stop = Math.min(end, (last.last + 1) * PAGE);
      const result = visitor(at, hpa, stop - at);
      if (result !== 0) return result;
      at = stop;
    }
    return 0;
  }
}
