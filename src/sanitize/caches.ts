import { POW2 } from '../core/bits.ts';
import type { Course } from './course.ts';
import { isWhole, type SeenInvalidation, type StaleEntry, StaleSet } from './stale.ts';

/** How many invalidations are remembered to say which one was meant for an entry it did not reach. */
const REMEMBERED = 8192;
/** How many times that a tag's tables came or went are remembered. */
const MOVES = 32;

/** Everything hardware may cache under one tag: an ASID of a VMID, a VMID, a domain id, a PASID of a domain id. */
export class CacheTag {
  readonly stage: number;
  /** VMID or domain id; ASID or PASID, -1: none. */
  readonly a: number;
  readonly b: number;
  readonly stale = new StaleSet();
  /** Root tables whose entries hardware may hold although nothing leads to them any more: root page number to event. */
  readonly left = new Map<number, LeftRoot>();
  /** Tables in use under this tag, and whether there ever were. */
  users = 0;
  taken = false;
  /** Sequence number of the last whole invalidation issued for it; -1: none. */
  flushed = -1;
  /** Number of the event that issued it. */
  flushedAt = -1;
  /** Invalidations by address that reached a leaf so far. */
  ranged = 0;
  /** Doorbells rung when tables came into use under it or went: the last times. */
  readonly #moves: number[] = [];

  constructor(stage: number, a: number, b: number) {
    this.stage = stage;
    this.a = a;
    this.b = b;
  }

  /** Tables come into use under it, or go. */
  moved(batch: number): void {
    if (this.#moves.push(batch) > MOVES) this.#moves.shift();
  }

  /** Whether tables came or went about then. */
  movedAt(batch: number): boolean {
    return this.#moves.some((b) => Math.abs(b - batch) <= 1);
  }
}

/** A root that was taken out of use. */
export interface LeftRoot {
  readonly root: number;
  readonly event: number;
  readonly batch: number;
  /** Sequence number of the invalidation that made hardware forget the way there; Infinity: it was cut off. */
  readonly since: number;
  seq: number;
  issued: number;
}

/**
 * What any legal hardware may still hold of translations, indexed by tag and page: nothing is there but what differs
 * from the tables, so the work of an invalidation is paid by the stores that made entries stale.
 */
export class Caches {
  readonly #course: Course;
  readonly #tags = new Map<number, CacheTag>();
  /** Issued, not yet completed: in order. */
  #pending: { readonly tag: CacheTag; readonly e: StaleEntry | LeftRoot; readonly seq: number }[] = [];
  #head = 0;
  readonly #log: SeenInvalidation[] = [];
  #logged = 0;
  #completed = -1;

  constructor(course: Course) {
    this.#course = course;
  }

  /** Whether an invalidation that covers the entry counts: those of functions must not come too early. */
  mayReach: (e: StaleEntry) => boolean = () => true;

  /** @param b -1: none. */
  tag(stage: number, a: number, b: number): CacheTag {
    const key = (stage * 0x10_0000 + a) * 0x20_0000 + b + 1;
    let tag = this.#tags.get(key);
    if (tag === undefined) {
      tag = new CacheTag(stage, a, b);
      this.#tags.set(key, tag);
    }
    return tag;
  }

  *tags(): IterableIterator<CacheTag> {
    yield* this.#tags.values();
  }

  /** An invalidation was issued. */
  invalidate(i: SeenInvalidation): void {
    i.event = this.#course.event;
    i.batch = this.#course.batch;
    i.reached = 0;
    if (i.a >= 0 && i.b >= 0) {
      for (let stage = 0; stage < 8; stage++) if ((i.stages >>> stage) & 1) this.#reach(this.tag(stage, i.a, i.b), i);
    } else {
      for (const tag of this.#tags.values()) if (matches(i, tag)) this.#reach(tag, i);
    }
    this.#log[this.#logged++ % REMEMBERED] = i;
  }

  #reach(tag: CacheTag, i: SeenInvalidation): void {
    const whole = isWhole(i);
    if (whole && !i.leafOnly) {
      tag.flushed = i.seq;
      tag.flushedAt = i.event;
      for (const left of tag.left.values()) this.#issue(tag, left, i);
    }
    let leaves = 0;
    tag.stale.overlapping(i.from, i.to, (e) => {
      if (e.seq >= 0 || !covers(i, e) || !this.mayReach(e)) return;
      if (!e.table) leaves++;
      i.reached++;
      if (i.reached === 1) i.firstEvent = e.event;
      i.lastEvent = e.event;
      this.#issue(tag, e, i);
    });
    if (leaves > 0 && !whole) tag.ranged++;
  }

  #issue(tag: CacheTag, e: StaleEntry | LeftRoot, i: SeenInvalidation): void {
    if (e.seq >= 0) return;
    e.seq = i.seq;
    e.issued = i.event;
    if (!('root' in e)) {
      e.issuedBatch = i.batch;
      e.unbroken?.(i.event);
    }
    this.#pending.push({ tag, e, seq: i.seq });
  }

