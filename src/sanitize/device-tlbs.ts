import { POW2 } from '../core/bits.ts';
import { Caches, type CacheTag } from './caches.ts';
import type { Course } from './course.ts';
import { ENTRY } from './formats.ts';
import { LeftTables } from './left-tables.ts';
import { nearestMiss } from './reach.ts';
import { type SeenInvalidation, STALE, type StaleEntry, wholeInvalidation } from './stale.ts';
import type { EntryChange, TranslationTree } from './tree.ts';

/** What the caches of functions need to know of the IOMMU. */
export interface DeviceTlbRules {
  /**
   * The PASIDs under which a function may hold what the tree says, as far as the IOMMU is told: -1 is none, nothing when ATS is
   * off. @param both what this stage says together with the one below it.
   */
  holds(stream: number, tree: TranslationTree, both: boolean): Iterable<number>;
  /** An invalidation of the function must stand behind a completed one of the IOMMU, not only behind it in the queue. */
  readonly afterSync: boolean;
}

/** Answers of `DeviceTlbRules.holds`. */
export const HOLDS_NOTHING: readonly number[] = [];
const PLAIN: readonly number[] = [-1];

/** What a function holds of a first stage, or one with a PASID of its own. @param plain the PASID of requests without one. */
export function heldUnder(pasid: number, plain: number): readonly number[] {
  return pasid === plain || pasid < 0 ? PLAIN : [pasid];
}

const WORDS = { a: 'stream', b: 'PASID' } as const;
/** Completions after which a driver that meant to invalidate would have done it: of the IOMMU, of the function, one more. */
const SETTLED = 3;

/** What functions with ATS on may still hold, by stream and PASID: a cache of its own behind the IOMMU's. */
export class DeviceTlbs {
  readonly #course: Course;
  readonly #caches: Caches;
  rules: DeviceTlbRules;
  /** Where a stream or PASID got other tables. */
  readonly left: LeftTables;

  constructor(course: Course, rules: DeviceTlbRules) {
    this.#course = course;
    this.rules = rules;
    this.left = new LeftTables(course);
    this.#caches = new Caches(course);
    this.#caches.mayReach = (e) => {
      const { twin } = e;
      if (twin === null || twin.done) return true;
      const ordered = twin.seq >= 0 && (!this.rules.afterSync || twin.seq < this.#course.barrier);
      if (!ordered) e.early = this.#course.event;
      return ordered;
    };
  }

