import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';

function files(folder: string, ending: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return files(path, ending);
    return entry.name.endsWith(ending) ? [path] : [];
  });
}

const PAGES = ['README.md', 'CHANGELOG.md', 'CONTRIBUTING.md', ...files('docs', '.md')];
/** Every word of the code. */
const WORDS = new Set(
  ['src', 'devices', 'bus', 'test', 'tools'].flatMap((room) =>
    files(room, '.ts')
      .filter((path) => path !== 'test/package/pages.test.ts')
      .flatMap((path) => readFileSync(path, 'utf8').match(/#?\b[A-Za-z_]\w*/g) ?? []),
  ),
);
const SCRIPTS = Object.keys((JSON.parse(readFileSync('package.json', 'utf8')) as { readonly scripts: object }).scripts);

/** Inline code that names a file or folder of the tree: `src/lib/walk`, `test/package`. */
const PATH = /`((?:src|devices|bus|test|tools|docs|guest-fixtures)\/[\w./-]*\w)`/g;

/** Inline code that is one name of code: `RegisterFile`, `#effect`. */
const NAME = /`(#?[A-Za-z_]\w+)`/g;

describe.each(PAGES)('%s', (page) => {
  const text = readFileSync(page, 'utf8');

  test('names files and folders that exist', () => {
    const named = [...text.matchAll(PATH)].map(([, path]) => path!);
    expect(named.filter((path) => !existsSync(path) && !/NAME|KIND/.test(path))).toEqual([]);
  });

  test('names things of the code that exist, or that the page itself makes', () => {
    const blocks = [...text.matchAll(/^ *```.*?^ *```/gms)].map(([block]) => block).join('\n');
    const named = new Set([...text.replaceAll(/^ *```.*?^ *```/gms, '').matchAll(NAME)].map(([, name]) => name!));
    const found = [...named].filter((name) => /[A-Z#_]/.test(name) && !WORDS.has(name) && !blocks.includes(name));
    expect(found).toEqual([]);
  });

  test('links to pages and headings that exist', () => {
    const links = [...text.matchAll(/\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)/g)];
    const broken = links.filter(([, path, heading]) => {
      const target = path === '' ? page : join(dirname(page), path!);
      if (!existsSync(target)) return true;
      if (heading === undefined) return false;
      const headings = [...readFileSync(target, 'utf8').matchAll(/^#+ (.*)$/gm)].map(([, title]) =>
        title!
          .toLowerCase()
          .replace(/[^\w\- ]/g, '')
          .replaceAll(' ', '-'),
      );
      return !headings.includes(heading);
    });
    expect(broken.map(([link]) => link)).toEqual([]);
  });

  test('names scripts that exist', () => {
    const named = [...text.matchAll(/npm run (?:-s )?([a-z0-9:-]+)/g)].map((m) => m[1]!);
    expect(named.filter((script) => !SCRIPTS.includes(script))).toEqual([]);
  });

  test('says plainly what it says', () => {
    const found = text.match(/\u2212|\bthe house\b|\bstairs\b|\bpeople\b|\bowed\b|\bgives? way\b|\broads?\b/i);
    expect(found?.[0]).toBe(undefined);
  });
});
