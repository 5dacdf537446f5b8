import { readdirSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { judge, recording } from './spoil.ts';

const NAMES = readdirSync('guest-fixtures/recordings')
  .filter((f) => f.endsWith('.ndjson.gz'))
  .map((f) => f.slice(0, -'.ndjson.gz'.length));

/** What remains on real guests, each with its explanation: recording to `rule: explanation`. */
const EXPLAINED: Readonly<Record<string, readonly string[]>> = {};

describe('recorded guests', () => {
  test.each(NAMES)('%s: nothing of warning level or above is found but what is explained', async (name) => {
    const r = await recording(name);

    const found = judge(r.header, r.events).filter((f) => f.severity !== 'hint');

    expect(found.map((f) => f.rule)).toEqual((EXPLAINED[name] ?? []).map((text) => text.split(':')[0]));
  });
});
