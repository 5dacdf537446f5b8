import type { Course } from './course.ts';
import type { TrackedPage } from './memory.ts';

/** Follows the stores to entries of several words, to look at each entry as a whole and at the way it went there. */
export class EntryTrails {
  readonly #course: Course;
  readonly #trails = new Map<string, Int32Array[]>();

  constructor(course: Course) {
    this.#course = course;
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
      trail = [];
      this.#trails.set(key, trail);
    }
    const first = ((gpa - (gpa % bytes)) % 4096) / 4;
    const { words } = page;
    if (words === null) trail.push(new Int32Array(bytes / 4));
    else trail.push(words.slice(first, first + bytes / 4));
    const steps = trail;
    this.#course.together(page, gpa, bytes, key, () => {
      this.#trails.delete(key);
      look(steps);
    });
  }
}
