import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import type { MakeReplayTarget } from '../../src/trace/index.ts';
import { mergeCommand } from '../../tools/commands/merge.ts';
import { replayCommand } from '../../tools/commands/replay.ts';
import { sanitizeCommand } from '../../tools/commands/sanitize.ts';
import { fuzzMain } from '../../tools/fuzz/main.ts';
import { Finding, type FuzzTarget } from '../../tools/fuzz/target.ts';
import { FakeTarget } from '../trace/fake-target.ts';
import { type Line, numbered, SMMU_HEADER, TraceFolder } from '../trace/files.ts';
import { run as program } from './program.ts';
import { viommu } from './run.ts';

// Shards of a campaign, merged, say what one run says: each line, each object, the exit status.

const RUNS = Number(process.env.VIOMMU_SHARDS ?? 12);
const folder = mkdtempSync(join(tmpdir(), 'viommu-shards-'));
const traces = new TraceFolder();
afterAll(() => {
  traces.remove();
  rmSync(folder, { recursive: true, force: true });
});

const make: MakeReplayTarget = (_header, _options, tell) => new FakeTarget(tell);
const COMMANDS = [replayCommand(make), sanitizeCommand(makeReplayMachine), mergeCommand];
const header: Line = { ...SMMU_HEADER, source: { cmdline: '', commands: { SMMU_CMD_SYNC: 2 } } };
const GUEST: Line[] = [
  { t: 'w', off: '0x98', size: 4, val: '0x2' },
  { t: 'r', off: '0x98', size: 4, val: '0x2' },
];
/** Recordings that match, differ, are none, are not there. */
const FILES = [
  traces.lines(header, numbered(GUEST)),
  traces.lines(header, numbered([GUEST[0]!])),
  traces.lines(header, numbered([GUEST[0]!, { ...GUEST[1], val: '0x3' }])),
  traces.text('no recording\n'),
  '/nowhere/trace.gz',
];

/** What is told, without times: they are the only thing that may differ. */
const timeless = (lines: readonly string[]): string[] =>
  lines.map((l) =>
    l
      .replace(/"seconds":[\d.]+/g, '"seconds":0')
      .replaceAll(/\b\d+\.\d\d?\b( s)?/g, 'S')
      .replaceAll(/ +/g, ' '),
  );
const complaints = (lines: readonly string[]): string[] =>
  lines.filter((l) => /^viommu |differences|expected|got/.test(l));

async function shards(args: readonly string[], count: number): Promise<string[]> {
  const paths: string[] = [];
  for (let n = 1; n <= count; n++) {
    const path = join(folder, `${args[0]}-${n}-of-${count}.json`);
    await viommu(COMMANDS, [...args.slice(0, 1), '--shard', `${n}/${count}`, '--results', path, ...args.slice(1)]);
    paths.push(path);
  }
  return paths;
}

async function equal(args: readonly string[], count: number, order: (paths: string[]) => string[]): Promise<void> {
  const json = args.includes('--json') ? ['--json'] : [];
  const one = await viommu(COMMANDS, args);
  const merged = await viommu(COMMANDS, ['merge', ...json, ...order(await shards(args, count))]);
  expect(timeless(merged.out)).toEqual(timeless(one.out));
  expect(complaints(merged.err)).toEqual(complaints(one.err));
  expect(merged.status).toBe(one.status);
}

describe('shards, merged, are one run', () => {
  test.each(['replay', 'sanitize'])('%s, of any recordings, in 1 to 5 shards, in any order', async (verb) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom(...FILES), { minLength: 1, maxLength: 9 }),
        fc.integer({ min: 1, max: 5 }),
        fc.boolean(),
        fc.boolean(),
        (files, count, json, reversed) =>
          equal([verb, ...(json ? ['--json'] : []), ...files], count, (p) => (reversed ? p.toReversed() : p)),
      ),
      { numRuns: RUNS },
    );
  });

  test('sanitize, of a recording with findings', async () => {
    const found = 'guest-fixtures/recordings/vtd-xen-register-invalidation.ndjson.gz';
    const clean = 'guest-fixtures/recordings/smmuv3-boot.ndjson.gz';
    await equal(['sanitize', '--at-least', 'hint', clean, found, clean], 2, (p) => p);
  });

  test('the built program, over files', () => {
    const two = ['guest-fixtures/recordings/smmuv3-boot.ndjson.gz', 'guest-fixtures/recordings/vtd-boot.ndjson.gz'];
    const paths = [1, 2, 3].map((n) => {
      const path = join(folder, `built-${n}.json`);
      expect(program(['replay', '--quiet', '--shard', `${n}/3`, '--results', path, ...two]).status).toBe(0);
      return path;
    });
    const merged = program(['merge', '--json', ...paths]);
    expect(merged.status).toBe(0);
    expect(timeless(merged.out.split('\n'))).toEqual(timeless(program(['replay', '--json', ...two]).out.split('\n')));
  });

  test('what was merged is a file of results itself', async () => {
    const args = ['replay', FILES[0]!, FILES[2]!];
    const whole = join(folder, 'whole.json');
    const first = await viommu(COMMANDS, ['merge', '--results', whole, ...(await shards(args, 2))]);
    const again = await viommu(COMMANDS, ['merge', whole]);
    expect([again.status, again.out]).toEqual([first.status, first.out]);
  });
});

