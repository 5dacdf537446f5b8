import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { entries } from './build.ts';
import { blocks, InstalledProject } from './installed.ts';

// The package as a user gets it: packed, installed in an empty project, compiled and run there.

const PAGES = [
  'docs/plug-in.md',
  'docs/endpoint.md',
  'docs/failures.md',
  'docs/recipes/third-iommu.md',
  'docs/sanitize.md',
];
const TSC = resolve('node_modules/typescript/bin/tsc');
let installed: InstalledProject;
let project = '';

function run(command: string, args: readonly string[]): string {
  return installed.run(command, args);
}

beforeAll(() => {
  installed = new InstalledProject();
  project = installed.folder;
  for (const page of PAGES) installed.copy(page);
  const subpaths = entries().map(({ name }, i) => `import * as s${i} from '${name}';`);
  const used = entries().map((_, i) => `s${i}`);
  writeFileSync(join(project, 'every.ts'), `${subpaths.join('\n')}\nexport const EVERY = [${used}];\n`);
  copyFileSync('test/package/project/own.mjs', join(project, 'own.mjs'));
}, 300_000);

afterAll(() => installed.remove(), 120_000);

describe.each([
  ['node16', { module: 'node16' }],
  ['bundler', { module: 'esnext', moduleResolution: 'bundler' }],
])('a strict TypeScript project that resolves as %s', (name, resolution) => {
  test('compiles the examples of the documentation and every subpath', () => {
    const compilerOptions = {
      ...resolution,
      target: 'es2022',
      lib: ['es2022', 'dom'],
      types: [],
      strict: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      skipLibCheck: false,
      outDir: name,
    };
    writeFileSync(join(project, `${name}.json`), JSON.stringify({ compilerOptions, include: ['*.ts'] }));
    expect(run(process.execPath, [TSC, '-p', `${name}.json`])).toBe('');
  }, 120_000);
});

describe('plain JavaScript', () => {
  const examples = PAGES.flatMap((page) => blocks(page).filter((b) => b.name.endsWith('.out')));

  test.each(examples)('the example $name prints what its page says', ({ name, text }) => {
    mkdirSync(join(project, 'node16'), { recursive: true });
    expect(run(process.execPath, [join('node16', name.replace(/out$/, 'js'))])).toBe(text);
  });

  test('a function written without Shell does DMA, is refused and goes', () => {
    expect(run(process.execPath, ['own.mjs']).split('\n')).toEqual([
      'identity 21234 word 77 true',
      'word 77 false',
      'gone ffffffff',
      'true EINVAL',
      '',
    ]);
  });

  test('package.json can be read', () => {
    const program = "import p from 'viommu/package.json' with { type: 'json' }; console.log(p.name);";
    expect(run(process.execPath, ['--no-warnings', '--input-type=module', '-e', program])).toBe('viommu\n');
  });

  test('the program is installed', () => {
    expect(run(join(project, 'node_modules/.bin/viommu'), ['help'])).toContain('usage: viommu');
  });
});
