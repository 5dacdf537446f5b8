/** An inclusive range of IOVAs. */
export interface IovaRange {
  readonly start: bigint;
  readonly last: bigint;
}

export const IOVA_LAST = 0xffff_ffff_ffff_ffffn;

interface Counted extends IovaRange {
  count: number;
}

/**
 * Reserved regions: they may overlap, each belongs to an owner that takes all of its regions away at once. Many owners
 * reserve equal regions (every device behind one IOMMU its interrupt window), so equal ones are stored once, counted.
 */
export class ReservedRanges {
  readonly #owners = new Map<object, Counted[]>();
  /** Distinct regions by start, then last. */
  readonly #list: Counted[] = [];

  add(start: bigint, last: bigint, owner: object): void {
    let i = 0;
    while (i < this.#list.length && before(this.#list[i]!, start, last)) i++;
    let r = this.#list[i];
    if (r === undefined || r.start !== start || r.last !== last) {
      r = { start, last, count: 0 };
      this.#list.splice(i, 0, r);
    }
    r.count++;
    const mine = this.#owners.get(owner);
    if (mine === undefined) this.#owners.set(owner, [r]);
    else mine.push(r);
  }

  removeOwner(owner: object): void {
    const mine = this.#owners.get(owner);
    if (mine === undefined) return;
    this.#owners.delete(owner);
    for (const r of mine) if (--r.count === 0) this.#list.splice(this.#list.indexOf(r), 1);
  }

  intersects(start: bigint, last: bigint): boolean {
    return this.#list.some((r) => r.start <= last && start <= r.last);
  }

  /** The parts of [start, last] that are not reserved, ascending. */
  holes(start: bigint, last: bigint): IovaRange[] {
    const out: IovaRange[] = [];
    let at = start;
    for (const r of this.#list) {
      if (r.last < at) continue;
      if (r.start > last) break;
      if (r.start > at) out.push({ start: at, last: r.start - 1n });
      if (r.last >= last) return out;
      at = r.last + 1n;
    }
    out.push({ start: at, last });
    return out;
  }
}

function before(r: IovaRange, start: bigint, last: bigint): boolean {
  return r.start < start || (r.start === start && r.last < last);
}

/** Puts a range into a sorted list. @returns false, and the list is as it was, when it overlaps one that is there. */
export function insertDisjoint(sorted: IovaRange[], r: IovaRange): boolean {
  let lo = 0;
  let hi = sorted.length;
  while (lo < hi) {
    const mid = (lo + hi) >>> 1;
    if (sorted[mid]!.last < r.start) lo = mid + 1;
    else hi = mid;
  }
  const next = sorted[lo];
  if (next !== undefined && next.start <= r.last) return false;
  sorted.splice(lo, 0, { start: r.start, last: r.last });
  return true;
}

/** Sorted disjoint ranges with those that touch joined. */
export function joinRanges(sorted: readonly IovaRange[]): IovaRange[] {
  const out: IovaRange[] = [];
  for (const r of sorted) {
    const top = out.at(-1);
    if (top !== undefined && top.last + 1n === r.start) out[out.length - 1] = { start: top.start, last: r.last };
    else out.push(r);
  }
  return out;
}