describe('npm run fuzz', () => {
  const told: string[] = [];
  beforeAll(() => vi.spyOn(console, 'log').mockImplementation((line: string) => void told.push(line)));
  afterAll(() => vi.restoreAllMocks());

  /** Fails for inputs of which one step is below a limit; steps vary in number. */
  const toy = (limit: number, climbs: boolean): FuzzTarget => ({
    name: 'toy',
    summary: 'a toy',
    length: 12,
    generate: (rnd, length) => ({
      config: {},
      steps: Array.from({ length: 1 + rnd.below(length) }, () => [rnd.below(1000)]),
    }),
    run(input) {
      if (input.steps.some((s) => Number(s[0]) < limit)) throw new Finding('one is small');
      return climbs ? { cost: input.steps.reduce((sum, s) => sum + Number(s[0]), 0) } : {};
    },
    ...(climbs
      ? {
          mutate: (input, rnd) => ({
            ...input,
            steps: input.steps.map((s) => [Math.min(999, Number(s[0]) + rnd.below(3))]),
          }),
        }
      : {}),
  });

  test('any seed and number of inputs, with and without a finding, searches too, in 1 to 5 shards', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 1000 }),
        fc.integer({ min: 1, max: 1200 }),
        fc.constantFrom(0, 1, 5),
        fc.boolean(),
        fc.integer({ min: 1, max: 5 }),
        async (seed, inputs, limit, climbs, count) => {
          const target = toy(limit, climbs);
          const done: string[] = [];
          const run = async (shard: string): Promise<number> => {
            const path = join(folder, `fuzz-${done.length}.json`);
            done.push(path);
            const args = [
              'toy',
              '--seed',
              `${seed}`,
              '--inputs',
              `${inputs}`,
              '--out',
              folder,
              '--shard',
              shard,
              '--results',
              path,
            ];
            return await fuzzMain(args, [target]);
          };
          told.length = 0;
          const status = await run('1/1');
          const alone = [...told];
          for (let n = 1; n <= count; n++) await run(`${n}/${count}`);
          for (const json of [[], ['--json']]) {
            const one = await viommu(COMMANDS, ['merge', ...json, done[0]!]);
            const merged = await viommu(COMMANDS, ['merge', ...json, ...done.slice(1)]);
            expect(timeless(merged.out)).toEqual(timeless(one.out));
            expect([merged.status, one.status]).toEqual([status, status]);
            if (json.length === 0) expect(timeless(merged.out)).toEqual(timeless(alone));
          }
        },
      ),
      { numRuns: RUNS },
    );
  });
});

describe('what is no whole campaign is refused with status 2', () => {
  test('a missing shard, one that is there twice, another campaign, half a file, no results', async () => {
    const args = ['replay', FILES[0]!, FILES[1]!, FILES[2]!];
    const [a, b, c] = (await shards(args, 3)) as [string, string, string];
    const other = (await shards(['sanitize', FILES[0]!, FILES[1]!, FILES[2]!], 3))[2]!;
    const half = join(folder, 'half.json');
    writeFileSync(half, readFileSync(a, 'utf8').slice(0, 100));
    const list = join(folder, 'list.json');
    writeFileSync(list, '[1]');
    const newer = join(folder, 'newer.json');
    writeFileSync(newer, '{"format":"viommu-results","version":2}');
    const refused: [string[], RegExp][] = [
      [[a, c], /shard 2 of 3 is missing/],
      [[a, b, c, b], /are both shard 2\/3/],
      [[a, b, other], /is of another campaign/],
      [[a, b, half], /half\.json: is no file of --results, or half of one/],
      [[list], /list\.json: is no file of --results/],
      [[newer], /version 2, expected 1/],
      [['/nowhere.json'], /nowhere\.json: cannot be read: no such file/],
      [[], /expected at least one file of --results/],
    ];
    for (const [paths, why] of refused) {
      const { status, err, out } = await viommu(COMMANDS, ['merge', ...paths]);
      expect([paths, status, out]).toEqual([paths, 2, []]);
      expect(err[0]).toMatch(why);
    }
  });

  test.each(['0/3', '4/3', '1', '1/0', 'a/b', '1/2/3', '-1/3'])('--shard %s', async (text) => {
    const { status, err } = await viommu(COMMANDS, ['replay', `--shard=${text}`, FILES[0]!]);
    expect(status).toBe(2);
    expect(err[0]).toMatch(/--shard: expected I\/N with I from 1 to N/);
  });
});
