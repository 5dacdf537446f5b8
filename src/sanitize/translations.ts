import { POW2 } from '../core/bits.ts';
import type { Caches, CacheTag } from './caches.ts';
import { combinedChanges } from './combined.ts';
import type { Course } from './course.ts';
import type { DeviceTlbs } from './device-tlbs.ts';
import { addressOf, broken, change, isEmpty } from './entry-changes.ts';
import { ENTRY } from './formats.ts';
import type { TrackedPage } from './memory.ts';
import type { TagWords } from './reach.ts';
import { beyond } from './register-rules.ts';
import { STALE, type StaleEntry } from './stale.ts';
import { SETTLED, TranslationFindings } from './translation-findings.ts';
import type { EntryChange, TranslationTree, TreeListener } from './tree.ts';
import type { Usage } from './usage.ts';

/** What differs between the architectures, for translations. */
export interface TranslationRules {
  /** Valid to valid needs a break between: IDR3.BBML; null: it does not (VT-d). */
  readonly bbml: number | null;
  /** Bit s: hardware may cache that nothing is mapped at stage kind s (VT-d CAP.CM; never a first stage). */
  readonly cachesAbsence: number;
  /** Only a cached copy of a configuration that was not invalidated leads to the tree: what becomes of its pages is another rule's. */
  orphaned(tree: TranslationTree): boolean;
  /** What the parts of a tag are called, by stage kind. */
  words(stage: number): TagWords;
}

/** So many invalidations by address of what was unmapped later show that one was not put off but forgotten. */
const STRICT = 8;

/** The rules about translations: what hardware may still hold, against what the tables say and accesses use. */
export class Translations implements TreeListener {
  readonly #course: Course;
  readonly #caches: Caches;
  readonly #say: TranslationFindings;
  rules: TranslationRules;
  /** Trees by root page, to see a table that is used elsewhere. */
  readonly #tables = new Map<
    number,
    { readonly tag: CacheTag; readonly e: StaleEntry; readonly tree: TranslationTree }
  >();

  readonly devices: DeviceTlbs;
  readonly usage: Usage;

  constructor(course: Course, caches: Caches, devices: DeviceTlbs, usage: Usage, rules: TranslationRules) {
    this.usage = usage;
    this.#course = course;
    this.#caches = caches;
    this.devices = devices;
    this.rules = rules;
    this.#say = new TranslationFindings(course, caches, rules.words);
  }

  part(page: TrackedPage, gpa: number, key: string, settled: () => void): void {
    this.#course.together(page, gpa, 8, key, settled);
  }

