import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Api, apiOf, undocumented } from './api.ts';
import { build, entries } from './build.ts';

let folder = '';
let remove = (): void => {};
let api: Api;

beforeAll(async () => {
  ({ folder, remove } = await build());
  api = apiOf(folder, entries());
}, 120_000);

afterAll(() => remove());

test('every type a public declaration names can be imported from a subpath', () => {
  const missing = [...api.missing]
    .map(([d, by]) => `${d.file.slice(folder.length + 1)}: ${d.name}, which ${by.name} names`)
    .sort();
  expect(missing).toEqual([]);
});

test('public types come from this package and from dependencies with types of their own', () => {
  expect([...api.packages].sort()).toEqual(['eventemitter3']);
});

test('every public declaration and every member of one has a doc comment', () => {
  expect(undocumented(folder, api)).toEqual([]);
});
