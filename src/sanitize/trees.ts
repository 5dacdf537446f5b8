import type { CacheTag } from './caches.ts';
import type { Course } from './course.ts';
import { ENTRY, type TableFormat } from './formats.ts';
import type { TrackedMemory } from './memory.ts';
import { LeavesByOutput } from './outputs.ts';
import { TranslationTree, type TreeListener } from './tree.ts';

/** A start table: bytes, entries, log2 bytes of each, first input page. */
export interface Top {
  readonly address: number;
  readonly entries: number;
  readonly shift: number;
  readonly base: number;
}

/** What makes two configurations use one tree. */
export interface TreeSpec {
  readonly tag: CacheTag;
  readonly format: TableFormat;
  readonly tops: readonly Top[];
  readonly pasid: number;
  /** It is told late: the order of what happened to tags is not known. */
  readonly late: boolean;
  /** What the same configuration entry led to before. */
  readonly replaces: TranslationTree | null;
  /** A stage over a guest's own second stage: that, where hardware holds what both say, and where a page of a table is. */
  readonly nested?: Nesting | undefined;
}

/** See `TreeSpec`. */
export interface Nesting {
  readonly below: TranslationTree;
  readonly together: CacheTag;
  readonly locate: (pfn: number) => number;
}

/** Hears when a tag gets tables, and which others it has or had. */
export interface TagListener {
  /** @param replaces what the same configuration entry led to before. */
  taken(tree: TranslationTree, replaces: TranslationTree | null): void;
}

interface Held {
  readonly tree: TranslationTree;
  users: number;
  readonly below: TranslationTree | null;
}

/** The trees in use. A tree lives as long as some configuration leads to it, one that is only cached included. */
export class Trees {
  readonly #course: Course;
  readonly #memory: TrackedMemory;
  readonly #listener: TreeListener;
  readonly #tags: TagListener;
  readonly #held = new Map<string, Held>();
  /** Every tree there was, as long as something of it may be cached. */
  readonly #byTag = new Map<CacheTag, Set<TranslationTree>>();

  constructor(course: Course, memory: TrackedMemory, listener: TreeListener, tags: TagListener) {
    this.#course = course;
    this.#memory = memory;
    this.#listener = listener;
    this.#tags = tags;
  }

  acquire(spec: TreeSpec): TranslationTree {
    const { tag, format, tops } = spec;
    const shape = tops.map((t) => `${t.address}/${t.shift}/${t.base}/${t.entries}`).join();
    const key = `${tag.stage}/${tag.a}/${tag.b}/${format.name}/${format.tableShift}/${shape}/${spec.pasid}`;
    let held = this.#held.get(key);
    if (held === undefined) {
      const root = Math.floor((tops[0]?.address ?? 0) / 4096);
      const tree = new TranslationTree(
        tag,
        format,
        root,
        spec.pasid,
        this.#memory,
        this.#listener,
        spec.nested?.locate,
      );
      if (spec.nested !== undefined) {
        spec.nested.below.over.set(tree, spec.nested.together);
        tree.outputs = new LeavesByOutput();
      }
      held = { tree, users: 0, below: spec.nested?.below ?? null };
      this.#held.set(key, held);
      this.#of(tag).add(tree);
      tree.key = key;
      tree.since = this.#course.event;
      tree.batch = this.#course.batch;
      if (!spec.late) this.#tags.taken(tree, spec.replaces);
      tag.left.delete(root);
      tree.entering = true;
      for (const t of tops) tree.top(t.address, t.entries, t.shift, t.base);
      tree.entering = false;
      tag.users++;
      tag.taken = true;
      tag.moved(this.#course.batch);
    }
    held.users++;
    return held.tree;
  }

  /** @param since sequence number of the invalidation that made hardware forget the way to the tree; none: it was cut off. */
  release(tree: TranslationTree, since = Number.POSITIVE_INFINITY): void {
    const held = this.#held.get(tree.key);
    if (held === undefined || held.tree !== tree || --held.users > 0) return;
    this.#held.delete(tree.key);
    this.#of(tree.tag).delete(tree);
    held.below?.over.delete(tree);
    tree.tag.users--;
    tree.tag.moved(this.#course.batch);
    tree.close();
    // What was flushed behind that invalidation cannot come back.
    if (tree.mapped && tree.tag.flushed <= since) {
      const { event, batch } = this.#course;
      tree.tag.left.set(tree.root, { root: tree.root, event, batch, since, seq: -1, issued: -1 });
    }
  }

  /** Trees in use under a tag. */
  of(tag: CacheTag): ReadonlySet<TranslationTree> {
    return this.#of(tag);
  }

  #of(tag: CacheTag): Set<TranslationTree> {
    let set = this.#byTag.get(tag);
    if (set === undefined) {
      set = new Set();
      this.#byTag.set(tag, set);
    }
    return set;
  }

  *all(): IterableIterator<TranslationTree> {
    for (const h of this.#held.values()) yield h.tree;
  }

  clear(): void {
    for (const h of this.#held.values()) h.tree.close();
    this.#held.clear();
    this.#byTag.clear();
  }
}

/** Where intermediate pages are, by a second stage; -1: not mapped. */
export function through(below: TranslationTree): (pfn: number) => number {
  return (pfn) => {
    below.walk(pfn);
    return below.kind === ENTRY.LEAF ? below.out : -1;
  };
}
