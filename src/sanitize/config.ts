import type { Course } from './course.ts';
import { agree, changes, copy, type EntryWords, isNextStep, looked } from './entry-words.ts';
import type { TrackedPage } from './memory.ts';

/** What invalidations know a configuration entry by. */
export interface ConfigName {
  /** STE, CD, root entry, context entry, … */
  readonly kind: string;
  /** Stream, PASID or index, domain id; -1: none, of a stream EVERY: all of them. */
  readonly stream: number;
  readonly pasid: number;
  readonly did: number;
}

/** Stands for all streams: what a register points to was changed. */
export const EVERY = -2;

/** A configuration entry that hardware may still hold although memory says something else. */
export interface StaleConfig extends ConfigName {
  /** Names the entry among all. */
  readonly key: string;
  /** In words: which one. */
  readonly name: string;
  /** Number of the event that changed it first, the submission it was before, and the completions before it. */
  event: number;
  readonly batch: number;
  completions: number;
  /** Completions before the first word of it was written. */
  readonly began: number;
  /** It says the same to hardware so far: only words were changed that it does not look at. */
  quiet: boolean;
  /** Nothing of what it said before was cached: it is being written for the first time. */
  filling: boolean;
  /** Nothing of it is cached any more: what only it led to is done with. */
  readonly release: OnForgotten[];
  /** Words when the last completed invalidation found it, and the words that were changed since, step by step. */
  readonly base: Int32Array;
  readonly steps: number[];
  seq: number;
  issued: number;
  reported: boolean;
  /** An invalidation of it stands right before its change, and not because it became valid. */
  readonly named: boolean;
  /** What it said after its first step, if its invalidation was issued right before that; null: it was not. */
  first: Int32Array | null;
}

/** @param seq of the invalidation that did it; none: what led there was cut off. */
export type OnForgotten = (seq?: number) => void;

/** One change of an entry. */
export interface EntryWrite extends ConfigName, EntryWords {
  /** Names the entry among all. */
  readonly key: string;
  readonly name: string;
  readonly page: TrackedPage;
  readonly old: Int32Array;
  readonly now: Int32Array;
  /** What it said after each store on the way; the last is `now`. */
  readonly trail: readonly Int32Array[];
  /** An entry that is not valid may be cached as such. */
  readonly cachesInvalid: boolean;
}

/** A completion or two after which a driver that meant to invalidate would have done it. */
const SETTLED = 2;
/** Completions after which an invalidation is no longer the one that belongs to the change; others may run on other processors. */
const BELATED = 4;
/** Invalidations that are remembered for what is told late. */
const REMEMBERED = 512;

/** What any legal hardware may still hold of configuration structures. */
export class ConfigCaches {
  readonly #course: Course;
  readonly #stale = new Set<StaleConfig>();
  /** The change of each entry that no invalidation covers yet. */
  readonly #open = new Map<string, StaleConfig>();
  #pending: StaleConfig[] = [];
  /** What was invalidated last, the event that did it and its submission. */
  #log: { readonly event: number; readonly batch: number; readonly match: (c: ConfigName) => boolean }[] = [];
  /** By entry: before which submission it was written last, whether it said the same then, and whether it became valid. */
  readonly #written = new Map<string, { readonly batch: number; readonly quiet: boolean; readonly filled: boolean }>();

  constructor(course: Course) {
    this.#course = course;
  }

  /**
   * An entry was written. @param release what to do once nothing holds what it said before.
   * @returns whether it says something else to hardware now.
   */
  write(w: EntryWrite, release: OnForgotten): boolean {
    const { batch } = this.#course;
    const changed = this.#write(w, release);
    const last = this.#written.get(w.key);
    const quiet = !changed && (last?.batch !== batch || last.quiet);
    this.#written.set(w.key, { batch, quiet, filled: !w.valid(w.old) && w.valid(w.now) });
    return changed;
  }

