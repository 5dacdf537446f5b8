import { describe, expect, test } from 'vitest';
import { type Source, sources } from './sources.ts';

const PRODUCT = sources('src', 'devices', 'bus', 'guest-fixtures', 'tools');
const TESTS = sources('test').filter(({ path }) => path !== 'test/layering/text.test.ts');

/** What a text must not say, and what to say instead. */
const WORDS: readonly (readonly [pattern: RegExp, rule: string])[] = [
  [/\u2212/, 'a minus is `-`, not U+2212'],
  [/(?<![-\w])O\d{1,2}(?!\w)/, 'say what must hold: a number means nothing without its list'],
  [/\bthe house\b/i, 'say which rooms are meant'],
  [/\bstairs\b/i, 'say which calls are meant, in their order'],
  [/\bpeople\b/i, 'say who: a reader of the listing, a test, the guest'],
  [/\bowed\b|\bgives? way\b|\bwhat it is, it is\b/i, 'say who does what'],
  [/\broads?\b/i, 'say which calls or which path is meant'],
];

const lines = ({ text }: Source): number => text.split('\n').length - 1;

describe('files are short', () => {
  test('no file has more than 400 lines', () => {
    const long = [...PRODUCT, ...TESTS].filter((s) => lines(s) > 400);
    expect(long.map((s) => `${s.path}: ${lines(s)}`)).toEqual([]);
  });

  test.each(['src', 'devices', 'bus', 'tools'])('half of the files of %s have at most 150', (folder) => {
    const lengths = PRODUCT.filter(({ path }) => path.startsWith(`${folder}/`))
      .map(lines)
      .sort((a, b) => a - b);
    expect(lengths[lengths.length >> 1]).toBeLessThanOrEqual(150);
  });
});

describe('texts speak plainly', () => {
  test.each(WORDS)('nowhere %s', (pattern, rule) => {
    const found = [...PRODUCT, ...TESTS].flatMap(({ path, text }) =>
      text.split('\n').flatMap((line, i) => (pattern.test(line) ? [`${path}:${i + 1}: ${line.trim()} (${rule})`] : [])),
    );
    expect(found).toEqual([]);
  });

  test.each([
    ['src/spec/smmuv3', /IHI 0070 issue [A-Z]\.[a-z]/],
    ['src/spec/vtd', /D51397 revision \d\.\d+/],
    ['src/spec/pcie', /PCI Express Base Specification revision \d\.\d/],
    ['src/spec/nvme', /NVM Express Base Specification revision \d\.\d/],
    ['src/spec/iommufd', /Linux \d\.\d, (?:include|drivers)\//],
  ])('every file of %s begins with its document and the revision', (folder, document) => {
    const files = sources(folder).filter(({ path }) => !/\/index\.ts$|\.d\.ts$/.test(path));
    expect(files.length).toBeGreaterThan(0);
    const heads = files.map(({ path, text }) => [path, /^\/\*\*([\s\S]*?)\*\//.exec(text)?.[1] ?? ''] as const);
    expect(heads.filter(([, head]) => !document.test(head.replace(/\s*\n \* /g, ' '))).map(([path]) => path)).toEqual(
      [],
    );
  });
});