  torn(tree: TranslationTree, base: number, was: boolean): void {
    const what = was
      ? 'was changed in two stores and valid in between: hardware may read a mixture'
      : 'was made valid before all of it was written';
    this.#say.found(was ? 'torn-entry' : 'valid-before-filled', tree, base, [this.#course.event], {
      kind: 'translation',
      message: `the entry of ${addressOf(base)} ${what}: write it in one store, or the half with the valid bit last`,
    });
  }

  entry(c: EntryChange): void {
    const { tree } = c;
    const late = c.node.page.late;
    if (this.rules.orphaned(tree)) return;
    const limit = POW2[tree.format.outBits - 12]!;
    // What leads beyond the output size faults, and what faults is never cached.
    if (c.kind !== ENTRY.NONE && c.out >= limit) {
      this.#beyond(c);
      c.kind = ENTRY.NONE;
    }
    if (c.oldOut >= limit) c.oldKind = ENTRY.NONE;
    if (c.kind === ENTRY.NONE && c.oldKind === ENTRY.NONE) return;
    this.usage.entry(c);
    const { outputs } = tree;
    if (c.oldKind === ENTRY.LEAF) outputs?.delete(c.shift, c.oldOut, c.base);
    if (c.kind === ENTRY.LEAF) outputs?.add(c.shift, c.out, c.base);
    if (c.kind !== ENTRY.NONE) {
      const found = this.#appears(c, tree.tag);
      this.devices.appears(c, found);
      // The first stages over it: what is held of both is known by their addresses.
      for (const { change: d, tag } of c.kind === ENTRY.LEAF && tree.over.size > 0 ? combinedChanges(c) : [])
        this.devices.appears(d, this.#appears(d, tag) || found, true);
    }
    if (c.oldKind === ENTRY.NONE) {
      if ((this.rules.cachesAbsence >>> tree.tag.stage) & 1 && !tree.entering && !c.linking)
        this.#stale(c, STALE.ABSENT);
      return;
    }
    const why = change(c);
    const replaced = c.kind !== ENTRY.NONE && why === STALE.REPLACED && !late;
    // Of what was stored between two events only the last is known: there may have been a break, without an invalidation.
    const unbroken = replaced && c.node.page.gathered ? this.#unbroken(c) : null;
    if (replaced && unbroken === null && this.#breaks(c)) return;
    const e = this.#stale(c, why);
    if (e !== null && unbroken !== null) e.unbroken = unbroken;
    if (e?.table) this.#tables.set(e.out, { tag: tree.tag, e, tree });
  }

  #beyond(c: EntryChange): void {
    const what = `the ${c.kind === ENTRY.TABLE ? 'table' : 'output'} of ${addressOf(c.base)},`;
    beyond(this.#course, what, c.out * 4096, c.tree.format.outBits, [...c.tree.streams][0]);
  }

  #stale(c: EntryChange, why: number): StaleEntry | null {
    const { tree, node } = c;
    // That nothing is there is cached like what comes there.
    const table = (why === STALE.ABSENT ? c.kind : c.oldKind) === ENTRY.TABLE;
    const e: StaleEntry = {
      why,
      base: c.base,
      shift: c.shift,
      level: c.shift,
      granule: tree.format.tableShift,
      middle: -1,
      table,
      out: c.oldOut,
      perm: c.oldPerm,
      global: c.oldGlobal,
      event: this.#course.event,
      batch: this.#course.batch,
      completions: this.#course.completions,
      ranged: tree.tag.ranged,
      seq: -1,
      issued: -1,
      issuedBatch: -1,
      walked: false,
      parts: null,
      below: why === STALE.ABSENT || (table && isEmpty(node.below.get(c.at), tree)),
      late: node.page.late,
      done: false,
      twin: null,
      early: -1,
      unbroken: null,
    };
    // Told late: the store may be older than every invalidation since the page was seen last.
    const gone = node.page.late && this.#caches.coveredSince(tree.tag, e, node.page.since);
    if (why !== STALE.ABSENT && why !== STALE.RAISED) {
      this.devices.changed(c, gone ? null : e, e);
      if (tree.over.size > 0 && !(table && e.below)) this.#staleCombined(c, e);
    }
    if (gone) return null;
    tree.tag.stale.add(e);
    return e;
  }

  /** What is held of both stages together is no table, and known by the addresses of the first one. */
  #staleCombined(c: EntryChange, of: StaleEntry): void {
    for (const { change: d, tag, middle, level } of combinedChanges(c)) {
      if (d.oldKind !== ENTRY.LEAF) continue;
      const { base, shift, oldOut: out, oldPerm: perm, oldGlobal: global } = d;
      const granule = d.tree.format.tableShift;
      const e: StaleEntry = {
        ...of,
        base,
        shift,
        level,
        granule,
        middle,
        table: false,
        out,
        perm,
        global,
        below: false,
      };
      const { page } = c.node;
      const gone = page.late && this.#caches.coveredSince(tag, e, page.since);
      this.devices.changed(d, gone ? null : e, e, true);
      if (!gone) tag.stale.add(e);
    }
  }

  /** IHI 0070 §3.21.1.1: a valid entry gets another output or size only by way of an invalid one. @returns found. */
  #breaks(c: EntryChange): boolean {
    const what = broken(c, this.rules.bbml);
    if (what === null) return false;
    this.#say.breakMissing(c.tree, c.base, [this.#course.event], `${what} in one store`);
    return true;
  }

  /** What to say once an invalidation shows that nothing was invalidated between the old entry and the new one. */
  #unbroken(c: EntryChange): ((issued: number) => void) | null {
    const what = broken(c, this.rules.bbml);
    if (what === null) return null;
    const { tree, base } = c;
    const { event } = this.#course;
    return (issued) => this.#say.breakMissing(tree, base, [event, issued], `${what} without an invalidation between`);
  }

  /** A new entry is in the tables: what may be cached at its addresses must not say something else. @returns whether it does. */
  #appears(c: EntryChange, tag: CacheTag): boolean {
    const { stale } = tag;
    let found = false;
    if (c.kind === ENTRY.TABLE && tag === c.tree.tag) this.#tableUsed(c.out, c);
    if (stale.size === 0) return false;
    stale.overlapping(c.base, c.base + POW2[c.shift - 12]! - 1, (e) => {
      if (e.why === STALE.ABSENT || e.why === STALE.RAISED) {
        if (e.base === c.base && e.shift === c.shift) stale.delete(e);
        return;
      }
      if (this.#restored(c, e, tag)) return;
      // A table whose entries are to come says nothing yet of single pages below it.
      if (!e.table && c.kind === ENTRY.TABLE && e.shift < c.shift) return;
      if (c.node.page.late && this.#caches.coveredSince(tag, e, c.node.page.since)) {
        stale.delete(e);
        return;
      }
      this.#say.violation(c.tree, tag, e, c.base);
      found = true;
    });
    return found;
  }

  /** The entry is what it was when it was cached: nothing is stale any more. */
  #restored(c: EntryChange, e: StaleEntry, tag: CacheTag): boolean {
    if (e.table) {
      if (c.kind === ENTRY.TABLE && e.base === c.base && e.shift === c.shift && e.out === c.out) {
        tag.stale.delete(e);
        this.#tables.delete(e.out);
        return true;
      }
      return false;
    }
    if (c.kind !== ENTRY.LEAF) return false;
    const same = e.out - e.base === c.out - c.base;
    if (!same) return false;
    if ((e.perm & ~c.perm) !== 0) return false;
    if (e.base === c.base && e.shift === c.shift) {
      tag.stale.delete(e);
      // It comes back with more permissions, and what may be cached has fewer.
      if (e.perm !== c.perm && e.seq < 0) tag.stale.add({ ...e, why: STALE.RAISED });
    }
    return true;
  }

  /** A page that walk caches may still lead to becomes a table at another place. */
  #tableUsed(table: number, c: EntryChange): void {
    const known = this.#tables.get(table);
    if (known === undefined) return;
    const { tag, e, tree } = known;
    if (tag.stale.get(e.base, e.shift, true) !== e) {
      this.#tables.delete(table);
      return;
    }
    if (tag === c.tree.tag && e.base === c.base && e.shift === c.shift) return;
    this.#tables.delete(table);
    if (c.node.page.late && this.#caches.coveredSince(tag, e, c.node.page.since)) return;
    this.#say.violation(
      tree,
      tag,
      e,
      e.base,
      `the table at ${addressOf(table)} is used again, for ${addressOf(c.base)}`,
    );
  }

  /**
   * An access that was translated.
   * @param page input page. @param out output page.
   * @param told the kind of the access is told, not only what the entry allows.
   * @param over the stage over this one, and the input page there; null: there is none.
   * @returns false: the tables that were told do not say it, and nothing that was cached does.
   */
  access(
    tree: TranslationTree,
    stream: number,
    page: number,
    out: number,
    access: number,
    told: boolean,
    over: { readonly tree: TranslationTree; readonly page: number } | null = null,
  ): boolean {
    this.#say.review();
    const node = tree.walk(page);
    // An entry that leads beyond the output size was named when it was written: what old entry an access used instead follows from it.
    if (node === null || tree.faults) return false;
    if (tree.kind === ENTRY.LEAF && tree.out === out) {
      this.usage.access(tree, node, stream, access, told);
      this.#used(tree, tree.tag, page);
      const together = over === null ? undefined : tree.over.get(over.tree);
      if (over !== null && together !== undefined) this.#used(over.tree, together, over.page);
      return true;
    }
    if (node.page.late || !node.page.known) return false;
    const e = tree.tag.stale.leafAt(page);
    if (e === undefined || e.out + (page - e.base) !== out) return false;
    // What took its place was not waited for; where nothing did, the access is the fault.
    if (tree.kind === ENTRY.LEAF && e.why === STALE.REPLACED) this.#say.violation(tree, tree.tag, e, page);
    else this.#say.afterUnmap(tree, stream, page, e);
    return true;
  }

  /** An access that was refused for want of a translation: other hardware could still have had the old one. */
  refused(tree: TranslationTree, stream: number, page: number): void {
    this.#say.review();
    const e = tree.tag.stale.leafAt(page);
    const node = tree.walk(page);
    if (
      e === undefined ||
      e.why !== STALE.UNMAPPED ||
      node === null ||
      node.page.late ||
      tree.faults ||
      tree.kind !== ENTRY.NONE
    )
      return;
    this.#say.afterUnmap(tree, stream, page, e);
  }

  /** An access through a mapping that is in the tables. */
  #used(tree: TranslationTree, tag: CacheTag, page: number): void {
    tag.stale.overlapping(page, page, (e) => {
      if (e.why === STALE.RAISED) this.#say.raised(tree, e);
      if (e.why === STALE.RAISED || e.why === STALE.LOWERED || e.why === STALE.UNMAPPED) return;
      this.#say.violation(tree, tag, e, page);
    });
  }

  /** The end of what there is to see: what was never invalidated although the driver went on. */
  finish(trees: readonly TranslationTree[]): void {
    this.#say.review(true);
    this.devices.finish(trees);
    this.usage.finish(trees);
    for (const tree of trees) {
      this.#left(tree, tree.tag);
      for (const [first, tag] of tree.over) this.#left(first, tag);
    }
  }

  #left(tree: TranslationTree, tag: CacheTag): void {
    tag.stale.all((e) => {
      if (e.seq >= 0 || e.completions + SETTLED > this.#course.completions) return;
      if (e.why === STALE.UNMAPPED) {
        // SeenInvalidation by address without delay is this driver's way, and it left this one out.
        if (!e.table && tag === tree.tag && tag.ranged - e.ranged >= STRICT)
          this.#say.violation(
            tree,
            tag,
            e,
            e.base,
            `${addressOf(e.base)} was unmapped (others after it were invalidated)`,
          );
        return;
      }
      if (e.why !== STALE.RAISED) this.#say.violation(tree, tag, e, e.base);
      else this.#say.raised(tree, e);
    });
  }
}
