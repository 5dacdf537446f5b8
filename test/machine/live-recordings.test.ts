import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { replayFile } from '../../tools/replay/run.ts';

const MANIFEST = JSON.parse(readFileSync('guest-fixtures/manifest.json', 'utf8')) as {
  readonly recordings: readonly { readonly file: string; readonly source: string; readonly shows: string }[];
};
const LIVE = MANIFEST.recordings.filter((r) => r.source.startsWith('npm run live'));

test('every live adapter has its recordings', () => {
  const names = LIVE.map((r) => r.file).join(' ');
  for (const kind of ['smmuv3-live', 'vtd-live', 'vtd-v86']) expect(names).toContain(kind);
});

test.each(LIVE.map((r) => [r.file, r] as const))('%s replays as it was lived', async (file, r) => {
  const result = await replayFile(`guest-fixtures/recordings/${file}`, makeReplayMachine, {});

  expect(result.differences).toEqual([]);
  expect(result.ok, r.shows).toBe(true);
  expect(result.columns.translations.total).toBeGreaterThan(1000);
});

test.each(['smmuv3-live', 'vtd-live-legacy'])('%s diverges when its invalidations are swallowed', async (name) => {
  const path = `guest-fixtures/recordings/${name}.ndjson.gz`;
  const result = await replayFile(path, makeReplayMachine, { ignoreInvalidations: true });

  expect(result.ok).toBe(false);
  expect(result.columns.translations.matched).toBeLessThan(result.columns.translations.total);
});
