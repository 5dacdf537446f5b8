import type { Caches, LeftRoot } from './caches.ts';
import type { Course } from './course.ts';
import { nearestMissOfRoot, type TagWords } from './reach.ts';
import type { TranslationTree } from './tree.ts';
import type { TagListener, Trees } from './trees.ts';

/** The rules about tags: one ASID, VMID, domain id or PASID stands for one set of tables at a time. */
export class TagsInUse implements TagListener {
  readonly #course: Course;
  readonly #caches: Caches;
  readonly #words: (stage: number) => TagWords;
  /** Whether memory (not only a cached copy) leads to the tree. */
  readonly #current: (tree: TranslationTree) => boolean;
  trees: Trees | null = null;

  constructor(
    course: Course,
    caches: Caches,
    words: (stage: number) => TagWords,
    current: (tree: TranslationTree) => boolean,
  ) {
    this.#course = course;
    this.#caches = caches;
    this.#words = words;
    this.#current = current;
  }

  taken(tree: TranslationTree, replaces: TranslationTree | null): void {
    const { tag } = tree;
    const { findings, event } = this.#course;
    const name = this.#name(tree);
    for (const other of this.trees?.of(tag) ?? []) {
      if (other === tree || other.root === tree.root) continue;
      const [stream] = other.streams;
      if (other === replaces) {
        // What an entry says between two stores of one change is no use of the tag: whether it can be read is another rule's.
        if (!other.mapped || other.batch === this.#course.batch) continue;
        // Only a cached copy of what was not invalidated leads there: that is the fault.
        if (!this.#current(other)) continue;
        const issued = tag.flushedAt;
        if (issued > other.since && this.#caches.flushing(tag))
          this.#early(tree, name, { root: other.root, event: other.since, issued, seq: tag.flushed });
        else this.#reused(tree, name, other.root, other.since);
        continue;
      }
      if (this.#current(other)) {
        findings.add('tag-shared', {
          stream,
          pasid: other.pasid < 0 ? undefined : other.pasid,
          kind: name,
          events: [other.since, event],
          message: `${name} stands for the tables at ${at(other)} and at ${at(tree)} at once: hardware may use either for both; give each its own`,
        });
        return;
      }
      // Its translations were flushed: what is still there of it is the way to it, which is another rule's.
      if (tag.flushedAt <= other.since) this.#reused(tree, name, other.root, other.since);
      return;
    }
    for (const left of tag.left.values()) {
      if (left.root === tree.root) continue;
      if (left.seq >= 0) this.#early(tree, name, left);
      else if (!this.#missed(tree, name, left)) this.#reused(tree, name, left.root, left.event);
      tag.left.delete(left.root);
      return;
    }
  }

  #early(tree: TranslationTree, name: string, left: Pick<LeftRoot, 'root' | 'event' | 'issued' | 'seq'>): void {
    this.#course.notAwaited(left.seq, {
      pasid: tree.pasid < 0 ? undefined : tree.pasid,
      kind: name,
      events: [left.event, left.issued, this.#course.event],
      message: `${name} got the tables at ${at(tree)} before the invalidation of what was cached of those at ${HEX(left.root * 4096)} had completed: wait for it`,
    });
  }

  /** What was to invalidate the old tables' translations did not reach them. @returns found. */
  #missed(tree: TranslationTree, name: string, left: LeftRoot): boolean {
    const miss = nearestMissOfRoot(this.#caches, tree.tag, left, this.#words(tree.tag.stage));
    if (miss === null) return false;
    this.#course.findings.add('invalidation-too-small', {
      pasid: tree.pasid < 0 ? undefined : tree.pasid,
      kind: `${name} ${miss.kind}`,
      events: [left.event, miss.by.event, this.#course.event],
      message: `${name} got the tables at ${at(tree)}, and the invalidation before did not reach what is cached of those at ${HEX(left.root * 4096)}: ${miss.why}`,
    });
    return true;
  }

  #reused(tree: TranslationTree, name: string, root: number, since: number): void {
    const old = HEX(root * 4096);
    this.#course.findings.add('tag-reused', {
      pasid: tree.pasid < 0 ? undefined : tree.pasid,
      kind: name,
      events: [since, this.#course.event],
      message: `${name} got the tables at ${at(tree)} while translations of those at ${old} may be cached: invalidate all of it and wait first`,
    });
  }

  #name(tree: TranslationTree): string {
    const { tag } = tree;
    const words = this.#words(tag.stage);
    if (tag.b < 0) return `${words.a} ${tag.a}`;
    return words.a === 'VMID' && tag.a === 0 ? `${words.b} ${tag.b}` : `${words.b} ${tag.b} of ${words.a} ${tag.a}`;
  }
}

const HEX = (n: number) => `0x${n.toString(16)}`;

function at(tree: TranslationTree): string {
  return HEX(tree.root * 4096);
}
