import { expect, test } from 'vitest';
import { Sanitizer } from '../../src/sanitize/index.ts';
import { COMMAND_RULES, rulesOfGroups } from '../../src/sanitize/rules.ts';
import type { TraceEvent } from '../../src/trace/index.ts';
import { recording, renumbered } from './spoil.ts';

/** What is found in a recording of which only some events are left, and by reason what is not judged. */
async function left(name: string, keep: (e: TraceEvent) => boolean) {
  const r = await recording(name);
  const s = new Sanitizer(r.header);
  for (const e of renumbered(r.events.filter(keep))) s.event(e);
  const found = s.finish().filter((f) => f.severity !== 'hint');
  return { found: found.map((f) => f.rule), unjudged: s.findings.unjudged() };
}

const NAMES = ['smmuv3-boot', 'vtd-boot', 'vtd-svm-pasid'];

test.each(NAMES)('%s without memory: no rule about tables and commands is said to be judged', async (name) => {
  const { found, unjudged } = await left(name, (e) => !['st', 'page', 'drop'].includes(e.t));

  expect(found).toEqual([]);
  const rules = new Set([...unjudged.values()].flatMap((s) => [...s]));
  expect([...rules]).toEqual(expect.arrayContaining(rulesOfGroups('translations', 'configuration')));
  expect([...rules]).toEqual(expect.arrayContaining([...COMMAND_RULES]));
});

test.each(NAMES)(
  '%s without its queue: tables are followed, and nothing is missing that was not told',
  async (name) => {
    const r = await recording(name);
    const queue = new Set(r.events.flatMap((e) => (e.t === 'page' && e.kind === 'queue' ? [e.gpa] : [])));
    const inQueue = (gpa: number) => queue.has(gpa - (gpa % 4096));
    const { found, unjudged } = await left(name, (e) => !(e.t === 'st' || e.t === 'page') || !inQueue(e.gpa));

    expect(queue.size).toBeGreaterThan(0);
    expect(found).toEqual([]);
    expect([...unjudged.keys()].join()).toMatch(/queue was not recorded/);
  },
);

test('VT-d without what the unit wrote: nothing is said of what must wait', async () => {
  const { found, unjudged } = await left('vtd-svm-pasid', (e) => e.t !== 'dst');

  expect(found).toEqual([]);
  expect(unjudged.get('what the unit wrote for waits was not recorded')).toContain('invalidation-not-awaited');
});

test('SMMUv3 without register reads: nothing is said of what must wait', async () => {
  const { found, unjudged } = await left('smmuv3-boot', (e) => e.t !== 'r');

  expect(found).toEqual([]);
  expect([...unjudged.values()].some((rules) => rules.has('invalidation-not-awaited'))).toBe(true);
});

test.each(NAMES)('%s as it is: every rule about translations and configuration is judged', async (name) => {
  const { unjudged } = await left(name, () => true);

  const rules = new Set([...unjudged.values()].flatMap((s) => [...s]));
  for (const rule of rulesOfGroups('translations', 'configuration')) expect(rules).not.toContain(rule);
});
