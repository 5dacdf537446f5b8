import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';

// What the tarball holds, and that nothing in it points to what is not there.

if (!existsSync('dist/src/index.js')) throw new Error('nothing is built: npm run build');
const packed = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
  encoding: 'utf8',
  stdio: ['ignore', 'pipe', 'ignore'],
  maxBuffer: 1 << 26,
});
const [tarball] = JSON.parse(packed) as readonly [{ readonly files: readonly { readonly path: string }[] }];
const FILES = new Set(tarball.files.map(({ path }) => path));
const MAKEFILE = readFileSync('tools/iommufd-preload/Makefile', 'utf8');

interface Manifest {
  readonly description: string;
  readonly keywords: readonly string[];
  readonly dependencies: { readonly [name: string]: string };
}
const PACKAGE = JSON.parse(readFileSync('package.json', 'utf8')) as Manifest;

/** Words of a variable of the Makefile. */
function variable(name: string): string[] {
  return MAKEFILE.match(new RegExp(`^${name} = (.*)$`, 'm'))![1]!.split(' ');
}

test('the tarball has neither source maps, tests nor what compilers keep for themselves', () => {
  const found = [...FILES].filter((f) =>
    /\.map$|^dist\/test\/|tsbuildinfo|\.(so|o)$|^tools\/iommufd-preload\/[^.]*-client$/.test(f),
  );
  expect(found).toEqual([]);
});

test('no program of the tarball names a source map', () => {
  const programs = [...FILES].filter((f) => f.endsWith('.js'));
  expect(programs.length).toBeGreaterThan(100);
  expect(programs.filter((f) => readFileSync(f, 'utf8').includes('sourceMappingURL'))).toEqual([]);
});

test('every file that a declaration or a program of the tarball imports is in it', () => {
  const missing = [...FILES]
    .filter((f) => /\.(js|d\.ts)$/.test(f))
    .flatMap((f) => {
      const text = readFileSync(f, 'utf8');
      const named = text.matchAll(/(?:^(?:import|export)\b[^;]*?\bfrom |^import |\bimport\()\s*'(\.[^'\n]+)'/gm);
      return [...named].map(([, path]) => [f, join(dirname(f), path!)] as const);
    })
    .filter(([from, to]) => !FILES.has(from.endsWith('.d.ts') ? to.replace(/(\.d)?\.[jt]s$/, '.d.ts') : to));
  expect(missing).toEqual([]);
});

test('the preload library can be built from the tarball: every source its Makefile names is there', () => {
  const sources = [...variable('SHIM'), ...variable('CLIENTS').map((c) => `${c}.c`), 'shim.h', 'Makefile', 'README.md'];
  expect(sources.filter((s) => !FILES.has(`tools/iommufd-preload/${s}`))).toEqual([]);
});

test('the sources of the recorder plugin are in the tarball: viommu record builds it', () => {
  const sources = readdirSync('tools/record/qemu').filter((f) => /\.[ch]$/.test(f));
  expect(sources.length).toBeGreaterThan(4);
  expect(sources.filter((s) => !FILES.has(`tools/record/qemu/${s}`))).toEqual([]);
});

test('the pages, their workflows and the changes are in the tarball', () => {
  const wanted = ['CHANGELOG.md', 'docs/iommufd-ci.md', 'docs/driver-ci.md', 'docs/record.md'];
  wanted.push('docs/examples/iommufd-ci.yml', 'docs/examples/driver-ci.yml');
  expect(wanted.filter((f) => !FILES.has(f))).toEqual([]);
});

test('package.json says what this is and takes repaired versions of what it depends on', () => {
  expect(PACKAGE.description).not.toBe('');
  expect(PACKAGE.keywords).toEqual(expect.arrayContaining(['iommu', 'smmuv3', 'vt-d', 'iommufd', 'vfio']));
  for (const range of Object.values(PACKAGE.dependencies)) expect(range).toMatch(/^\^\d+\.\d+\.\d+$/);
});
