import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { fuzz, inputOf } from '../../../tools/fuzz/fuzz.ts';
import { fuzzMain } from '../../../tools/fuzz/main.ts';
import { Finding, type FuzzTarget } from '../../../tools/fuzz/target.ts';
import { TARGETS } from '../../../tools/fuzz/targets/index.ts';

/** Inputs of each target; VIOMMU_FUZZ sets another number. */
const INPUTS = Number(process.env.VIOMMU_FUZZ ?? 3);

/** Fails when 7 is in a step, and a step after that has a number above 1000. */
const toy: FuzzTarget = {
  name: 'toy',
  summary: 'a toy',
  length: 60,
  generate: (rnd, length) => ({
    config: { a: 1 },
    steps: Array.from({ length }, () => ['n', rnd.below(20), rnd.below(5000)]),
  }),
  run(input) {
    const at = input.steps.findIndex((s) => s[1] === 7);
    const large = input.steps.findIndex((s, i) => i > at && Number(s[2]) > 1000);
    if (at >= 0 && large > at) throw new Finding(`seven at ${at}, large at ${large}`);
    return {};
  },
};

describe('the fuzzer', () => {
  test('makes the same inputs for the same seed, each without those before it', () => {
    for (const target of TARGETS) {
      if ((target.missing?.() ?? null) !== null) continue;
      expect(inputOf(target, 5, 3)).toEqual(inputOf(target, 5, 3));
      expect(inputOf(target, 5, 3)).not.toEqual(inputOf(target, 6, 3));
    }
  });

  test('cuts an input to the steps and the numbers that it needs', async () => {
    const { found } = await fuzz(toy, { seed: 3, inputs: 100 });
    const [seven, large, ...more] = found!.input.steps;
    expect([more, seven![1], Number(large![2]) > 1000, Number(large![2]) <= 2001]).toEqual([[], 7, true, true]);
    expect([seven![2], found!.before]).toEqual([0, 60]);
  });
});

describe('a short run of', () => {
  test.each(TARGETS.filter((t) => (t.missing?.() ?? null) === null))(
    '$name finds nothing',
    async (target) => {
      const result = await fuzz(target, { seed: 20, inputs: INPUTS });
      expect(result.found).toBe(null);
      expect(result.inputs).toBe(INPUTS);
    },
    600_000,
  );
});

describe('npm run fuzz', () => {
  let folder = '';
  let out: string[] = [];
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'viommu-fuzz-test-'));
    out = [];
    for (const to of ['log', 'error'] as const)
      vi.spyOn(console, to).mockImplementation((line: string) => void out.push(line));
  });
  afterEach(() => {
    vi.restoreAllMocks();
    rmSync(folder, { recursive: true, force: true });
  });
  const run = (...args: string[]) => fuzzMain(args, [...TARGETS, toy]);

  test('lists its targets, explains itself with an example, and refuses what it does not know with status 2', async () => {
    expect(await run('--list')).toBe(0);
    expect(out.map((l) => l.split(' ')[0])).toEqual([...TARGETS.map((t) => t.name), 'toy']);
    out.length = 0;
    expect(await run('--help')).toBe(0);
    expect(out.join()).toContain('Example:');
    for (const wrong of [
      [],
      ['nothing'],
      ['toy', '--minutes', 'x'],
      ['toy', '--seed', ''],
      ['toy', '--inputs', '0'],
      ['toy', '--what'],
      ['toy', '--replay', join(folder, 'none')],
    ]) {
      out.length = 0;
      expect([wrong, await run(...wrong)]).toEqual([wrong, 2]);
      expect(out.at(-1)).toContain('usage: npm run fuzz');
    }
  });

  test('says 0 when nothing is found, 1 when something is, writes that down, and plays it again', async () => {
    expect(await run('uapi', '--inputs', '2', '--seed', '9')).toBe(0);
    expect(out.at(-1)).toMatch(/uapi: seed 9: 2 inputs, \d+ steps in [\d.]+ s: nothing found/);
    expect(await run('toy', '--minutes', '0.1', '--seed=-4', '--out', folder)).toBe(1);
    const [file] = readdirSync(folder);
    expect(file).toMatch(/^fuzz-toy--4-\d+\.json$/);
    const path = join(folder, file!);
    out.length = 0;
    expect(await run('toy', '--replay', path)).toBe(1);
    expect(out[0]).toContain('seven at 0, large at 1');
    // Every step is a line: one is taken away by hand.
    writeFileSync(path, readFileSync(path, 'utf8').replace(/^ {4}\["n",7.*\n/m, ''));
    expect(await run('toy', '--replay', path)).toBe(0);
    expect(await run('uapi', '--replay', path)).toBe(2);
  });
});
