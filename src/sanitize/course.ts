import type { Findings } from './findings.ts';
import type { TrackedPage } from './memory.ts';

interface Deferred {
  readonly page: TrackedPage;
  readonly late: boolean;
  readonly whole: boolean;
  event: number;
  action: () => void;
}

/** Where the sanitizer is in the course of events, and what is true of all of it. */
export class Course {
  readonly findings: Findings;
  /** Number of the event at hand. */
  event = 0;
  /** Doorbells rung so far: stores with the same number stand between the same two submissions. */
  batch = 0;
  /** Completions the guest could see so far (a CMD_SYNC consumed, a wait done, a register that says done). */
  completions = 0;
  readonly #deferred = new Map<string, Deferred>();
  /** Address / 16 of the entry a pair of stores may be writing; -1: none. */
  #pair = -1;

  constructor(findings: Findings) {
    this.findings = findings;
  }

  /**
   * Looks at an entry of `page`: at once, or, where stores are told late, once all that are told together are told.
   * @param key names the entry.
   */
  entry(page: TrackedPage, key: string, action: () => void): void {
    if (page.late) this.#defer(page, key, action);
    else action();
  }

  /**
   * The same for an entry of 16 bytes that a guest can store at once: a recording has that as two stores that follow each
   * other. @param gpa of the word that changed.
   */
  pair(page: TrackedPage, gpa: number, key: string, action: () => void): void {
    if (!page.whole) this.#pair = Math.floor(gpa / 16);
    this.#defer(page, key, action);
  }

  #defer(page: TrackedPage, key: string, action: () => void): void {
    const { late, whole } = page;
    this.#deferred.set(key, { page, late, whole, event: this.event, action });
  }

  /** A store comes that is not the other half of what was stored last. */
  beforeStore(gpa: number): void {
    if (this.#pair >= 0 && Math.floor(gpa / 16) !== this.#pair) this.settle();
  }

  /** What was told together is told. */
  settle(): void {
    this.#pair = -1;
    if (this.#deferred.size === 0) return;
    const all = [...this.#deferred.values()];
    this.#deferred.clear();
    const { event } = this;
    for (const d of all) {
      const { late, whole } = d.page;
      d.page.late = d.late;
      d.page.whole = d.whole;
      this.event = d.event;
      d.action();
      d.page.late = late;
      d.page.whole = whole;
    }
    this.event = event;
  }
}
