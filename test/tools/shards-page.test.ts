import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { blocks, workflowSteps } from '../package/installed.ts';
import { PROGRAM, run } from './program.ts';

// The scripts of docs/shards.md, as their engines run them: each task by itself, with its number in the environment.

const folder = mkdtempSync(join(tmpdir(), 'viommu-engines-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const page = new Map(blocks('docs/shards.md').map((b) => [b.name, b.text]));
const RECORDINGS = ['smmuv3-boot', 'smmuv3-guest-queue-wrap', 'vtd-boot'];

/** A folder with recordings, and programs in the place of those that are installed. */
function place(): {
  readonly cwd: string;
  sh(script: string, env?: Readonly<Record<string, string>>): { status: number | null; out: string };
} {
  const cwd = mkdtempSync(join(folder, 'place-'));
  for (const sub of ['bin', 'recordings', 'results']) mkdirSync(join(cwd, sub));
  for (const r of RECORDINGS)
    copyFileSync(`guest-fixtures/recordings/${r}.ndjson.gz`, join(cwd, 'recordings', `${r}.ndjson.gz`));
  const put = (name: string, text: string): void => {
    writeFileSync(join(cwd, 'bin', name), `#!/bin/bash\n${text}\n`);
    chmodSync(join(cwd, 'bin', name), 0o755);
  };
  put('viommu', `exec "${process.execPath}" "${PROGRAM}" "$@"`);
  put('npx', 'exec "$@"');
  put('npm', 'echo "npm $*"');
  return {
    cwd,
    sh(script, env = {}) {
      const PATH = `${join(cwd, 'bin')}:${process.env.PATH}`;
      const options = { cwd, encoding: 'utf8', env: { ...process.env, PATH, ...env } } as const;
      const ran = spawnSync('bash', ['--noprofile', '--norc', '-eo', 'pipefail', '-c', script], options);
      return { status: ran.status, out: ran.stdout };
    },
  };
}

const rows = (out: string): string[] =>
  out
    .trimEnd()
    .split('\n')
    .map((l) => l.replace(/\d+\.\d\d/, 'S').replaceAll(/ +/g, ' '));

describe('docs/shards.md', () => {
  test('a matrix in CI: each job its shard, then the verdict of one run', () => {
    const { cwd, sh } = place();
    const [, shard, , merge] = workflowSteps(page.get('shards.yml')!);
    const matrix = /shard: \[([\d, ]+)\]/.exec(page.get('shards.yml')!)![1]!.split(', ');
    for (const n of matrix) expect(sh(shard!.replaceAll(/\$\{\{ matrix\.shard \}\}/g, n)).status).toBe(0);
    expect(readdirSync(cwd).filter((f) => f.startsWith('shard-')).length).toBe(matrix.length);
    const verdict = sh(merge!);
    expect(verdict.status).toBe(0);
    const one = run(['replay', ...RECORDINGS.map((r) => join(cwd, 'recordings', `${r}.ndjson.gz`))]);
    expect(rows(verdict.out)).toEqual(rows(one.out));
  });

  test('an array of Slurm', () => {
    const { cwd, sh } = place();
    for (const id of ['1', '2'])
      expect(sh(page.get('array.sh')!, { SLURM_ARRAY_TASK_ID: id, SLURM_ARRAY_TASK_COUNT: '2' }).status).toBe(0);
    const one = run(['sanitize', ...RECORDINGS.map((r) => join(cwd, 'recordings', `${r}.ndjson.gz`))]);
    const merged = sh('viommu merge results/shard-*.json');
    expect(merged.status).toBe(one.status);
    expect(rows(merged.out)).toEqual(rows(one.out));
  });

  test('an Indexed Job of Kubernetes: pod 0 has shard 1, the last one the last', () => {
    const { sh } = place();
    const yaml = page.get('job.yaml')!;
    const script = yaml.slice(yaml.indexOf('- |') + 3, yaml.indexOf('volumeMounts'));
    const pods = Number(/completions: (\d+)/.exec(yaml)![1]);
    for (const pod of [0, pods - 1]) {
      const { status, out } = sh(script, { JOB_COMPLETION_INDEX: `${pod}` });
      expect(status).toBe(0);
      expect(out).toContain(
        `npm run -s fuzz -- queues --inputs 1000000 --seed 7 --shard ${pod + 1}/${pods} --out /results`,
      );
      expect(out).toContain(`--results /results/shard-${pod + 1}.json`);
    }
    expect(readFileSync('docs/shards.md', 'utf8')).toContain('viommu merge /results/shard-*.json');
  });
});
