import { POW2 } from '../core/bits.ts';
import type { Course } from './course.ts';
import { isEmpty } from './entry-changes.ts';
import type { TranslationTree } from './tree.ts';

/** Completions after which a driver that meant to invalidate the function would have done it. */
const SETTLED = 3;

/** Tables a stream or PASID does not use any more while its function may hold what they say. */
interface Left {
  readonly stream: number;
  readonly pasid: number;
  /** Input pages of the tables. */
  readonly from: number;
  readonly to: number;
  readonly event: number;
  readonly completions: number;
}

/** The caches of functions where a stream or PASID gets other tables altogether, or none: they keep what the old ones said. */
export class LeftTables {
  readonly #course: Course;
  readonly #left = new Map<string, Left>();
  /** Somebody tells when ATS is switched in functions. */
  #told = false;

  constructor(course: Course) {
    this.#course = course;
  }

  /** @param pasid -1: requests without one. */
  add(stream: number, pasid: number, tree: TranslationTree): void {
    if (isEmpty(tree.tops, tree)) return;
    const key = `${stream}/${pasid}`;
    const { event, completions } = this.#course;
    const ends = tree.tops.map((t) => t.base + t.count * POW2[t.shift - 12]! - 1);
    const from = Math.min(...tree.tops.map((t) => t.base));
    if (!this.#left.has(key)) this.#left.set(key, { stream, pasid, from, to: Math.max(...ends), event, completions });
  }

  /** The function was told to forget [from, to] (page numbers). @param every with any PASID. */
  invalidated(stream: number, pasid: number, from: number, to: number, every: boolean): void {
    for (const [key, l] of this.#left) {
      if (l.stream !== stream || (!every && l.pasid !== pasid)) continue;
      if (from <= l.from && to >= l.to) this.#left.delete(key);
    }
  }

  /** ATS was switched in the function: what it held before counts no more. */
  switched(stream: number): void {
    this.#told = true;
    for (const [key, l] of this.#left) if (l.stream === stream) this.#left.delete(key);
  }

  clear(): void {
    this.#left.clear();
  }

  finish(): void {
    const { findings, event, completions } = this.#course;
    for (const l of this.#left.values()) {
      if (l.completions + SETTLED > completions) continue;
      if (!this.#told) {
        findings.cannotJudge(
          'missing-atc-invalidation',
          'configuration space was not recorded: whether ATS was still on in functions whose tables were replaced',
        );
        return;
      }
      findings.add('missing-atc-invalidation', {
        stream: l.stream,
        pasid: l.pasid < 0 ? undefined : l.pasid,
        kind: 'tables',
        events: [l.event, event],
        message:
          'ATS is on, and the function was never told to forget what the tables said that its stream or PASID had before: invalidate all of it',
      });
    }
  }
}
