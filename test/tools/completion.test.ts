import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { COMMANDS } from '../../tools/commands/index.ts';
import type { CompletedVerb } from '../../tools/completion/verbs.ts';
import { has } from '../package/installed.ts';
import { run } from './program.ts';

const folder = mkdtempSync(join(tmpdir(), 'viommu-completion-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const SHELLS = ['bash', 'zsh', 'fish'] as const;
const verbs = run(['completion', '--json', 'bash'])
  .out.trimEnd()
  .split('\n')
  .map((line) => JSON.parse(line) as CompletedVerb);
const script = Object.fromEntries(SHELLS.map((s) => [s, run(['completion', s]).out]));

/** What bash offers for the last of these words. */
function bash(...words: string[]): string[] {
  const path = join(folder, 'viommu.bash');
  writeFileSync(path, script.bash!);
  const set = words.map((w) => `'${w}'`).join(' ');
  const text = `source ${path}; COMP_WORDS=(${set}); COMP_CWORD=${words.length - 1}; _viommu; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { stdout, stderr } = spawnSync('bash', ['--noprofile', '--norc', '-c', text], {
    encoding: 'utf8',
    cwd: folder,
  });
  expect(stderr).toBe('');
  return stdout.split('\n').filter((l) => l !== '');
}

test('every verb with every option it takes is known', () => {
  expect(verbs.map((v) => v.name)).toEqual(COMMANDS.map((c) => c.name));
  for (const v of verbs) {
    const help = run([v.name, '--help']).out;
    const shown = [...help.matchAll(/^ {2}(?:-h, )?(--[a-z-]+)/gm)].map((m) => m[1]!).filter((n) => n !== '--version');
    expect(v.options.map((o) => o.name).toSorted()).toEqual(shown.toSorted());
  }
});

test.each(SHELLS)('the script for %s has every verb and every option', (shell) => {
  for (const v of verbs) {
    expect(script[shell]).toContain(v.name);
    for (const o of v.options) expect(script[shell]).toContain(shell === 'fish' ? `-l ${o.name.slice(2)}` : o.name);
  }
});

test('bash completes verbs, options, values and files', () => {
  writeFileSync(join(folder, 'boot.ndjson.gz'), '');
  expect(bash('viommu', 'rep')).toEqual(['replay']);
  expect(bash('viommu', 'replay', '--ca')).toEqual(['--caches']);
  expect(bash('viommu', '--quiet', 'replay', '--ca')).toEqual(['--caches']);
  expect(bash('viommu', 'replay', '--caches', '')).toEqual(['full', 'off', 'tiny']);
  expect(bash('viommu', 'export', '--to', 'p')).toEqual(['perfetto']);
  expect(bash('viommu', 'sanitize', '--only', 'use-')).toEqual(['use-after-unmap']);
  expect(bash('viommu', 'replay', 'bo')).toEqual(['boot.ndjson.gz']);
  expect(bash('viommu', 'export', '--output', 'bo')).toEqual(['boot.ndjson.gz']);
  expect(bash('viommu', 'completion', 'z')).toEqual(['zsh']);
  expect(bash('viommu', 'import', 'q')).toEqual(['qemu-log']);
});

describe('the other shells, where they are installed', () => {
  test.runIf(has('fish', '--version'))('fish completes the same', () => {
    const path = join(folder, 'viommu.fish');
    writeFileSync(path, script.fish!);
    const offered = (line: string) => {
      const { stdout, stderr } = spawnSync('fish', ['--no-config', '-c', `source ${path}; complete -C '${line}'`], {
        encoding: 'utf8',
        cwd: folder,
      });
      expect(stderr).toBe('');
      return stdout
        .split('\n')
        .map((l) => l.split('\t')[0])
        .filter((l) => l !== '');
    };
    expect(offered('viommu rep')).toEqual(['replay']);
    expect(offered('viommu replay --ca')).toEqual(['--caches']);
    expect(offered('viommu replay --caches ')).toEqual(['full', 'off', 'tiny']);
    expect(offered('viommu completion z')).toContain('zsh');
  });

  test.runIf(has('zsh', '--version'))('zsh takes the script', () => {
    const path = join(folder, '_viommu');
    writeFileSync(path, script.zsh!);
    const text = `autoload -U compinit; compinit -D -u; source ${path}; print $_comps[viommu]`;
    const { stdout, stderr, status } = spawnSync('zsh', ['-f', '-c', text], { encoding: 'utf8' });
    expect([stderr, stdout, status]).toEqual(['', '_viommu\n', 0]);
  });
});

test('a shell nobody knows is refused', () => {
  const { status, err } = run(['completion', 'tcsh']);
  expect(status).toBe(2);
  expect(err).toMatch(/^viommu completion: expected one of bash, zsh, fish, found "tcsh"/);
});
