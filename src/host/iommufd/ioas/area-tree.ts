import type { Pages } from './pages.ts';

const PAGE = 4096;
const EXACT = 2 ** 53;

/** What an area maps. */
export interface AreaParts {
  /** First and last IOVA. */
  readonly start: bigint;
  readonly last: bigint;
  readonly pages: Pages;
  /** Where the area begins in `pages`, bytes from its first page. */
  readonly startByte: number;
  /** MAP_PROT bits. */
  readonly prot: number;
}

/**
 * A mapped piece of an IOAS. An IOVA is kept as page number and offset (both exact as numbers over the whole 64-bit space);
 * the fields behind `weight` belong to the tree.
 */
export class Area {
  readonly startPage: number;
  readonly startOff: number;
  readonly lastPage: number;
  readonly lastOff: number;
  readonly pages: Pages;
  /** Where the area begins in `pages`, bytes from its first page. */
  readonly startByte: number;
  /** MAP_PROT bits. */
  readonly prot: number;
  /** Pins by hardware queues: they forbid unmapping. */
  locks = 0;
  /** Pins by accesses: their owners are asked to let go at unmap. */
  accesses = 0;
  preventAccess = false;
  /** Whether its pages are pinned for domains. */
  filled = false;

  readonly weight: number;
  left: Area | null = null;
  right: Area | null = null;
  /** The first byte of the subtree's first area, and the last of its last. */
  minPage: number;
  minOff: number;
  maxPage: number;
  maxOff: number;
  /** Bytes of the largest hole between two areas of the subtree. */
  gap = 0;

  /** @param weight what the tree sorts by: `AreaTree.nextWeight()`. */
  constructor(parts: AreaParts, weight: number) {
    const { start, last } = parts;
    this.startPage = Number(start >> 12n);
    this.startOff = Number(start & 0xfffn);
    this.lastPage = Number(last >> 12n);
    this.lastOff = Number(last & 0xfffn);
    this.pages = parts.pages;
    this.startByte = parts.startByte;
    this.prot = parts.prot;
    this.weight = weight;
    this.minPage = this.startPage;
    this.minOff = this.startOff;
    this.maxPage = this.lastPage;
    this.maxOff = this.lastOff;
  }

  get start(): bigint {
    return (BigInt(this.startPage) << 12n) | BigInt(this.startOff);
  }
  get last(): bigint {
    return (BigInt(this.lastPage) << 12n) | BigInt(this.lastOff);
  }
  /** Bytes; below 2^53 for anything that can be backed by memory. */
  get length(): number {
    return (this.lastPage - this.startPage) * PAGE + this.lastOff - this.startOff + 1;
  }
}

/** -1, 0, 1: how (page, off) lies to the other. */
function order(aPage: number, aOff: number, bPage: number, bOff: number): number {
  return aPage - bPage || aOff - bOff;
}

/** Bytes between the last byte at one address and the first at another. Exact below 2^53; never too small by much above. */
function between(lastPage: number, lastOff: number, page: number, off: number): number {
  return (page - lastPage) * PAGE + off - lastOff - 1;
}

/** Whether a hole of `room` bytes is certainly too small: beyond exact numbers nothing is certain. */
function tooSmall(room: number, bytes: number): boolean {
  return room < bytes && room < EXACT;
}

function update(n: Area): void {
  const { left, right } = n;
  let gap = 0;
  if (left === null) {
    n.minPage = n.startPage;
    n.minOff = n.startOff;
  } else {
    gap = Math.max(left.gap, between(left.maxPage, left.maxOff, n.startPage, n.startOff));
    n.minPage = left.minPage;
    n.minOff = left.minOff;
  }
  if (right === null) {
    n.maxPage = n.lastPage;
    n.maxOff = n.lastOff;
  } else {
    gap = Math.max(gap, right.gap, between(n.lastPage, n.lastOff, right.minPage, right.minOff));
    n.maxPage = right.maxPage;
    n.maxOff = right.maxOff;
  }
  n.gap = gap;
}

function merge(a: Area | null, b: Area | null): Area | null {
  if (a === null) return b;
  if (b === null) return a;
  if (a.weight > b.weight) {
    a.right = merge(a.right, b);
    update(a);
    return a;
  }
  b.left = merge(a, b.left);
  update(b);
  return b;
}

/** Whether the hole [page:off, lastPage:lastOff] serves; called from the lowest hole up. */
export type HoleTest = (page: number, off: number, lastPage: number, lastOff: number) => boolean;

/**
 * The areas of one IOAS, disjoint, in a treap that also knows the holes between them: insertion, removal, lookup and the
 * search for a hole take logarithmic time.
 */
