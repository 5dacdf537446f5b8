import type { Caches, CacheTag } from './caches.ts';
import type { Course } from './course.ts';
import { addressOf } from './entry-changes.ts';
import type { Found } from './findings.ts';
import { nearestMiss, type TagWords } from './reach.ts';
import type { RuleId } from './rules.ts';
import { STALE, type StaleEntry } from './stale.ts';
import type { TranslationTree } from './tree.ts';

/** Submissions after that of an invalidation by which a driver that means to wait for it does so. */
const PATIENCE = 2;
/** A completion or two after which a driver that meant to invalidate would have done it. */
export const SETTLED = 2;

/** A page that was used after it was unmapped, and when. */
interface UsedPage {
  readonly tree: TranslationTree;
  readonly stream: number;
  readonly page: number;
  readonly e: StaleEntry;
  readonly event: number;
}

/** Says under which rule it falls that a translation may still be cached, and why. */
export class TranslationFindings {
  readonly #course: Course;
  readonly #caches: Caches;
  /** Uses of pages whose invalidation was under way. */
  #used: UsedPage[] = [];
  /** The driver was seen not to wait for an invalidation. */
  #impatient = false;
  readonly #words: (stage: number) => TagWords;

  /** @param words what the parts of a tag are called, by stage kind. */
  constructor(course: Course, caches: Caches, words: (stage: number) => TagWords) {
    this.#course = course;
    this.#caches = caches;
    this.#words = words;
  }

  /** @param what was done to the valid entry, a clause. */
  breakMissing(tree: TranslationTree, base: number, events: readonly number[], what: string): void {
    this.found('break-before-make', tree, base, events, {
      kind: what.slice(0, 12),
      message: `the valid entry of ${addressOf(base)} ${what}: make it invalid, invalidate and wait before the new one is written`,
    });
  }

  /** Something may still be cached that is not so any more, and now it matters. */
  violation(tree: TranslationTree, tag: CacheTag, e: StaleEntry, page: number, what?: string): void {
    tag.stale.delete(e);
    const words = this.#words(tag.stage);
    const where = `${addressOf(page)} (${tagText(tag, words)})`;
    const now = this.#course.event;
    const was =
      what ??
      (e.why === STALE.ABSENT
        ? `${where} was mapped`
        : e.table
          ? `${where} is mapped through a new table`
          : `${where} is mapped anew`);
    const held =
      e.why === STALE.ABSENT
        ? 'that nothing was there'
        : e.table
          ? 'the old table'
          : `the old mapping to ${addressOf(e.out)}`;
    if (e.seq >= 0) {
      const message = `${was} before the invalidation that covers it had completed: wait for it, hardware may still hold ${held}`;
      this.#impatient = true;
      this.#course.notAwaited(e.seq, { ...place(tree, page), events: [e.event, e.issued, now], message });
      return;
    }
    const miss = nearestMiss(this.#caches, tag, e, words);
    if (miss !== null) {
      this.found('invalidation-too-small', tree, page, [e.event, miss.by.event, now], {
        kind: miss.kind,
        message: `${was}, and the invalidation before did not reach it: ${miss.why}; hardware may still hold ${held}`,
      });
      return;
    }
    const rule: RuleId = e.why === STALE.ABSENT ? 'missing-notpresent-invalidation' : 'missing-invalidation';
    this.found(rule, tree, page, [e.event, now], {
      message: `${was} without an invalidation: invalidate it and wait, hardware may still hold ${held}`,
    });
  }

  /** Tables that processors walk as well (those of a PASID) get permissions by faults, which find out by themselves. */
  raised(tree: TranslationTree, e: StaleEntry): void {
    if (tree.pasid > 0 || e.seq >= 0 || e.completions + SETTLED > this.#course.completions) return;
    tree.tag.stale.delete(e);
    this.found('permissions-raised-without-invalidation', tree, e.base, [e.event, this.#course.event], {
      message: `${addressOf(e.base)} got more permissions without an invalidation: accesses may fault on the old ones`,
    });
  }

  /** Any rule about a page of a tree. */
  found(
    rule: RuleId,
    tree: TranslationTree,
    page: number,
    events: readonly number[],
    say: { readonly message: string; readonly kind?: string },
  ): void {
    this.#course.findings.add(rule, { ...place(tree, page), events, ...say });
  }

  /**
   * The function used a page that is not mapped any more. The driver let it, unless it invalidated the page and went on
   * without asking when that is done, or without looking: which of them is seen by what it does next.
   */
  afterUnmap(tree: TranslationTree, stream: number, page: number, e: StaleEntry): void {
    const { event, barrier } = this.#course;
    if (e.seq > barrier) this.#unawaited(tree, page, e);
    else if (e.seq >= 0) this.#used.push({ tree, stream, page, e, event });
    else this.#afterUnmap(stream, page, e, event);
  }

  /** What the driver did since pages were used whose invalidation was under way. @param last there is nothing more to come. */
  review(last = false): void {
    if (this.#used.length === 0) return;
    const open: UsedPage[] = [];
    for (const u of this.#used) {
      const late = this.#course.batch > u.e.issuedBatch + PATIENCE || (last && this.#impatient);
      if (!u.e.done && late) this.#unawaited(u.tree, u.page, u.e);
      else if (u.e.done || last) this.#afterUnmap(u.stream, u.page, u.e, u.event);
      else open.push(u);
    }
    this.#used = open;
  }

  #unawaited(tree: TranslationTree, page: number, e: StaleEntry): void {
    const { tag } = tree;
    const where = `${addressOf(page)} (${tagText(tag, this.#words(tag.stage))})`;
    this.violation(tree, tag, e, page, `unmapped ${where} was accessed`);
  }

  #afterUnmap(stream: number, page: number, e: StaleEntry, event: number): void {
    this.#course.findings.add('use-after-unmap', {
      stream,
      page,
      events: [e.event, event],
      message: `the function accessed ${addressOf(page)} after it was unmapped, when the translation may still be cached: stop the function before unmapping`,
    });
  }
}

function place(tree: TranslationTree, page: number): Pick<Found, 'stream' | 'pasid' | 'page'> {
  const [stream] = tree.streams;
  return { stream, pasid: tree.pasid < 0 ? undefined : tree.pasid, page };
}

function tagText(tag: CacheTag, words: TagWords): string {
  const b = tag.b < 0 ? '' : `${words.b} ${tag.b}`;
  const a = b !== '' && tag.a === 0 && words.a === 'VMID' ? '' : `${words.a} ${tag.a}`;
  return [b, a].filter((t) => t !== '').join(' of ');
}
