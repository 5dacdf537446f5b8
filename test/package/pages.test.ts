import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';

function pages(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return pages(path);
    return entry.name.endsWith('.md') ? [path] : [];
  });
}

const PAGES = ['README.md', 'CONTRIBUTING.md', ...pages('docs')];
const SCRIPTS = Object.keys((JSON.parse(readFileSync('package.json', 'utf8')) as { readonly scripts: object }).scripts);

/** Inline code that names a file or folder of the tree: `src/lib/walk`, `test/package`. */
const PATH = /`((?:src|devices|bus|test|tools|docs|guest-fixtures)\/[\w./-]*\w)`/g;

describe.each(PAGES)('%s', (page) => {
  const text = readFileSync(page, 'utf8');

  test('names files and folders that exist', () => {
    const named = [...text.matchAll(PATH)].map(([, path]) => path!);
    expect(named.filter((path) => !existsSync(path) && !/NAME|KIND/.test(path))).toEqual([]);
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
