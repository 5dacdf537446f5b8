import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';

const page = readFileSync('docs/demands.md', 'utf8');
const rows = page
  .split('\n')
  .filter((line) => /^\| O\d+ \|/.test(line))
  .map((line) => line.slice(2, -2).split(' | '));
const { exports } = JSON.parse(readFileSync('package.json', 'utf8')) as {
  exports: Record<string, { types?: string }>;
};

/** The source behind a subpath. */
function sourceOf(subpath: string): string {
  const { types } = exports[subpath.replace('viommu', '.')] ?? {};
  expect(types, subpath).toBeDefined();
  return types!.replace('./dist/', '').replace('.d.ts', '.ts');
}

/** The file that declares what a subpath exports under a name; null: it exports none. */
function declared(index: string, name: string): string | null {
  const text = readFileSync(index, 'utf8');
  for (const [, list, from] of text.matchAll(/^export (?:type )?(\{[^}]*\}|\*) from '(.+)';$/gm)) {
    const file = join(dirname(index), from!);
    if (list === '*') {
      const found = declared(file, name);
      if (found !== null) return found;
    } else if (new RegExp(`\\b${name}\\b`).test(list!)) return file;
  }
  return new RegExp(`^export (class|const|interface|type|function) ${name}\\b`, 'm').test(text) ? index : null;
}

test('every demand has its row, in order', () => {
  expect(rows.map(([number]) => number)).toEqual(Array.from({ length: 22 }, (_, i) => `O${i + 1}`));
});

test.each(rows)('%s: %s', (_number, _demand, gives, shown) => {
  let index = '';
  let names = 0;
  for (const [, name] of gives!.matchAll(/`([\w/.]+)`/g)) {
    if (name!.startsWith('viommu')) {
      index = sourceOf(name!);
      continue;
    }
    const [type, member] = name!.split('.');
    const file = declared(index, type!);
    expect(file, `${index} exports ${type}`).not.toBeNull();
    if (member !== undefined)
      expect(readFileSync(file!, 'utf8'), name).toMatch(new RegExp(`^  (readonly )?${member}\\b`, 'm'));
    names++;
  }
  expect(names).toBeGreaterThan(0);
  const [, path, title] = /^`(test\/[\w./-]+\.test\.ts)`: (.+)$/.exec(shown!) ?? [];
  expect(path, shown).toBeDefined();
  expect(existsSync(path!), path).toBe(true);
  const quoted = [`test('${title}'`, `test("${title}"`, `test(\`${title}\``];
  const source = readFileSync(path!, 'utf8');
  expect(
    quoted.some((call) => source.includes(call)),
    `${path}: ${title}`,
  ).toBe(true);
});

test('the page is found from the first one', () => {
  expect(readdirSync('docs')).toContain('demands.md');
  expect(readFileSync('README.md', 'utf8')).toContain('(docs/demands.md)');
});
