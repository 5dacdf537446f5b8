import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runCommand } from '../../tools/cli/command.ts';
import { iommufdCommand } from '../../tools/commands/iommufd.ts';
import { parseTap } from '../../tools/conformance/tap.ts';

const GOLDEN = resolve('guest-fixtures/iommufd/golden-7.2.13.txt.gz');
let dir = '';

async function run(...args: readonly string[]): Promise<{ status: number; out: string[]; err: string[] }> {
  const out: string[] = [];
  const err: string[] = [];
  const io = { out: (l: string) => void out.push(l), err: (l: string) => void err.push(l) };
  return { status: await runCommand([iommufdCommand], ['iommufd', ...args], io), out, err };
}

function file(name: string, bytes: Uint8Array | string): string {
  const path = join(dir, name);
  writeFileSync(path, bytes);
  return path;
}

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'viommu-golden-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('viommu iommufd --replay', () => {
  test('a recording that matches ends with its count and status 0, plain or packed', async () => {
    const text = gunzipSync(readFileSync(GOLDEN)).toString().split('# seed 3\n')[0]!;
    const r = await run('--replay', GOLDEN, file('two.txt', text));
    expect([r.status, r.out, r.err]).toEqual([0, ['102 passed, 0 failed'], []]);
  });

  test('a seed that differs is named with its first differing line, and the status is 1', async () => {
    const lines = gunzipSync(readFileSync(GOLDEN)).toString().split('\n');
    const at = lines.findIndex((l) => l.includes(' MAP ') && l.includes('| r=0 '));
    lines[at] = lines[at]!.replace(/\| r=0 .*/, '| r=-17 iova=0');
    const r = await run('--replay', file('changed.txt', lines.join('\n')));
    expect(r.status).toBe(1);
    expect(r.out[0]).toMatch(new RegExp(`^changed.txt:${at + 1}: seed 1: \\d+ MAP `));
    expect(r.out[1]).toContain('r=-17 iova=0');
    expect(r.out[2]).toMatch(/r=0 iova=[0-9a-f]+$/);
    expect(r.out.at(-1)).toBe('99 passed, 1 failed');
  });

  test.each([
    ['a file that is not there', () => join(dir, 'nothing.txt'), /cannot read the recording.*nothing\.txt/],
    [
      'a broken archive',
      () => file('x.gz', readFileSync(GOLDEN).subarray(0, 5000)),
      /cannot read the recording.*x\.gz/,
    ],
    [
      'an archive that unpacks to more than is read',
      () => file('b.gz', gzipSync(Buffer.alloc(2 ** 28 + 1))),
      /256 MiB/,
    ],
    ['an archive of rubbish', () => file('y.gz', gzipSync('hello\n')), /file=y\.gz line=1/],
    [
      'a line that is cut',
      () => file('z.txt', '# seed 1\n0 IOAS_ALLOC flags=0 | r=0 id=1\n1 IOAS_AL'),
      /file=z\.txt line=3/,
    ],
    [
      'an operation nobody knows',
      () => file('w.txt', '# seed 1\n0 FROB x=1 | r=0\n'),
      /unknown operation FROB.*line=2/,
    ],
    ['binary rubbish', () => file('b.txt', Uint8Array.of(0, 1, 2, 255, 10)), /file=b\.txt line=1/],
  ])('%s is one clear line and status 2; the other files are still replayed', async (_what, make, message) => {
    const r = await run('--replay', make(), GOLDEN);
    expect(r.status).toBe(2);
    expect(r.err).toHaveLength(1);
    expect(r.err[0]).toMatch(message);
    expect(r.out).toEqual(['100 passed, 0 failed']);
  });

  test.each([
    [[]],
    [['--replay', 'a', '--socket', 'b']],
    [['--socket', '/tmp/x', '--backend', 'amd']],
    [['--nonsense']],
  ])('arguments %j are a usage error', async (args) => {
    const r = await run(...args);
    expect(r.status).toBe(2);
    expect(r.err[0]).toMatch(/^viommu iommufd: /);
  });
});

test('the output of the kernel harness: passes, skips and failures by fixture', () => {
  const tap = parseTap(
    [
      'TAP version 13',
      '1..4',
      '# RUN x',
      'ok 1 a.b.c',
      'not ok 2 a.d',
      'ok 3 e.f # SKIP no pages',
      '# ok 4 x.y',
      '',
    ].join('\n'),
  );
  expect(tap).toEqual({
    planned: 4,
    cases: [
      { fixture: 'a', name: 'a.b.c', result: 'pass' },
      { fixture: 'a', name: 'a.d', result: 'fail' },
      { fixture: 'e', name: 'e.f', result: 'skip' },
    ],
  });
});

describe('viommu iommufd --device', () => {
  test.each([
    ['nothing', ['smmuv3', 'nvmes'], /--device: expected nvme, dma-engine, accelerator.*found "nvmes"/],
    ['a disk without bytes', ['vtd', 'nvme:0'], /--device: expected/],
    ['a disk beyond its limit', ['vtd', 'nvme:1025'], /nvme:MEGABYTES \(up to 1024\)/],
    ['an engine with a size', ['vtd', 'dma-engine:4'], /--device: expected/],
    ['a device of the mock', ['mock', 'nvme'], /the mock has no hardware/],
    ['too many', ['vtd', ...Array.from({ length: 17 }, () => 'dma-engine')], /at most 16 of them/],
  ])('%s: said, and status 2', async (_what, [backend, ...devices], message) => {
    const options = devices.flatMap((d) => ['--device', d]);
    const r = await run('--socket', join(dir, 'device.sock'), '--backend', backend!, ...options);
    expect([r.status, r.out, r.err.length]).toEqual([2, [], 2]);
    expect(r.err[0]).toMatch(message);
  });
});
