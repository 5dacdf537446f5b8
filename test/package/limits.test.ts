import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { DEFAULT_LIMITS } from '../../src/adapters/iommufd-socket/limits.ts';
import { MACHINE_LIMITS } from '../../src/lib/limits/machine-limits.ts';

/** A row of the page: name, value, what happens, file. */
const ROW = /^\| `(\w+)`: .* \| (\d+) \| .+ \| `([\w./-]+)` \|$/;
const rows = readFileSync('docs/limits.md', 'utf8')
  .split('\n')
  .filter((line) => line.startsWith('| `'))
  .map((line) => ({ line, match: ROW.exec(line) }));

/** The number that a file gives a constant, or a member of a constant object. */
function valueIn(file: string, name: string): number | undefined {
  const text = readFileSync(file, 'utf8');
  const found = new RegExp(`(?:const ${name}(?:: number)? =|^  ${name}:) ([\\d_x<* ()]+)[;,]$`, 'm').exec(text);
  if (found === null) return undefined;
  const [left, sign, right] = found[1]!.replaceAll('_', '').trim().split(' ');
  if (sign === undefined) return Number(left);
  return sign === '<<' ? Number(left) * 2 ** Number(right) : sign === '**' ? Number(left) ** Number(right) : undefined;
}

describe('the page of limits', () => {
  test('has a value and a file in every row', () => {
    expect(rows.length).toBeGreaterThan(40);
    expect(rows.filter((r) => r.match === null).map((r) => r.line)).toEqual([]);
  });

  test('has the values of the code', () => {
    const wrong = rows.flatMap(({ match }) => {
      const [, name, value, file] = match!;
      const found = valueIn(file!, name!);
      return found === Number(value) ? [] : [`${file}: ${name} is ${found}, the page has ${value}`];
    });
    expect(wrong).toEqual([]);
  });

  test('has every limit of a machine and of the iommufd server, with the value that holds', () => {
    const page = new Map(rows.map(({ match }) => [`${match![3]} ${match![1]}`, Number(match![2])]));
    const tables = [
      ['src/lib/limits/machine-limits.ts', MACHINE_LIMITS],
      ['src/adapters/iommufd-socket/limits.ts', DEFAULT_LIMITS],
    ] as const;
    for (const [file, limits] of tables) {
      for (const [name, value] of Object.entries(limits))
        expect([name, page.get(`${file} ${name}`)]).toEqual([name, value]);
      const constants = [...readFileSync(file, 'utf8').matchAll(/^export const (MAX_\w+)/gm)].map(([, name]) => name!);
      expect(constants.filter((name) => !page.has(`${file} ${name}`))).toEqual([]);
    }
  });
});
