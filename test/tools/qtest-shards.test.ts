import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { transcript } from '../../tools/conformance/qtest-pair.ts';
import { environment, run } from './program.ts';

// `conformance:qtest` in shards, against a program that stands for QEMU: what they merge to is what one run told.

const RUNS = Number(process.env.VIOMMU_QTEST_RUNS ?? 8);
const folder = mkdtempSync(join(tmpdir(), 'viommu-qtest-shards-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Gives the recorded replies; of requests that were changed some end it, as QEMU's assertions do, and some get another reply. */
const STANDS_FOR_QEMU = `
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
const recorded = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const path = process.argv[process.argv.indexOf('-qtest') + 1].slice('unix:'.length);
const socket = connect(path);
let rest = '';
let n = 0;
socket.setEncoding('utf8').on('data', (chunk) => {
  const lines = (rest + chunk).split('\\n');
  rest = lines.pop();
  for (const line of lines) {
    const { request, reply } = recorded[n++];
    const sum = line === request ? 2 : [...line].reduce((all, c) => all + c.charCodeAt(0), 0) % 3;
    if (sum === 0) process.exit(1);
    socket.write((sum === 1 ? 'ERR' : reply) + '\\n');
  }
});
`;

/** @returns what a run of the fuzzer told, line by line. */
function fuzz(kind: string, name: string, more: readonly string[]): string[] {
  const program = join(folder, 'qemu.mjs');
  const replies = join(folder, `${name}.json`);
  writeFileSync(program, STANDS_FOR_QEMU);
  writeFileSync(replies, JSON.stringify(transcript(kind === 'vtd' ? 'vtd' : 'smmuv3', name).exchanges));
  const qemu = `${process.execPath} ${program} ${replies}`;
  const asked = ['--qemu', qemu, '--kind', kind, '--only', name, '--runs', `${RUNS}`, ...more];
  const ran = spawnSync(process.execPath, [resolve('dist/tools/conformance/qtest-fuzz.js'), ...asked], {
    encoding: 'utf8',
    env: environment(),
    timeout: 120_000,
  });
  expect(ran.stderr).toBe('');
  expect(ran.status).toBe(0);
  return ran.stdout.trimEnd().split('\n');
}

test.each([
  ['smmuv3', 's1-norecord.qt', 10],
  ['vtd', 'legacy-faults.qt', 2],
])(
  'shards of changed transcripts of a %s are one run',
  (kind, name, seed) => {
    const alone = fuzz(kind, name, ['--seed', `${seed}`]);
    const [, runs, different, skipped] = /^(\d+) runs, (\d+) different, (\d+) skipped$/
      .exec(alone.at(-1)!)!
      .map(Number);
    expect(runs).toBe(RUNS);
    // Each of the three outcomes, so that none of them is lost unseen.
    expect([different! > 0, skipped! > 0, runs! > different! + skipped!]).toEqual([true, true, true]);
    const files = [1, 2].map((n) => join(folder, `${kind}-${n}.json`));
    const parts = files.map((path, i) =>
      fuzz(kind, name, ['--seed', `${seed}`, '--shard', `${i + 1}/2`, '--results', path]),
    );
    const merged = run(['merge', ...files.toReversed()]);
    expect(merged.err).toBe('');
    expect([merged.status, merged.out.trimEnd().split('\n')]).toEqual([0, alone]);
    // Each shard's own lines, without its last one, which counts.
    const told = parts.flatMap((lines) => lines.slice(0, -1));
    expect(told.toSorted()).toEqual(alone.slice(0, -1).toSorted());
    const missing = run(['merge', files[0]!]);
    expect([missing.status, missing.err]).toEqual([2, expect.stringContaining('shard 2 of 2 is missing')]);
  },
  120_000,
);