  /** Everything issued up to sequence number `seq` has taken effect. */
  complete(seq: number): void {
    this.#completed = Math.max(this.#completed, seq);
    const pending = this.#pending;
    while (this.#head < pending.length && pending[this.#head]!.seq <= seq) {
      const { tag, e } = pending[this.#head++]!;
      if ('root' in e) {
        if (tag.left.get(e.root) === e) tag.left.delete(e.root);
      } else {
        e.done = true;
        tag.stale.delete(e);
      }
    }
    if (this.#head > 1024 && this.#head * 2 > pending.length) {
      this.#pending = pending.slice(this.#head);
      this.#head = 0;
    }
  }

  /** Whether the last whole invalidation of the tag, if there was one, has not completed yet. */
  flushing(tag: CacheTag): boolean {
    return tag.flushed > this.#completed;
  }

  /** Whether an invalidation issued after event `since` covers the entry. Undecided (too long ago): yes. */
  coveredSince(tag: CacheTag, e: StaleEntry, since: number): boolean {
    for (let n = this.#logged - 1; n >= Math.max(0, this.#logged - REMEMBERED); n--) {
      const i = this.#log[n % REMEMBERED]!;
      if (i.event <= since) return false;
      if (matches(i, tag) && covers(i, e)) return true;
    }
    return this.#logged > REMEMBERED;
  }

  /** The invalidations issued after event `since`, oldest first, as far as they are remembered. */
  *since(since: number): IterableIterator<SeenInvalidation> {
    let from = Math.max(0, this.#logged - REMEMBERED);
    for (let to = this.#logged; from < to; ) {
      const middle = (from + to) >>> 1;
      if (this.#log[middle % REMEMBERED]!.event > since) to = middle;
      else from = middle + 1;
    }
    for (let n = from; n < this.#logged; n++) yield this.#log[n % REMEMBERED]!;
  }

  /** The invalidations behind sequence number `seq`, newest first, as far as they are remembered. */
  *behind(seq: number): IterableIterator<SeenInvalidation> {
    for (let n = this.#logged - 1; n >= Math.max(0, this.#logged - REMEMBERED); n--) {
      const i = this.#log[n % REMEMBERED]!;
      if (i.seq <= seq) return;
      yield i;
    }
  }

  /** Whether an invalidation of single pages, issued right before an entry was changed, found it still as it was. */
  cameEarly(tag: CacheTag, e: StaleEntry): boolean {
    const pages = POW2[e.shift - 12]!;
    for (let n = this.#logged - 1; n >= Math.max(0, this.#logged - REMEMBERED); n--) {
      const i = this.#log[n % REMEMBERED]!;
      if (i.event > e.event) continue;
      if (i.batch + 1 < e.batch) return false;
      if (!isWhole(i) && matches(i, tag) && touches(i, e) && i.reached * pages < i.to - i.from + 1) return true;
    }
    return false;
  }

  /** Whether the tags an invalidation names have or had tables. */
  named(i: SeenInvalidation): boolean {
    for (const tag of this.#tags.values()) if (tag.taken && matches(i, tag)) return true;
    return false;
  }

  /** Whether tables under a tag the invalidation names came or went about when it was issued: it was meant for those. */
  forMoved(i: SeenInvalidation): boolean {
    for (const tag of this.#tags.values()) if (matches(i, tag) && tag.movedAt(i.batch)) return true;
    return false;
  }

  /** Nothing is cached any more (reset). */
  clear(): void {
    for (const tag of this.#tags.values()) {
      tag.stale.clear();
      tag.left.clear();
    }
    this.#pending = [];
    this.#head = 0;
    this.#logged = 0;
  }
}

export function matches(i: SeenInvalidation, tag: CacheTag): boolean {
  return ((i.stages >>> tag.stage) & 1) !== 0 && (i.a < 0 || i.a === tag.a) && (i.b < 0 || i.b === tag.b);
}

/** Whether the address range of an invalidation touches the entry. */
export function touches(i: SeenInvalidation, e: StaleEntry): boolean {
  return e.base <= i.to && e.base + POW2[e.shift - 12]! > i.from;
}

/** Whether the entry (of a tag that matches) is gone once the invalidation is complete. Notes what it did to a table. */
function covers(i: SeenInvalidation, e: StaleEntry): boolean {
  if (!touches(i, e)) return false;
  if (i.keepsGlobal && e.global) return false;
  if (i.granule !== 0 && i.granule !== e.granule) return false;
  if (!e.table) return i.shift === 0 || i.shift === e.level;
  if (walks(i, e)) e.walked = true;
  if (!e.below) {
    const pages = POW2[e.shift - 12]!;
    if (i.from <= e.base && i.to >= e.base + pages - 1) e.below = true;
    else e.below = part(e, Math.max(0, i.from - e.base), Math.min(pages - 1, i.to - e.base), pages);
  }
  return e.walked && e.below;
}

/** Whether an invalidation reaches walk caches that hold this entry: not beyond the level it names (IHI 0070 §4.4.1.1). */
export function walks(i: SeenInvalidation, e: StaleEntry): boolean {
  return !i.leafOnly && (i.shift === 0 || e.shift > i.shift);
}

/** Marks the parts wholly inside [from, to] (pages from the base). @returns whether no part is left. */
function part(e: StaleEntry, from: number, to: number, pages: number): boolean {
  const each = pages / 512;
  e.parts ??= new Uint32Array(16);
  const last = Math.floor((to + 1) / each) - 1;
  for (let n = Math.ceil(from / each); n <= last; n++) e.parts[n >>> 5] = e.parts[n >>> 5]! | (1 << (n & 31));
  return e.parts.every((w) => w === 0xffff_ffff);
}