  #write(w: EntryWrite, release: OnForgotten): boolean {
    const wasValid = w.valid(w.old);
    const same = agree(w.old, w.now, w.used);
    let open = this.#open.get(w.key);
    if (w.page.late) return this.#late(w, same, release);
    if (w.page.whole || (open === undefined && !wasValid && !w.valid(w.now))) {
      release();
      return !same;
    }
    const { batch } = this.#course;
    // An entry that nothing had cached is in use from the next submission on.
    if (open?.filling && open.batch !== batch) {
      this.#done(open);
      open = undefined;
    }
    const issued = open !== undefined && open.seq >= 0;
    const entry = open === undefined || issued ? this.#begin(w, open) : open;
    if (open === undefined && !wasValid && !w.cachesInvalid) entry.filling = true;
    // It goes on after something else was done: what was stored before is a step of its own.
    if (entry === open && entry.named) entry.first = w.old;
    let from = w.old;
    for (const to of w.trail) {
      this.#step({ ...w, old: from, now: to }, entry, issued ? open : undefined, w.now);
      from = to;
    }
    if (same || entry.filling) {
      release();
      return !same;
    }
    if (entry.quiet) {
      entry.quiet = false;
      entry.event = this.#course.event;
      entry.completions = this.#course.completions;
    }
    entry.release.push(release);
    return true;
  }

  /**
   * An entry was written between two times the IOMMU looked at it: in which steps and when is not told. An invalidation
   * since the first may have come after it.
   */
  #late(w: EntryWrite, same: boolean, release: OnForgotten): boolean {
    const held = w.valid(w.old) || (w.cachesInvalid && !w.page.whole);
    if (same || !held || w.page.since < 0 || this.#coveredSince(w, w.page.since)) {
      release();
      return !same;
    }
    const open = this.#open.get(w.key);
    const entry = open === undefined || open.seq >= 0 ? this.#begin(w, open) : open;
    entry.quiet = false;
    entry.release.push(release);
    return true;
  }

  #coveredSince(c: ConfigName, since: number): boolean {
    return this.#log.some((i) => i.event > since && i.match(c));
  }

  /** @param before the change that is issued and not complete: what it began with may be cached still. */
  #begin(w: EntryWrite, before: StaleConfig | undefined): StaleConfig {
    const { key, kind, name, stream, pasid, did } = w;
    const { event, completions, batch } = this.#course;
    const entry: StaleConfig = {
      key,
      kind,
      name,
      stream,
      pasid,
      did,
      event,
      batch,
      completions,
      began: before === undefined ? completions : before.began,
      quiet: true,
      filling: false,
      release: [],
      base: before === undefined ? w.old.slice() : before.base,
      steps: before === undefined ? [] : [...before.steps],
      seq: -1,
      issued: -1,
      reported: false,
      named: before === undefined && this.#written.get(w.key)?.filled !== true && this.#isNamed(w),
      first: before === undefined ? this.#firstOfLate(w) : null,
    };
    this.#stale.add(entry);
    this.#open.set(w.key, entry);
    return entry;
  }

  /** An invalidation of the entry stands right before. */
  #isNamed(w: EntryWrite): boolean {
    return this.#log.some((i) => i.batch + 1 === this.#course.batch && i.match(w));
  }

  /**
   * A driver waits between the steps of a change. Where it stored one behind the command that was to make hardware forget it,
   * that command stands right before, and there was nothing to forget for it, or nothing that hardware looks at.
   * @returns what the entry said after that step; null: there is no such command.
   */
  #firstOfLate(w: EntryWrite): Int32Array | null {
    // What hardware does not look at, or else the word that says what the entry is.
    const first = w.trail.findLast((t) => agree(w.old, t, w.used)) ?? w.trail[0] ?? w.now;
    if (w.valid(first) && (looked(w.old, first, w) & ~1) !== 0) return null;
    const { batch } = this.#course;
    const written = this.#written.get(w.key);
    const inVain = written?.batch !== batch - 1 || (written.quiet && agree(w.old, first, w.used));
    return inVain && this.#isNamed(w) ? first : null;
  }

  /**
   * Whether hardware that fetches word by word can read a mixture that the guest never wrote (IHI 0070 §3.21.3, VT-d §6.5.3.3).
   * @param last what the entry says after all that is told together.
   */
  #step(w: EntryWrite, entry: StaleConfig, issued: StaleConfig | undefined, last: Int32Array): void {
    const { base } = entry;
    entry.steps.push(changes(w.old, w.now, null));
    if (entry.reported) return;
    if (!w.valid(base)) {
      // It was valid before this word was written, and hardware looks at the word. The first word may say less afterwards.
      if (!w.valid(w.old) || !w.valid(w.now)) return;
      if ((changes(w.old, w.now, copy(w.used(w.now))) & ~1) !== 0) this.#torn('valid-before-filled', w, entry);
      return;
    }
    const fills = changes(w.old, w.now, copy(w.used(base))) === 0;
    const changed = looked(base, w.now, w);
    // What one store wrote is never read in part.
    if (entry.steps.some((step) => (changed & ~step) === 0)) return;
    // The driver waited between its steps, for something that did not name the entry.
    if (issued !== undefined) this.#early(entry, issued);
    else if (entry.began < this.#course.completions || isNextStep(w, entry.base, entry.first, last)) this.#found(entry);
    else this.#torn(fills ? 'valid-before-filled' : 'torn-entry', w, entry);
  }

  #torn(rule: 'torn-entry' | 'valid-before-filled', w: EntryWrite, entry: StaleConfig): void {
    entry.reported = true;
    const what =
      rule === 'torn-entry'
        ? 'was changed word by word while hardware may read it: make it invalid, invalidate it and wait before the other words are written'
        : 'was made valid before all of its words were written: write the word with the valid bit last';
    this.#course.findings.add(rule, {
      stream: w.stream < 0 ? undefined : w.stream,
      pasid: w.pasid < 0 ? undefined : w.pasid,
      kind: w.kind,
      events: [entry.event, this.#course.event],
      message: `the ${w.name} ${what}`,
    });
  }

  #early(entry: StaleConfig, issued: StaleConfig): void {
    entry.reported = true;
    this.#course.notAwaited(issued.seq, {
      stream: entry.stream < 0 ? undefined : entry.stream,
      pasid: entry.pasid < 0 ? undefined : entry.pasid,
      kind: entry.kind,
      events: [issued.event, issued.issued, this.#course.event],
      message: `the ${entry.name} was changed again before its invalidation had completed: wait for it, hardware may read a mixture`,
    });
  }

  /** A pointer to a table, in `page`, was changed; what it led to may be cached. A register's is told when it changes. */
  changed(
    page: Pick<TrackedPage, 'late' | 'whole' | 'since'>,
    c: ConfigName & { readonly name: string },
    release: OnForgotten,
  ): void {
    const { event, completions, batch } = this.#course;
    if (page.late ? this.#coveredSince(c, page.since) : page.whole) {
      release();
      return;
    }
    const rest = {
      key: '',
      batch,
      began: completions,
      quiet: false,
      filling: false,
      base: new Int32Array(0),
      steps: [],
      seq: -1,
      issued: -1,
      reported: false,
      named: false,
      first: null,
    };
    this.#stale.add({ ...c, event, completions, release: [release], ...rest });
  }

  /** An invalidation was issued for what `match` says. */
  invalidate(seq: number, match: (c: ConfigName) => boolean): void {
    const { event, batch } = this.#course;
    this.#log.push({ event, batch, match });
    if (this.#log.length >= 2 * REMEMBERED) this.#log = this.#log.slice(REMEMBERED);
    for (const c of this.#stale) {
      if (c.seq >= 0 || !match(c)) continue;
      if (c.completions + BELATED <= this.#course.completions) this.#judge(c);
      c.seq = seq;
      c.issued = event;
      this.#pending.push(c);
    }
  }

  /** Some change waits for its invalidation. */
  get open(): boolean {
    return this.#stale.size > 0;
  }

  complete(seq: number): void {
    let done = 0;
    while (done < this.#pending.length && this.#pending[done]!.seq <= seq) this.#done(this.#pending[done++]!);
    if (done > 0) this.#pending = this.#pending.slice(done);
  }

  #done(c: StaleConfig): void {
    this.#stale.delete(c);
    if (this.#open.get(c.key) === c) this.#open.delete(c.key);
    for (const release of c.release) release(c.seq < 0 ? undefined : c.seq);
  }

  /** A register was given another table; what it led to before may be cached. */
  moved(kind: string): void {
    const register = { late: false, whole: false, since: -1 };
    this.changed(register, { kind, name: kind, stream: EVERY, pasid: -1, did: -1 }, () => {});
  }

  /** Something was used that `match` says: it may be used as an old entry says. */
  used(match: (c: ConfigName) => boolean): void {
    if (this.#stale.size === 0) return;
    for (const c of this.#stale) if (match(c)) this.#judge(c);
  }

  #judge(c: StaleConfig): void {
    if (!c.quiet && c.seq < 0 && !c.reported && c.completions < this.#course.completions) this.#found(c);
  }

  #found(c: StaleConfig): void {
    c.reported = true;
    this.#course.findings.add('config-change-not-invalidated', {
      stream: c.stream < 0 ? undefined : c.stream,
      pasid: c.pasid < 0 || c.kind === 'IRTE' ? undefined : c.pasid,
      kind: c.kind,
      events: [c.event, this.#course.event],
      message: `the ${c.name} was changed and not invalidated: hardware may go on with what it said before; invalidate it and wait`,
    });
  }

  /** Every entry that was changed and not invalidated although the driver went on. */
  finish(): void {
    for (const c of this.#stale) if (c.completions + SETTLED <= this.#course.completions) this.#judge(c);
  }

  /** Hardware has forgotten what `match` says, at once. */
  forget(match: (c: ConfigName) => boolean): void {
    for (const c of this.#stale) if (match(c)) this.#done(c);
    this.#pending = this.#pending.filter((c) => this.#stale.has(c));
  }
}
