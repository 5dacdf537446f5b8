import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { rolldown } from 'rolldown';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { build, entries } from './build.ts';

// How much there is to load. Files and bytes are counted, not milliseconds: those are for `npm run bench`.

let folder = '';
let remove = (): void => {};

beforeAll(async () => {
  ({ folder, remove } = await build());
}, 120_000);

afterAll(() => remove());

/** Files that importing one of them loads. */
function files(file: string, seen: Set<string> = new Set()): Set<string> {
  if (seen.has(file)) return seen;
  seen.add(file);
  const text = readFileSync(file, 'utf8');
  for (const [, specifier] of text.matchAll(/^(?:import|export)\b[^;]*?["'](\.[^"']+)["'];?$/gm))
    files(join(dirname(file), specifier!), seen);
  return seen;
}

test.each(entries())('$name is loaded from few files', ({ code }) => {
  expect(files(join(folder, code)).size).toBeLessThanOrEqual(60);
});

test('every class that a subpath exports is one class, whichever subpath it comes from', async () => {
  const known = new Map<string, unknown>();
  const twice: string[] = [];
  for (const { name, code } of entries()) {
    for (const [exported, value] of Object.entries(await import(join(folder, code)))) {
      if (typeof value !== 'function' && (typeof value !== 'object' || value === null)) continue;
      if (known.has(exported) && known.get(exported) !== value) twice.push(`${exported} of ${name}`);
      known.set(exported, value);
    }
  }
  expect(known.size).toBeGreaterThan(100);
  expect(twice).toEqual([]);
});

/** Bytes of a subpath as a web page gets it: tree-shaken, minified, packed. */
async function packed(code: string): Promise<number> {
  const all = await rolldown({
    input: join(folder, code),
    platform: 'neutral',
    treeshake: { moduleSideEffects: false },
    external: [/^node:/, /^(eventemitter3|binary-parser|protobufjs|v86)(\/|$)/],
  });
  const { output } = await all.generate({ format: 'esm', minify: true });
  await all.close();
  return gzipSync(output[0].code, { level: 9 }).length;
}

test.each([
  ['viommu', 8],
  ['viommu/smmuv3', 39],
  ['viommu/vtd', 47],
  ['viommu/endpoints', 25],
  ['viommu/bus', 15],
  ['viommu/host', 62],
  ['viommu/machine', 216],
])('%s has at most %d KiB, minified and packed', async (name, most) => {
  const { code } = entries().find((e) => e.name === name)!;
  expect(Math.round((await packed(code)) / 102.4) / 10).toBeLessThanOrEqual(most);
});

test('`viommu help` loads none of the commands', () => {
  const hook = `data:text/javascript,export async function load(url, context, next) {
    if (url.startsWith('file:')) process._rawDebug(url);
    return next(url, context);
  }`;
  const args = ['--no-warnings', '--experimental-loader', hook, 'dist/tools/viommu.js', 'help'];
  const { stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  const loaded = stderr.split('\n').filter((line) => line.startsWith('file:'));
  expect(loaded.length).toBeGreaterThan(2);
  expect(loaded.length).toBeLessThanOrEqual(8);
});
