import type { Course } from './course.ts';
import type { TrackedPage } from './memory.ts';

/** What an entry said after each store, and the word that was stored last. */
interface Trail {
  readonly steps: Int32Array[];
  last: number;
}

/** Follows the stores to entries of several words, to look at each entry as a whole and at the way it went there. */
export class EntryTrails {
  readonly #course: Course;
  readonly #pairs: boolean;
  readonly #trails = new Map<string, Trail>();

  /**
   * @param pairs entries can be stored 16 bytes at a time: the two halves of 16 aligned bytes, the lower one first and nothing
   * between them, count as one store.
   */
  constructor(course: Course, pairs = false) {
    this.#course = course;
    this.#pairs = pairs;
  }

  /**
   * A word of an entry changed. @param gpa of the word. @param bytes of the entry. @param look is given what the entry said
   * after each store.
   */
  stored(
    page: TrackedPage,
    gpa: number,
    bytes: number,
    key: string,
    look: (trail: readonly Int32Array[]) => void,
  ): void {
    let trail = this.#trails.get(key);
    if (trail === undefined) {
      trail = { steps: [], last: -1 };
      this.#trails.set(key, trail);
    }
    const { steps } = trail;
    if (this.#pairs && gpa % 16 === 8 && trail.last === gpa - 8) steps.pop();
    trail.last = gpa;
    const first = ((gpa - (gpa % bytes)) % 4096) / 4;
    const { words } = page;
    steps.push(words === null ? new Int32Array(bytes / 4) : words.slice(first, first + bytes / 4));
    this.#course.together(page, gpa, bytes, key, () => {
      this.#trails.delete(key);
      look(steps);
    });
  }
}
