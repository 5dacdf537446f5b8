import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Api, apiOf, undocumented } from './api.ts';
import { build, entries } from './build.ts';

/** Types that public declarations name and no subpath exports yet; public members without a doc comment yet. */
const MISSING_TODAY = 200;
const UNDOCUMENTED_TODAY = 450;

let folder = '';
let remove = (): void => {};
let api: Api;

beforeAll(() => {
  ({ folder, remove } = build());
  api = apiOf(folder, entries());
}, 120_000);

afterAll(() => remove());

test('every type a public declaration names can be imported from a subpath', () => {
  const missing = [...api.missing]
    .map(([d, by]) => `${d.file.slice(folder.length + 1)}: ${d.name}, which ${by.name} names`)
    .sort();
  if (missing.length > MISSING_TODAY) expect(missing).toEqual([]);
});

test('public types come from this package and from dependencies with types of their own', () => {
  expect([...api.packages].sort()).toEqual(['eventemitter3']);
});

test('every public declaration and every member of one has a doc comment', () => {
  const bare = undocumented(folder, api);
  if (bare.length > UNDOCUMENTED_TODAY) expect(bare).toEqual([]);
});