  #tag(stream: number, pasid: number): CacheTag {
    return this.#caches.tag(0, stream, pasid + 1);
  }

  /** The tags under which functions may hold what the tree says. */
  *#tags(tree: TranslationTree, both: boolean): IterableIterator<CacheTag> {
    for (const stream of tree.streams)
      for (const pasid of this.rules.holds(stream, tree, both)) yield this.#tag(stream, pasid);
  }

  /** A stream is about to use other tables than these, or none, with ATS on. @param stream of one only; none: of all that use them. */
  replaced(tree: TranslationTree | null | undefined, stream?: number): void {
    if (tree === null || tree === undefined) return;
    for (const s of stream === undefined ? tree.streams : [stream])
      for (const pasid of this.rules.holds(s, tree, false)) this.left.add(s, pasid, tree);
  }

  /**
   * An entry was taken away. @param twin what the IOMMU may hold of it; null: nothing any more.
   * @param both it is of two stages together.
   */
  changed(c: EntryChange, twin: StaleEntry | null, e: StaleEntry, both = false): void {
    for (const tag of this.#tags(c.tree, both)) {
      // A function holds translations only, no tables: nothing is to be walked again.
      const copy: StaleEntry = {
        ...e,
        twin,
        walked: true,
        parts: null,
        seq: -1,
        issued: -1,
        issuedBatch: -1,
        early: -1,
        unbroken: null,
      };
      const { page } = c.node;
      if (page.late && this.#caches.coveredSince(tag, copy, page.since)) continue;
      if (!copy.table || !copy.below) tag.stale.add(copy);
    }
  }

  /** An entry came: what functions hold at its addresses must not say something else. @param told the IOMMU's copy was found already. */
  appears(c: EntryChange, told: boolean, both = false): void {
    for (const tag of this.#tags(c.tree, both)) {
      if (tag.stale.size === 0) continue;
      tag.stale.overlapping(c.base, c.base + POW2[c.shift - 12]! - 1, (e) => {
        if (!e.table && c.kind === ENTRY.TABLE && e.shift < c.shift) return;
        const same = !e.table && c.kind === ENTRY.LEAF && e.out - e.base === c.out - c.base && (e.perm & ~c.perm) === 0;
        const late = c.node.page.late && this.#caches.coveredSince(tag, e, c.node.page.since);
        if (same || late || told) tag.stale.delete(e);
        else this.#violation(c.tree, tag, e, c.base);
      });
    }
  }

  #violation(tree: TranslationTree, tag: CacheTag, e: StaleEntry, page: number): void {
    tag.stale.delete(e);
    // The IOMMU itself was never told: that is the fault, and another rule's.
    if (e.early >= 0 && e.twin !== null && e.twin.seq < 0 && !e.twin.done) return;
    const { findings, event } = this.#course;
    const where = `0x${(page * 4096).toString(16)}`;
    const stream = tag.a;
    const under = Math.max(tree.pasid, tag.b - 1);
    const pasid = under < 0 ? undefined : under;
    if (e.seq >= 0) {
      this.#course.notAwaited(e.seq, {
        stream,
        pasid,
        page,
        kind: 'device',
        events: [e.event, e.issued, event],
        message: `${where} is mapped anew before the function had confirmed its invalidation: wait for it`,
      });
    } else if (e.early >= 0) {
      findings.add('atc-before-iotlb', {
        stream,
        pasid,
        page,
        events: [e.event, e.early, event],
        message: `the function was told to forget ${where} before the IOMMU's own invalidation had completed, and can have fetched it again: invalidate the IOMMU first, then the function`,
      });
    } else {
      const miss = nearestMiss(this.#caches, tag, e, WORDS);
      if (miss !== null) {
        findings.add('invalidation-too-small', {
          stream,
          pasid,
          page,
          kind: `device ${miss.kind}`,
          events: [e.event, miss.by.event, event],
          message: `the invalidation of the function did not reach ${where}: ${miss.why}; the function may still hold the old mapping`,
        });
      } else {
        findings.add('missing-atc-invalidation', {
          stream,
          pasid,
          page,
          events: [e.event, event],
          message: `ATS is on, and the function was never told to forget ${where}: invalidate it behind the IOMMU's own invalidation`,
        });
      }
    }
  }

  /** @param pasid -1: requests without PASID only. @param from,to page numbers. @param every PASID as well. */
  invalidate(seq: number, stream: number, pasid: number, from: number, to: number, every: boolean): void {
    const i: SeenInvalidation = wholeInvalidation(seq, 1, stream, every ? -1 : pasid + 1);
    i.from = from;
    i.to = to;
    this.#caches.invalidate(i);
    this.left.invalidated(stream, pasid, from, to, every);
  }

  complete(seq: number): void {
    this.#caches.complete(seq);
  }

  /** Something of the stream may still be held, and was not told to be forgotten: the event that made it so; -1: nothing. */
  holds(stream: number): number {
    let event = -1;
    for (const tag of this.#caches.tags()) {
      if (tag.a !== stream) continue;
      tag.stale.all((e) => {
        if (e.seq < 0) event = e.event;
      });
    }
    return event;
  }

  finish(trees: Iterable<TranslationTree>): void {
    this.left.finish();
    for (const tree of trees) {
      for (const tag of this.#tags(tree, false)) {
        tag.stale.all((e) => {
          if (e.seq >= 0 || e.why === STALE.RAISED || e.twin?.done === false) return;
          if (e.completions + SETTLED <= this.#course.completions) this.#violation(tree, tag, e, e.base);
        });
      }
    }
  }

  clear(): void {
    this.left.clear();
    this.#caches.clear();
  }
}

/** Pages of a device-TLB address with its size in it (PCIe ATS; VT-d §6.5.2.5): the lowest 0 bit from bit 12 up says how many. */
export function sizedRange(lo: number, hi: number, sized: boolean): readonly [from: number, to: number] {
  const page = (hi >>> 0) * 0x10_0000 + (lo >>> 12);
  if (!sized) return [page, page];
  let size = 2;
  for (let rest = page; rest % 2 === 1 && size < POW2[52]!; rest = (rest - 1) / 2) size *= 2;
  return size >= POW2[51]! ? [0, Number.POSITIVE_INFINITY] : [page - (page % size), page - (page % size) + size - 1];
}
