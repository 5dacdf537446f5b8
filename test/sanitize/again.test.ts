import { readdirSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { type Finding, Sanitizer } from '../../src/sanitize/index.ts';
import { type Hearing, RecordedAgain } from './again.ts';
import { type Mutant, mutants, random } from './mutate.ts';
import { judge, type Recording, recording, renumbered } from './spoil.ts';

/** VIOMMU_MUTANTS=N: all recordings, and N faults of any kind in each; VIOMMU_SEED=S others. */
const EACH = Number(process.env.VIOMMU_MUTANTS ?? 0);
const SEED = Number(process.env.VIOMMU_SEED ?? 1);
const FOLDER = 'guest-fixtures/recordings';
const HEARINGS: readonly Hearing[] = ['compared', 'told'];
const SOME = ['smmuv3-boot', 'smmuv3-guest-two-level', 'vtd-boot'];

function names(): string[] {
  const all = readdirSync(FOLDER).flatMap((f) => (f.endsWith('.ndjson.gz') ? [f.slice(0, -'.ndjson.gz'.length)] : []));
  return EACH > 0 ? all : SOME.filter((n) => all.includes(n));
}

const CASES = names().flatMap((name) => HEARINGS.map((hearing) => [name, hearing] as const));
/** Where faults are planted: a guest that goes on long enough for every third kind to show. */
const PLANTED = CASES.filter(([name]) => EACH > 0 || name.endsWith('-boot'));
/** A guest that is run again takes up to half a minute, and each fault runs it again. */
const LONG = 60_000 + EACH * 120_000;
const worth = (found: readonly Finding[]) => found.filter((f) => f.severity !== 'hint').map((f) => f.rule);

describe('a recorded guest, run on a machine of this package and recorded there', () => {
  test.each(CASES)(
    '%s, stores %s: the same is found on the machine and in its recording',
    async (name, hearing) => {
      const r = await recording(name);
      if (r.seen) return;
      const again = new RecordedAgain(r.header, hearing).run(r.events);
      const before = [...new Set(worth(judge(r.header, r.events)))];

      expect([...new Set(worth(again.judge.findings()))]).toEqual(before);
      const s = new Sanitizer(r.header);
      for (const e of await again.events()) s.event(e);
      expect([...new Set(worth(s.finish()))]).toEqual(before);
      const reasons = [...s.findings.unjudged().keys()].join();
      expect(reasons).not.toMatch(/when the IOMMU looked/);
      expect(reasons.includes('without their order')).toBe(hearing === 'compared');
    },
    LONG,
  );

  test.each(PLANTED)(
    '%s, stores %s: a planted fault is found under its own name',
    async (name, hearing) => {
      const r = await recording(name);
      if (r.seen) return;
      const wrong: string[] = [];
      let seen = 0;
      const before = new Set(worth(judge(r.header, r.events)));
      for (const m of some(r)) {
        const rules = found(r, m.events, hearing, before);
        if (rules.length > 0) seen++;
        // An access that leads out faults on this machine, and the recorded guest did not know of it.
        const names = m.names.includes('beyond-output-size') ? [...m.names, 'error-not-acknowledged'] : m.names;
        for (const rule of rules) if (!names.includes(rule)) wrong.push(`${m.what}: ${rule}`);
        const first = errorsOf(looked(judge(r.header, heard(m.events, hearing))), before).filter(
          (rule) => !ORDER.has(rule),
        );
        if (rules.length === 0 && first.length > 0) wrong.push(`${m.what}: nothing, was ${first}`);
      }
      expect(wrong).toEqual([]);
      // Of a few faults by lot perhaps none shows.
      if (EACH === 0) expect(seen).toBeGreaterThan(0);
    },
    LONG,
  );
});

/** A table of interrupts is followed from where the IOMMU looks at it, and without messages it looks nowhere. */
function looked(all: readonly Finding[]): Finding[] {
  return all.filter((f) => !f.message.startsWith('the IRTE'));
}

/**
 * What a machine hears of a guest: none of its functions sends messages here. Memory that is compared does not show a store
 * over which another one went before the next event.
 */
function heard(all: Mutant['events'], hearing: Hearing): Mutant['events'] {
  const after = new Set<number>();
  const events = renumbered(all.filter((e) => e.t !== 'remap'));
  if (hearing === 'told') return events;
  const kept = events.toReversed().filter((e) => {
    if (e.t === 'st' && e.size === 8 && after.has(e.gpa)) return false;
    if (e.t === 'st') after.add(e.gpa);
    else if (e.t !== 'page' && e.t !== 'drop' && e.t !== 'note') after.clear();
    return true;
  });
  return renumbered(kept.toReversed());
}

/** Faults of a recording: by default one of every third kind, else as many as asked for by lot. */
function some(r: Recording): Mutant[] {
  const all = [...mutants(r, SEED, 1)];
  if (EACH === 0) return all.filter((_, n) => n % 3 === 0);
  const next = random(SEED);
  const drawn: Mutant[] = [];
  while (drawn.length < EACH && all.length > 0) drawn.push(...all.splice(Math.floor(next() * all.length), 1));
  return drawn;
}

/**
 * What only the order of stores between two events shows, and what a page that was dropped and came back has the benefit of
 * the doubt for: when it was written in between is not known.
 */
const ORDER: ReadonlySet<string> = new Set(['torn-entry', 'valid-before-filled', 'tag-reused']);

function errorsOf(all: readonly Finding[], before: ReadonlySet<string>): string[] {
  return [...new Set(all.flatMap((f) => (f.severity === 'error' && !before.has(f.rule) ? [f.rule] : [])))];
}

function found(r: Recording, events: Recording['events'], hearing: Hearing, before: ReadonlySet<string>): string[] {
  return errorsOf(new RecordedAgain(r.header, hearing).run(events).judge.findings(), before);
}
