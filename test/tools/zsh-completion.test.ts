import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { has } from '../package/installed.ts';
import { run } from './program.ts';

/**
 * An interactive zsh on a terminal of its own: somebody types a line and presses Tab; a key of ours then keeps the line as the
 * shell's editor has it.
 */
const DRIVE = `
zmodload zsh/zpty || exit 2
zpty z zsh -f -i
type_in() { zpty -w -n z "$1"; }
until_there() { for i in {1..400}; do [[ -s $1 ]] && return 0; zpty -r -t z t >/dev/null 2>&1; sleep 0.05; done; return 1; }
type_in "cd $1; fpath=($1 \\$fpath); autoload -Uz compinit; compinit -u -D; kept() { print -r -- \\"\\$BUFFER\\" > $1/line; BUFFER= }; zle -N kept; bindkey '^X^K' kept; print ready > $1/ready"$'\\n'
until_there $1/ready || exit 3
type_in "$2"$'\\t\\x18\\x0b'
until_there $1/line || exit 4
cat $1/line
zpty -d z
`;

describe.runIf(has('zsh', '-f', '-c', 'zmodload zsh/zpty'))('zsh, where it is installed', () => {
  const folder = mkdtempSync(join(tmpdir(), 'viommu-zsh-'));
  beforeAll(() => {
    writeFileSync(join(folder, '_viommu'), run(['completion', 'zsh']).out);
    writeFileSync(join(folder, 'drive'), DRIVE);
    writeFileSync(join(folder, 'boot.ndjson.gz'), '');
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test.each([
    ['viommu rep', 'viommu replay '],
    ['viommu replay --ca', 'viommu replay --caches '],
    ['viommu replay --caches o', 'viommu replay --caches off '],
    ['viommu export --to p', 'viommu export --to perfetto '],
    ['viommu replay bo', 'viommu replay boot.ndjson.gz '],
  ])('%s, Tab: %s', (typed, completed) => {
    for (const f of ['line', 'ready']) if (existsSync(join(folder, f))) rmSync(join(folder, f));
    const { stdout, status } = spawnSync('zsh', ['-f', join(folder, 'drive'), folder, typed], { encoding: 'utf8' });
    expect([status, stdout]).toEqual([0, `${completed}\n`]);
  });
});
