import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterAll, describe, expect, test } from 'vitest';
import { runCommand } from '../../tools/cli/command.ts';
import { session } from '../../tools/cli/session.ts';
import { COMMANDS } from '../../tools/commands/index.ts';
import { bash, run, start } from './program.ts';

// The program from outside: what a shell, a script and a person at a terminal see of it.

const RECORDINGS = 'guest-fixtures/recordings';
const SMALL = `${RECORDINGS}/vtd-v86-nested.ndjson.gz`;
const LONG = `${RECORDINGS}/smmuv3-default.ndjson.gz`;
const VERBS = COMMANDS.map((c) => c.name);
const folder = mkdtempSync(join(tmpdir(), 'viommu-program-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('help', () => {
  test('lists every verb, and says the options that all have', () => {
    const { status, out } = run(['help']);
    expect(status).toBe(0);
    for (const { name, summary } of COMMANDS) expect(out).toContain(`  ${name.padEnd(12)}${summary}`);
    for (const option of ['--json', '--quiet', '--color', '--help', '--version']) expect(out).toContain(`  ${option}`);
  });

  test('--help and -h say the same as help, without a verb and with one', () => {
    expect(run(['--help'])).toEqual(run(['help']));
    expect(run(['-h'])).toEqual(run(['help']));
    expect(run(['help', 'replay'])).toEqual(run(['replay', '--help']));
  });

  test.each(VERBS)('%s --help has a line of usage, an example that names it, and the common options', async (verb) => {
    const out: string[] = [];
    const err: string[] = [];
    const io = { out: (l: string) => void out.push(l), err: (l: string) => void err.push(l) };
    expect(await runCommand(COMMANDS, [verb, '--help'], io)).toBe(0);
    const text = out.join('\n');
    expect(text).toMatch(new RegExp(`^Usage: viommu ${verb} `));
    expect(text).toMatch(new RegExp(`Examples?:\\n(  .*\\n)*?  .*viommu ${verb}\\b`));
    for (const option of ['--json', '--quiet', '--color <when>']) expect(text).toContain(option);
    expect(err).toEqual([]);
  });

  test('--version is that of package.json', () => {
    const { status, out } = run(['--version']);
    expect([status, out]).toEqual([0, `${process.env.npm_package_version ?? '0.1.0'}\n`]);
  });

  test('nothing at all is a usage error that shows the list', () => {
    const { status, out, err } = run([]);
    expect([status, out]).toEqual([2, '']);
    expect(err).toMatch(/^usage: viommu COMMAND/);
  });
});

describe('what is not known', () => {
  test.each([
    [['repaly', SMALL], "viommu: unknown command 'repaly' (Did you mean replay?)"],
    [['sanitise'], "viommu: unknown command 'sanitise' (Did you mean sanitize?)"],
    [['replay', '--cahces', 'off', SMALL], "viommu replay: unknown option '--cahces' (Did you mean --caches?)"],
    [['replay', '--jsno', SMALL], "viommu replay: unknown option '--jsno' (Did you mean --json?)"],
    [['--quite', 'replay', SMALL], "viommu: unknown option '--quite' (Did you mean --quiet?)"],
    [['explain', SMALL, SMALL], "viommu explain: too many arguments for 'explain'. Expected 1 argument but got 2."],
    [['replay', '--color', 'blue', SMALL], 'viommu: --color: expected auto, always or never, found "blue"'],
  ])('%j: status 2, what would do, and no other line but the usage', (args, said) => {
    const { status, out, err } = run(args);
    expect([status, out]).toEqual([2, '']);
    const lines = err.trimEnd().split('\n');
    expect(lines[0]).toBe(said);
    expect(lines.length).toBe(2);
    expect(lines[1]).toMatch(/^usage: viommu/);
  });
});

