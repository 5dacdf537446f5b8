import { expect, test } from 'vitest';
import { exportsOf, sources } from './sources.ts';

test('every exported name of src, devices and bus means one thing', () => {
  const files = new Map<string, string[]>();
  for (const source of sources('src', 'devices', 'bus'))
    for (const name of exportsOf(source)) files.set(name, [...(files.get(name) ?? []), source.path]);
  const twins = [...files].filter(([, where]) => where.length > 1);
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
