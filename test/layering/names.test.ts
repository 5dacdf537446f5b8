import { expect, test } from 'vitest';
import { exportsOf, sources } from './sources.ts';

/** Rooms whose names are still being changed: a name of theirs may mean several things for now. */
const ROOMS_TODAY = ['devices/', 'src/host/', 'src/piommu/', 'src/lib/', 'src/spec/'];

test('every exported name of src, devices and bus means one thing', () => {
  const files = new Map<string, string[]>();
  for (const source of sources('src', 'devices', 'bus'))
    for (const name of exportsOf(source)) files.set(name, [...(files.get(name) ?? []), source.path]);
  const settled = (file: string): boolean => !ROOMS_TODAY.some((room) => file.startsWith(room));
  const twins = [...files].filter(([, where]) => where.length > 1 && where.every(settled));
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