describe('options of all verbs', () => {
  test('--quiet leaves results and complaints, before the verb and after it', () => {
    const { status, out, err } = run(['replay', '--quiet', SMALL]);
    expect([status, err]).toEqual([0, '']);
    expect(out).toContain('matches');
    const before = run(['--quiet', 'replay', SMALL, 'no-such-file']);
    expect(before.status).toBe(2);
    expect(before.err).toBe('viommu replay: no-such-file: cannot be read: no such file\n');
  });

  test('--json: every line of the standard output is an object', () => {
    const csv = join(folder, 'x.csv');
    const log = join(folder, 'x.log');
    writeFileSync(log, '0 w 0x18 4 1\n');
    const lines: [string[], number][] = [
      [['replay', '--json', SMALL], 1],
      [['explain', '--json', SMALL], 5],
      [['sanitize', '--json', SMALL], 1],
      [['sanitize', '--json', '--rules'], 20],
      [['export', '--json', '--to', 'csv', '--output', csv, SMALL], 1],
      [['import', '--json', 'mmio', '--iommu', 'vtd', '--output', join(folder, 'x.ndjson'), log], 1],
      [['iommufd', '--json', '--replay', 'guest-fixtures/iommufd/golden-7.2.13.txt.gz'], 1],
    ];
    for (const [args, least] of lines) {
      const { status, out } = run(args);
      expect([args, status]).toEqual([args, 0]);
      const objects = out.trimEnd().split('\n');
      expect(objects.length).toBeGreaterThanOrEqual(least);
      for (const line of objects) expect(JSON.parse(line)).toBeTypeOf('object');
    }
  });

  test('a pipe has no colours unless they are asked for, whatever NO_COLOR says', () => {
    const ESC = '\x1b[';
    expect(run(['replay', SMALL]).out).not.toContain(ESC);
    expect(run(['replay', '--color', 'auto', SMALL]).out).not.toContain(ESC);
    expect(run(['replay', '--color', 'always', SMALL], { NO_COLOR: '1' }).out).toContain(`${ESC}32mmatches`);
    expect(run(['replay', '--color', 'always', '--help']).out).toContain(`${ESC}1mUsage:`);
  });

  test('a terminal has colours unless NO_COLOR or --color never says no', async () => {
    const shown = async (colors: boolean, ...args: string[]) => {
      const out: string[] = [];
      await runCommand(COMMANDS, ['replay', ...args, SMALL], { out: (l) => void out.push(l), err: () => {}, colors });
      return out.join('\n').includes('\x1b[');
    };
    expect(await shown(true)).toBe(true);
    expect(await shown(true, '--color', 'never')).toBe(false);
    expect(await shown(false)).toBe(false);
  });
});

describe('progress', () => {
  const told = (common: object, terminal: boolean) => {
    let clock = 0;
    const shown: string[] = [];
    const lines: string[] = [];
    const io = {
      out: (l: string) => void lines.push(l),
      err: (l: string) => void lines.push(l),
      ...(terminal ? { show: (t: string) => void shown.push(t) } : {}),
    };
    const s = session(io, common, () => clock);
    for (clock = 0; clock < 2000; clock += 10) s.progress(`${clock}`);
    s.out('result');
    s.out('another');
    return { shown, lines };
  };

  test('is shown on a terminal after a second, at most ten times a second, and taken away before a line', () => {
    const { shown, lines } = told({}, true);
    expect(shown[0]).toBe('1000');
    expect(shown.length).toBe(11);
    expect(shown.at(-1)).toBe('');
    expect(lines).toEqual(['result', 'another']);
  });

  test('is not shown with --quiet, nor where there is no terminal', () => {
    expect(told({ quiet: true }, true).shown).toEqual([]);
    expect(told({}, false)).toEqual({ shown: [], lines: ['result', 'another'] });
    expect(run(['replay', LONG]).err).toMatch(/^[^\n]*all as recorded\n$/);
  });
});

describe('pipes and signals', () => {
  test('a reader that goes away ends it quietly', () => {
    const { out, err } = bash(`$VIOMMU export --quiet --to csv ${LONG} | head -n 1; echo "\${PIPESTATUS[0]}"`);
    expect(err).toBe('');
    expect(out.split('\n')[1]).toMatch(/^141$/);
  });

  test('a closed standard error does not keep the result away', () => {
    const { status, out } = bash(`$VIOMMU replay ${SMALL} 2> >(exec 0<&-)`);
    expect(status).toBe(0);
    expect(out).toContain('matches');
  });

  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)('%s in the middle of an export: status %i, and nothing is left', async (signal, status) => {
    const mine = mkdtempSync(join(folder, 'signal-'));
    const child = start(['export', '--to', 'json', '--output', 'out.json', join(process.cwd(), LONG)], mine);
    let err = '';
    child.stderr!.on('data', (d) => {
      err += d;
    });
    const over = new Promise((done) => child.once('exit', done));
    while (readdirSync(mine).length === 0) await setTimeout(5);
    child.kill(signal);
    expect(await over).toBe(status);
    expect(readdirSync(mine)).toEqual([]);
    expect(err).toBe('');
  });
});
