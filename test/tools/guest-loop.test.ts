import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { LOOPS } from '../../tools/bench/guests/qtest-loops.ts';

const ROOT = join(import.meta.dirname, '../..');
const dir = mkdtempSync(join(tmpdir(), 'viommu-guest-loop-'));
afterAll(() => rmSync(dir, { recursive: true }));

function bench(...more: string[]) {
  const args = [join(ROOT, 'dist/tools/bench/guest-loop.js'), '--rounds', '1', ...more];
  return spawnSync(process.execPath, args, { encoding: 'utf8', timeout: 60_000 });
}

/** Compares one loop with a program of the test's, which speaks qtest as `each` says: a function of a line and the lines before. */
function against(each: string) {
  const program = join(dir, 'program.mjs');
  writeFileSync(
    program,
    `import { connect } from 'node:net';
    const path = process.argv[process.argv.indexOf('-qtest') + 1].slice(5);
    const socket = connect(path);
    let rest = '';
    let seen = 0;
    const answer = ${each};
    socket.setEncoding('utf8').on('data', (chunk) => {
      const lines = (rest + chunk).split('\\n');
      rest = lines.pop();
      for (const line of lines) answer(line, seen++);
    });
    setInterval(() => {}, 1000);`,
  );
  return bench('--only', 'VT-d wait', '--qemu', `${process.execPath} ${program}`);
}

test('every loop goes round on the machine here, with a function whose page is cached', () => {
  const r = bench('--qemu', 'no-such-program');
  expect(r.stderr).toBe('');
  expect(r.status).toBe(0);
  const lines = r.stdout.trim().split('\n');
  expect(lines.map((line) => line.split(':')[0])).toEqual(LOOPS.map((loop) => loop.name));
}, 60_000);

test('a program that ends in between is waited for no longer', () => {
  const r = against('(line, n) => (n === 5 ? process.exit(7) : socket.write("OK\\n"))');
  expect(r.status).not.toBe(0);
  expect(r.stderr).toContain('ended with 7');
}, 60_000);

test('a program that hangs up is waited for no longer', () => {
  const r = against('(line, n) => (n === 5 ? socket.destroy() : socket.write("OK\\n"))');
  expect(r.status).not.toBe(0);
  expect(r.stderr).toContain('has hung up');
}, 60_000);

test('a function that cannot write is no loop to measure', () => {
  const r = against('() => socket.write("OK 0x00000000dead0002\\n")');
  expect(r.status).not.toBe(0);
  expect(r.stderr).toContain('the function cannot write in VT-d wait: OK 0x00000000dead0002');
}, 60_000);
