import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { entries } from './build.ts';

// The package as a user gets it: packed, installed in an empty project, compiled and run there.

const PAGES = ['docs/plug-in.md', 'docs/endpoint.md', 'docs/recipes/third-iommu.md', 'docs/sanitize.md'];
const TSC = resolve('node_modules/typescript/bin/tsc');
let project = '';

/** Blocks of a page that name a file: ```ts emulator.ts. */
function blocks(page: string): { readonly name: string; readonly text: string }[] {
  const found = readFileSync(page, 'utf8').matchAll(/^```\w+ (\S+\.\w+)\n([\s\S]*?)^```$/gm);
  return [...found].map(([, name, text]) => ({ name: name!, text: text! }));
}

function run(command: string, args: readonly string[]): string {
  try {
    return execFileSync(command, args, { cwd: project, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (error) {
    const { stdout, stderr } = error as { readonly stdout: string; readonly stderr: string };
    throw new Error(`${command} ${args.join(' ')}\n${stdout}${stderr}`);
  }
}

/** Packs a folder into the project. @returns the tarball's name. */
function pack(folder: string): string {
  const before = readdirSync(project);
  run('npm', ['pack', resolve(folder), '--ignore-scripts', '--silent']);
  return readdirSync(project).find((name) => !before.includes(name))!;
}

beforeAll(() => {
  if (!existsSync('dist/src/index.js')) throw new Error('nothing is built: npm run build');
  project = mkdtempSync(join(tmpdir(), 'viommu-project-'));
  writeFileSync(join(project, 'package.json'), '{"name":"project","private":true,"type":"module"}');
  // The two dependencies come from here as well, so that no registry is needed.
  const tarballs = ['.', 'node_modules/eventemitter3', 'node_modules/binary-parser'].map(pack);
  run('npm', ['install', '--offline', '--no-audit', '--no-fund', '--ignore-scripts', ...tarballs.map((t) => `./${t}`)]);
  for (const page of PAGES) for (const { name, text } of blocks(page)) writeFileSync(join(project, name), text);
  const subpaths = entries().map(({ name }, i) => `import * as s${i} from '${name}';`);
  const used = entries().map((_, i) => `s${i}`);
  writeFileSync(join(project, 'every.ts'), `${subpaths.join('\n')}\nexport const EVERY = [${used}];\n`);
  copyFileSync('test/package/project/own.mjs', join(project, 'own.mjs'));
}, 300_000);

afterAll(() => rmSync(project, { recursive: true, force: true }), 120_000);

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
