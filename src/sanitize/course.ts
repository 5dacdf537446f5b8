import type { Findings, Found } from './findings.ts';
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
  /** Sequence number of the last completion request that was issued (a CMD_SYNC, a wait, a register's own). */
  barrier = -1;
  readonly #deferred = new Map<string, Deferred>();
  /** Invalidations by register under way, by sequence number: what went on without them. */
  readonly #byRegister = new Map<number, Found[]>();
  /** Addresses of the entry that is being written, [from, to); -1: none. */
  #from = -1;
  #to = -1;

  constructor(findings: Findings) {
    this.findings = findings;
  }

  /** A register was told to invalidate. @param seq its sequence number. */
  begun(seq: number): void {
    this.#byRegister.set(seq, []);
  }

  /**
   * The driver went on before invalidation `seq` had completed. Of one by register that is said once the driver looks at the
   * register: where it never does, that is the fault, and what went on meanwhile follows from it.
   */
  notAwaited(seq: number, found: Found): void {
    const held = this.#byRegister.get(seq);
    if (held === undefined) this.findings.add('invalidation-not-awaited', found);
    else held.push(found);
  }

  /** The guest was told that the invalidations by register up to `seq` are done. */
  awaited(seq: number): void {
    for (const [s, held] of this.#byRegister) {
      if (s > seq) continue;
      this.#byRegister.delete(s);
      for (const found of held) this.findings.add('invalidation-not-awaited', found);
    }
  }

  /** The register was given something else to do before it was looked at, which is said by name. */
  overtaken(seq: number): void {
    this.#byRegister.delete(seq);
  }

  /** Looks at an entry of `page`: at once, or, where stores are told late, once all that are told together are told. */
  entry(page: TrackedPage, key: string, action: () => void): void {
    if (page.late) this.#defer(page, key, action);
    else action();
  }

  /**
   * Looks at an entry of several words once the stores to it that follow each other are told. @param gpa of the word that
   * changed. @param bytes size of the entry, a power of two. @param key names the entry.
   */
  together(page: TrackedPage, gpa: number, bytes: number, key: string, action: () => void): void {
    if (!page.whole && !page.late) {
      this.#from = gpa - (gpa % bytes);
      this.#to = this.#from + bytes;
    }
    this.#defer(page, key, action);
  }

  #defer(page: TrackedPage, key: string, action: () => void): void {
    const { late, whole } = page;
    this.#deferred.set(key, { page, late, whole, event: this.event, action });
  }

  /** A store comes; it may be of another entry than the one that is being written. */
  beforeStore(gpa: number): void {
    if (this.#to < 0 || (gpa >= this.#from && gpa < this.#to)) return;
    this.#to = -1;
    this.#look(false);
  }

  /** What was told together is told. */
  settle(): void {
    this.#to = -1;
    this.#look(true);
  }

  /** Looks at the entries, then at what they lead to. @param late those as well whose stores are told late. */
  #look(late: boolean): void {
    if (this.#deferred.size === 0) return;
    const { event } = this;
    for (let all = this.#due(late); all.length > 0; all = this.#due(late)) this.#act(all);
    this.event = event;
  }

  #due(late: boolean): Deferred[] {
    const all: Deferred[] = [];
    for (const [key, d] of this.#deferred) {
      if (d.late && !late) continue;
      this.#deferred.delete(key);
      all.push(d);
    }
    return all;
  }

  #act(all: readonly Deferred[]): void {
    for (const d of all) {
      const { late, whole } = d.page;
      d.page.late = d.late;
      d.page.whole = d.whole;
      this.event = d.event;
      d.action();
      d.page.late = late;
      d.page.whole = whole;
    }
  }
}
