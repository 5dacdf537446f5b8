import { existsSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

const PACKAGE = JSON.parse(readFileSync('package.json', 'utf8')) as {
  readonly exports: { readonly [subpath: string]: string | { readonly types: string; readonly default: string } };
  readonly bin: { readonly viommu: string };
  readonly scripts: { readonly [name: string]: string };
};

function source(built: string): string {
  return built.replace(/^\.\/dist\//, './').replace(/(\.d\.ts|\.js)$/, '.ts');
}

test.each(Object.entries(PACKAGE.exports).flatMap(([name, e]) => (typeof e === 'string' ? [] : [[name, e] as const])))(
  'the subpath %s has types first, and a source that exports something',
  async (_, entry) => {
    expect(Object.keys(entry)[0]).toBe('types');
    const path = `../../${source(entry.types).slice(2)}`;
    const module = (await import(/* @vite-ignore */ path)) as object;
    expect(Object.keys(module).length).toBeGreaterThan(0);
  },
);

test('the program is where package.json and the README say', () => {
  expect(existsSync(source(PACKAGE.bin.viommu))).toBe(true);
  const readme = readFileSync('README.md', 'utf8');
  for (const command of ['npm ci && npm start', 'npm ci && npm test', 'npm run bench', 'npm run -s viommu --'])
    expect(readme).toContain(command);
  const named = [...readme.matchAll(/npm run (?:-s )?([a-z0-9:-]+)/g)].map((m) => m[1]!);
  for (const script of named) expect(Object.keys(PACKAGE.scripts)).toContain(script);
  for (const script of ['start', 'test', 'bench', 'viommu', 'build', 'lint'])
    expect(PACKAGE.scripts[script]).toBeTruthy();
});

test('the list of commands says what the commands say of themselves', async () => {
  const { COMMANDS } = await import('../../tools/commands/index.ts');
  for (const { name, summary, load } of COMMANDS) expect(await load()).toMatchObject({ name, summary });
});

test('every command the README names exists', async () => {
  const { COMMANDS } = await import('../../tools/commands/index.ts');
  const readme = readFileSync('README.md', 'utf8');
  const named = [...readme.matchAll(/`viommu ([a-z-]+)/g)].map((m) => m[1]).filter((n) => n !== 'help');
  expect(named.length).toBeGreaterThan(0);
  for (const name of named) expect(COMMANDS.map((c) => c.name)).toContain(name);
});
