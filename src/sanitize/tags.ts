import type { Course } from './course.ts';
import type { TagWords } from './reach.ts';
import type { TranslationTree } from './tree.ts';
import type { TagListener, Trees } from './trees.ts';

/** The rules about tags: one ASID, VMID, domain id or PASID stands for one set of tables at a time. */
export class Tags implements TagListener {
  readonly #course: Course;
  readonly #words: (stage: number) => TagWords;
  trees: Trees | null = null;

  constructor(course: Course, words: (stage: number) => TagWords) {
    this.#course = course;
    this.#words = words;
  }

  taken(_tree: TranslationTree): void {
    void this.#course;
    void this.#words;
  }
}
