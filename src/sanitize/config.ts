import type { Course } from './course.ts';

/** A configuration entry that hardware may still hold although memory says something else. */
export interface StaleConfig {
  /** STE, CD, root entry, context entry, … */
  readonly kind: string;
  /** In words: which one. */
  readonly name: string;
  /** What invalidations name: stream, PASID or index, domain id; -1: none. */
  readonly stream: number;
  readonly pasid: number;
  readonly did: number;
  /** Number of the event that changed it first, and the submission it was before. */
  readonly event: number;
  readonly batch: number;
  completions: number;
  /** Hardware may hold the entry valid. */
  readonly wasValid: boolean;
  /** Nothing of it is cached any more. */
  readonly release: () => void;
  seq: number;
  issued: number;
  reported: boolean;
}

/** A completion or two after which a driver that meant to invalidate would have done it. */
const SETTLED = 2;

/** What any legal hardware may still hold of configuration structures. */
export class ConfigCaches {
  readonly #course: Course;
  readonly #stale = new Set<StaleConfig>();
  #pending: StaleConfig[] = [];

  constructor(course: Course) {
    this.#course = course;
  }

  /** An entry was changed; what it said before may be cached. */
  changed(c: Pick<StaleConfig, 'kind' | 'name' | 'stream' | 'pasid' | 'did' | 'wasValid' | 'release'>): StaleConfig {
    const { event, batch, completions } = this.#course;
    const stale: StaleConfig = { ...c, event, batch, completions, seq: -1, issued: -1, reported: false };
    this.#stale.add(stale);
    return stale;
  }

  /** An invalidation was issued for what `match` says. */
  invalidate(seq: number, match: (c: StaleConfig) => boolean): void {
    for (const c of this.#stale) {
      if (c.seq >= 0 || !match(c)) continue;
      c.seq = seq;
      c.issued = this.#course.event;
      this.#pending.push(c);
    }
  }

  complete(seq: number): void {
    let done = 0;
    while (done < this.#pending.length && this.#pending[done]!.seq <= seq) {
      const c = this.#pending[done++]!;
      this.#stale.delete(c);
      c.release();
    }
    if (done > 0) this.#pending = this.#pending.slice(done);
  }

  /** The stream was used: what it uses may be an old entry. */
  used(stream: number): void {
    if (this.#stale.size === 0) return;
    for (const c of this.#stale) if (c.stream === stream) this.#judge(c);
  }

  usedWhere(match: (c: StaleConfig) => boolean): void {
    if (this.#stale.size === 0) return;
    for (const c of this.#stale) if (match(c)) this.#judge(c);
  }

  #judge(c: StaleConfig): void {
    if (c.seq >= 0 || c.reported || c.completions + 1 > this.#course.completions) return;
    c.reported = true;
    this.#course.findings.add('config-change-not-invalidated', {
      stream: c.stream < 0 ? undefined : c.stream,
      pasid: c.pasid < 0 ? undefined : c.pasid,
      kind: c.kind,
      events: [c.event, this.#course.event],
      message: `the ${c.name} was changed and not invalidated: hardware may go on with what it said before; invalidate it and wait`,
    });
  }

  /** Every entry that was changed and not invalidated although the driver went on. */
  finish(): void {
    for (const c of this.#stale) {
      if (c.completions + SETTLED <= this.#course.completions) this.#judge(c);
    }
  }

  /** Hardware has forgotten what `match` says, at once. */
  forget(match: (c: StaleConfig) => boolean): void {
    for (const c of this.#stale) {
      if (!match(c)) continue;
      this.#stale.delete(c);
      c.release();
    }
    this.#pending = this.#pending.filter((c) => this.#stale.has(c));
  }

  clear(): void {
    for (const c of this.#stale) c.release();
    this.#stale.clear();
    this.#pending = [];
  }
}
