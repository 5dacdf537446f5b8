import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { replayGolden } from '../../../src/host/replay/golden.ts';
import { parseGolden } from '../../../src/host/replay/golden-text.ts';

const NAME = 'golden-7.2.13.txt.gz';
const text = gunzipSync(readFileSync(new URL(`../../../guest-fixtures/iommufd/${NAME}`, import.meta.url))).toString();

describe('what a real kernel answered', () => {
  test('all 100 recorded seeds come out the same, line by line', () => {
    const seeds = parseGolden(text, NAME);
    expect(seeds.length).toBe(100);
    expect(seeds.reduce((n, s) => n + s.ops.length, 0)).toBe(30_000);

    const result = replayGolden(seeds, NAME);

    expect(result.failed).toEqual([]);
    expect(result.passed).toBe(100);
  });

  test('a recording with one changed errno fails at exactly that line', () => {
    const lines = text.split('\n');
    const at = lines.findIndex((l) => l.includes(' UNMAP ') && l.includes('| r=-2 '));
    lines[at] = lines[at]!.replace('| r=-2 ', '| r=-22 ');

    const result = replayGolden(parseGolden(lines.join('\n'), NAME), NAME);

    expect(result.passed).toBe(99);
    expect(result.failed.map((f) => f.line)).toEqual([at + 1]);
    expect(result.failed[0]?.want).toContain('r=-22');
    expect(result.failed[0]?.got).toContain('r=-2 ');
  });

  test.each([
    ['an operation before the first seed', '0 IOAS_ALLOC flags=0 | r=0 id=1\n', 1],
    ['a line without an answer', '# seed 1\n0 IOAS_ALLOC flags=0\n', 2],
    ['a file that ends inside a question', '# seed 1\n0 IOAS_ALLOC fla', 2],
    ['an empty file', '', 1],
  ])('%s is refused with file and line', (_what, broken, line) => {
    expect(() => parseGolden(broken, 'x.txt')).toThrow(new RegExp(`file=x.txt line=${line}`));
  });

  test('the line feed behind the last line may be missing, but not a part of its answer', () => {
    const whole = parseGolden('# seed 1\n0 IOAS_ALLOC flags=0 | r=0 id=1', 'x.txt');
    expect(replayGolden(whole, 'x.txt').passed).toBe(1);
    const cut = parseGolden('# seed 1\n0 IOAS_ALLOC flags=0 | r=0 i', 'x.txt');
    expect(() => replayGolden(cut, 'x.txt')).toThrow(/cut off.*file=x.txt line=2/);
  });

  test.each([
    ['an unknown operation', '0 NO_SUCH_OP a=1 | r=0'],
    ['a missing input', '0 IOAS_ALLOC | r=0 id=1'],
    ['a number that is none', '0 IOAS_ALLOC flags=x | r=0 id=1'],
    ['a file that was never made', '0 READ fd=7 count=40 | r=0'],
  ])('%s is refused with file and line', (_what, line) => {
    const seeds = parseGolden(`# seed 1\n${line}\n`, 'x.txt');
    expect(() => replayGolden(seeds, 'x.txt')).toThrow(/file=x.txt line=2/);
  });
});