export class AreaTree {
  #root: Area | null = null;
  #size = 0;
  #seed = 0x2545_f491;
  #below: Area | null = null;
  #above: Area | null = null;

  get size(): number {
    return this.#size;
  }

  /** A weight for a new area (deterministic, so that runs repeat). */
  nextWeight(): number {
    let s = this.#seed;
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    this.#seed = s;
    return s;
  }

  insert(area: Area): void {
    this.#split(this.#root, area.startPage, area.startOff);
    update(area);
    this.#root = merge(merge(this.#below, area), this.#above);
    this.#size++;
  }

  /** Splits at a start address: what begins below goes to #below, the rest to #above. */
  #split(n: Area | null, page: number, off: number): void {
    if (n === null) {
      this.#below = null;
      this.#above = null;
      return;
    }
    if (order(n.startPage, n.startOff, page, off) < 0) {
      this.#split(n.right, page, off);
      n.right = this.#below;
      update(n);
      this.#below = n;
    } else {
      this.#split(n.left, page, off);
      n.left = this.#above;
      update(n);
      this.#above = n;
    }
  }

  remove(area: Area): void {
    this.#root = this.#without(this.#root, area);
    area.left = null;
    area.right = null;
    this.#size--;
  }

  #without(n: Area | null, area: Area): Area | null {
    if (n === null || n === area) return n === null ? null : merge(n.left, n.right);
    if (order(area.startPage, area.startOff, n.startPage, n.startOff) < 0) n.left = this.#without(n.left, area);
    else n.right = this.#without(n.right, area);
    update(n);
    return n;
  }

  /** The lowest area that ends at or behind the address. */
  firstFrom(page: number, off: number): Area | null {
    let best: Area | null = null;
    for (let n = this.#root; n !== null; ) {
      if (order(n.lastPage, n.lastOff, page, off) >= 0) {
        best = n;
        n = n.left;
      } else n = n.right;
    }
    return best;
  }

  /** The lowest area that touches [start, last]. */
  first(start: bigint, last: bigint): Area | null {
    const a = this.firstFrom(Number(start >> 12n), Number(start & 0xfffn));
    if (a === null) return null;
    return order(a.startPage, a.startOff, Number(last >> 12n), Number(last & 0xfffn)) <= 0 ? a : null;
  }

  next(area: Area): Area | null {
    return area.lastOff === PAGE - 1
      ? this.firstFrom(area.lastPage + 1, 0)
      : this.firstFrom(area.lastPage, area.lastOff + 1);
  }

  *[Symbol.iterator](): IterableIterator<Area> {
    for (let a = this.firstFrom(0, 0); a !== null; a = this.next(a)) yield a;
  }

  /**
   * The lowest hole of [start, last] that passes `test`. @param bytes holes that are certainly smaller are not offered.
   */
  findHole(start: bigint, last: bigint, bytes: number, test: HoleTest): boolean {
    const lo = [Number(start >> 12n), Number(start & 0xfffn)] as const;
    const hi = [Number(last >> 12n), Number(last & 0xfffn)] as const;
    const visit = (n: Area | null, fromPage: number, fromOff: number, toPage: number, toOff: number): boolean => {
      if (order(toPage, toOff, lo[0], lo[1]) < 0 || order(fromPage, fromOff, hi[0], hi[1]) > 0) return false;
      if (n === null) {
        if (order(fromPage, fromOff, toPage, toOff) > 0) return false;
        const clipLow = order(fromPage, fromOff, lo[0], lo[1]) < 0;
        const clipHigh = order(toPage, toOff, hi[0], hi[1]) > 0;
        return test(
          clipLow ? lo[0] : fromPage,
          clipLow ? lo[1] : fromOff,
          clipHigh ? hi[0] : toPage,
          clipHigh ? hi[1] : toOff,
        );
      }
      const before = between(fromPage, fromOff - 1, n.minPage, n.minOff);
      const behind = between(n.maxPage, n.maxOff, toPage, toOff + 1);
      if (tooSmall(Math.max(n.gap, before, behind), bytes)) return false;
      const endPage = n.startOff === 0 ? n.startPage - 1 : n.startPage;
      const endOff = n.startOff === 0 ? PAGE - 1 : n.startOff - 1;
      if (visit(n.left, fromPage, fromOff, endPage, endOff)) return true;
      const wrap = n.lastOff === PAGE - 1;
      return visit(n.right, wrap ? n.lastPage + 1 : n.lastPage, wrap ? 0 : n.lastOff + 1, toPage, toOff);
    };
    return visit(this.#root, 0, 0, 2 ** 52 - 1, PAGE - 1);
  }
}
