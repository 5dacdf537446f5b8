import { POW2 } from '../core/bits.ts';
import { type Caches, type CacheTag, type LeftRoot, matches, touches, walks } from './caches.ts';
import { isWhole, type SeenInvalidation, type StaleEntry } from './stale.ts';

/** How the parts of a tag and of an invalidation are called on one architecture, by stage kind. */
export interface TagWords {
  readonly a: string;
  readonly b: string;
  /** Both stages together: what does not reach them, a clause. */
  readonly together?: string;
}

/** An invalidation that was meant for an entry and did not reach it. */
export interface Miss {
  readonly by: SeenInvalidation;
  /** What is wrong with it, a clause. */
  readonly why: string;
  readonly kind: string;
}

/** At most this many stale neighbours are looked at to tell one unmapped range from two. */
const NEIGHBOURS = 512;

/**
 * The invalidation that was meant for a stale entry and did not reach it, judged by what was issued right after the tables
 * changed: an invalidation that reached nothing else, or only the neighbours of the entry. Null: none was meant for it.
 */
export function nearestMiss(caches: Caches, tag: CacheTag, e: StaleEntry, words: TagWords): Miss | null {
  if (caches.cameEarly(tag, e)) return null;
  for (const i of caches.since(e.event)) {
    const why = miss(caches, i, tag, e, words);
    if (why === null) continue;
    i.missed = true;
    return why;
  }
  return null;
}

/**
 * The invalidation that was meant for everything below a root that went, and did not reach it: it stands behind the one that
 * made hardware forget the way there, and reached nothing. Null: none was meant for it.
 */
export function nearestMissOfRoot(caches: Caches, tag: CacheTag, left: LeftRoot, words: TagWords): Miss | null {
  for (const i of caches.behind(left.since)) {
    if (i.reached > 0) continue;
    if (matches(i, tag)) {
      if (!isWhole(i)) return { by: i, kind: 'range', why: `it names some pages of many: ${range(i)} only` };
      continue;
    }
    const meant = i.batch <= left.batch + 1 && isWhole(i) && ((i.stages >>> tag.stage) & 1) !== 0;
    if (meant && !caches.forMoved(i)) return otherTag(i, tag, words);
  }
  return null;
}

function miss(caches: Caches, i: SeenInvalidation, tag: CacheTag, e: StaleEntry, words: TagWords): Miss | null {
  const near = i.batch <= e.batch + 1;
  if (matches(i, tag)) {
    if (touches(i, e)) {
      if (e.table && i.leafOnly)
        return { by: i, kind: 'leaf', why: 'it names the last level only, and a table entry above it is gone' };
      if (i.granule !== 0 && i.granule !== e.granule) return { by: i, kind: 'granule', why: granules(i, e) };
      if (e.table && !walks(i, e))
        return {
          by: i,
          kind: 'level',
          why: `its level hint says 2^${i.shift} bytes, and the table entry is not above it`,
        };
      if (e.table) return null;
      if (i.keepsGlobal && e.global)
        return { by: i, kind: 'global', why: `invalidation by ${words.b} does not reach global entries` };
      if (i.shift !== 0 && i.shift !== e.level)
        return { by: i, kind: 'level', why: `its level hint says 2^${i.shift} bytes, the entry was of 2^${e.level}` };
      return null;
    }
    if (isWhole(i) || i.batch !== e.batch) return null;
    if (e.late ? isOneRange(i, tag, e) && meantForBoth(i, tag, e) : i.reached === 0 || neighbours(i, tag, e))
      return { by: i, kind: 'range', why: `it ends before the page: ${range(i)} only` };
    return null;
  }
  // What was meant for the second stage names intermediate addresses.
  if (words.together !== undefined && i.b < 0 && i.a === tag.a)
    return near && e.middle >= i.from && e.middle <= i.to ? { by: i, kind: 'together', why: words.together } : null;
  // Another tag: meant for this entry only if it reached nothing of its own, and came at once or names what nobody has.
  if (i.reached > 0 || !touches(i, e) || (!near && caches.named(i)) || caches.forMoved(i)) return null;
  const stage = ((i.stages >>> tag.stage) & 1) !== 0;
  if (!stage) return isWhole(i) ? null : { by: i, kind: 'stage', why: 'it is for another stage of translation' };
  return otherTag(i, tag, words);
}

function otherTag(i: SeenInvalidation, tag: CacheTag, words: TagWords): Miss {
  if (i.a >= 0 && i.a !== tag.a)
    return { by: i, kind: words.a, why: `it names ${words.a} ${i.a}, the entry has ${words.a} ${tag.a}` };
  return { by: i, kind: words.b, why: `it names ${words.b} ${i.b}, the entry has ${words.b} ${tag.b}` };
}

/** Pages between invalidation and entry, in pages of the entry's size. */
function gapOf(i: SeenInvalidation, e: StaleEntry): number {
  const pages = POW2[e.shift - 12]!;
  return e.base > i.to ? (e.base - i.to - 1) / pages : (i.from - e.base) / pages - 1;
}

/** Whether nothing but stale pages of one loop lies between invalidation and entry. */
function isOneRange(i: SeenInvalidation, tag: CacheTag, e: StaleEntry): boolean {
  const gap = gapOf(i, e);
  if (gap > NEIGHBOURS) return false;
  // What lies between was found before.
  if (i.missed) return true;
  const pages = POW2[e.shift - 12]!;
  for (let n = 1; n <= gap; n++) {
    const between = tag.stale.get(e.base > i.to ? e.base - n * pages : e.base + n * pages, e.shift, e.table);
    if (between === undefined || between.batch !== e.batch) return false;
  }
  return true;
}

/** Whether invalidation and entry belong to one unmapped range, which was cleared in one loop. */
function neighbours(i: SeenInvalidation, tag: CacheTag, e: StaleEntry): boolean {
  const slack = 4 * (gapOf(i, e) + 1);
  return e.event >= i.firstEvent - slack && e.event <= i.lastEvent + slack && isOneRange(i, tag, e);
}

/**
 * Whether a larger invalidation, of all pages of the smallest aligned block around it and the entry, would have been one for
 * what went from the tables and for nothing else. Pages that are told together were not all cleared together: another range
 * that was invalidated by itself lies in such a block by chance only.
 */
function meantForBoth(i: SeenInvalidation, tag: CacheTag, e: StaleEntry): boolean {
  const pages = POW2[e.shift - 12]!;
  let size = pages;
  let first = i.from;
  do {
    size *= 2;
    first = i.from - (i.from % size);
  } while (first + size <= Math.max(i.to, e.base) || first > e.base);
  if (size / pages > NEIGHBOURS) return false;
  for (let page = first; page < first + size; page += pages) {
    if ((page >= i.from && page <= i.to) || page === e.base) continue;
    // Or was found before.
    if (!i.missed && tag.stale.get(page, e.shift, e.table)?.batch !== e.batch) return false;
  }
  return true;
}

function granules(i: SeenInvalidation, e: StaleEntry): string {
  return `its TG says a granule of 2^${i.granule} bytes, the tables have 2^${e.granule}`;
}

function range(i: SeenInvalidation): string {
  const to = (i.to + 1) * 4096 - 1;
  return `0x${(i.from * 4096).toString(16)} to 0x${to.toString(16)}`;
}
