import { expect, test } from 'vitest';
import { exportsOf, sources } from './sources.ts';

/** Names that still mean several things. */
const TWINS_TODAY: readonly string[] = [
  'Attacher',
  'Backend',
  'CommandQueue',
  'Context',
  'ContextSlot',
  'Difference',
  'Domain',
  'Domains',
  'ENTRY_WORDS',
  'EVENT',
  'Ecam',
  'Faults',
  'Identity',
  'Invalidation',
  'InvalidationQueue',
  'Master',
  'OP',
  'PRG',
  'PageAllocator',
  'PageRequests',
  'ProfileName',
  'QueueListener',
  'STATUS',
  'Shadow',
  'Slot',
  'Stalls',
  'Stream',
  'StreamTable',
  'Streams',
  'TableReader',
  'UnitState',
  'User',
  'defaultProperties',
  'joined',
  'levelShift',
  'userData',
];

test('every exported name of src, devices and bus means one thing', () => {
  const files = new Map<string, string[]>();
  for (const source of sources('src', 'devices', 'bus'))
    for (const name of exportsOf(source)) files.set(name, [...(files.get(name) ?? []), source.path]);
  const twins = [...files].filter(([name, where]) => where.length > 1 && !TWINS_TODAY.includes(name));
  expect(twins.map(([name, where]) => `${name}: ${where.join(', ')}`).sort()).toEqual([]);
});

test('constants, types and lists are seen as exports, names handed on are not', () => {
  const text = [
    'export const A = 1;',
    'export type A = typeof A;',
    'export abstract class B {}',
    'export async function c() {}',
    'const d = 1;',
    'export { d, d as e };',
    "export { f } from './f.ts';",
  ].join('\n');
  expect([...exportsOf({ path: 'x.ts', text })]).toEqual(['A', 'B', 'c', 'd', 'e']);
});
