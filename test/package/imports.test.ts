import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { build, entries } from './build.ts';

/** Subpaths whose name says that they are Node's. */
const NODE = ['viommu/trace/node', 'viommu/qtest', 'viommu/iommufd-socket', 'viommu/qemu'];
const ENTRIES = entries();

let folder = '';
let remove = (): void => {};

beforeAll(async () => {
  ({ folder, remove } = await build());
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
  symlinkSync(resolve('node_modules'), join(folder, 'node_modules'));
}, 120_000);

afterAll(() => remove());

/** Everything a module loads, by specifier: files of the build, packages, Node's modules. */
function loaded(file: string, seen: Set<string> = new Set()): Set<string> {
  if (seen.has(file)) return seen;
  seen.add(file);
  const text = readFileSync(join(folder, file), 'utf8');
  const statements = text.matchAll(
    /^(?:import|export)\b(?:[^;'"]*?\bfrom)?\s*["']([^"']+)["']|\bimport\(["']([^"']+)["']/gm,
  );
  for (const [, statement, call] of statements) {
    const specifier = (statement ?? call)!;
    if (specifier.startsWith('.')) loaded(join(dirname(file), specifier), seen);
    else seen.add(specifier);
  }
  return seen;
}

test.each(ENTRIES)('$name is built', ({ types, code }) => {
  expect([types, code].filter((file) => !existsSync(join(folder, file)))).toEqual([]);
});

test.each(ENTRIES.filter(({ name }) => !NODE.includes(name)))('$name needs no Node module', ({ code }) => {
  expect([...loaded(code)].filter((specifier) => specifier.startsWith('node:'))).toEqual([]);
});

test('only viommu/spec/iommufd, and what speaks its structures to files, loads the decoders that compile code', () => {
  const users = ENTRIES.filter(({ code }) => loaded(code).has('binary-parser')).map(({ name }) => name);
  expect(users).toEqual(['viommu/spec/iommufd', 'viommu/iommufd-socket']);
});

test('loading every subpath changes nothing outside of it', () => {
  const program = `
    const before = { names: Object.getOwnPropertyNames(globalThis), listeners: process.eventNames() };
    const builtins = [Object, Function, Array, String, Number, BigInt, Map, Set, Promise, Error, Uint8Array, Int32Array];
    const shapes = builtins.map((b) => Reflect.ownKeys(b).concat(Reflect.ownKeys(b.prototype)).length);
    const resources = process.getActiveResourcesInfo().length;
    for (const file of ${JSON.stringify(ENTRIES.map(({ code }) => `./${code}`))}) await import(file);
    const changed = [
      ...Object.getOwnPropertyNames(globalThis).filter((name) => !before.names.includes(name)),
      ...process.eventNames().filter((name) => !before.listeners.includes(name)),
      ...builtins.filter((b, i) => Reflect.ownKeys(b).concat(Reflect.ownKeys(b.prototype)).length !== shapes[i]),
    ];
    const left = process.getActiveResourcesInfo().length - resources;
    console.log(JSON.stringify({ changed: changed.map(String), left }));`;
  const file = join(folder, 'load.mjs');
  writeFileSync(file, program);
  expect(JSON.parse(execFileSync(process.execPath, [file], { encoding: 'utf8' }))).toEqual({ changed: [], left: 0 });
}, 120_000);

test('whatever needs no Node module loads where there are no globals but the language and the platform', () => {
  const program = `
    import { readFileSync } from 'node:fs';
    import { createRequire } from 'node:module';
    import { dirname, join } from 'node:path';
    import vm from 'node:vm';
    const names = ['console', 'queueMicrotask', 'TextEncoder', 'TextDecoder', 'performance', 'atob', 'btoa'];
    const context = vm.createContext(Object.fromEntries(names.map((name) => [name, globalThis[name]])));
    const modules = new Map();
    const require = createRequire(import.meta.url);
    async function synthetic(specifier) {
      const all = await import(specifier);
      const names = Object.keys(all);
      return new vm.SyntheticModule(names, function () { for (const n of names) this.setExport(n, all[n]); }, { context });
    }
    async function link(specifier, from) {
      const path = specifier.startsWith('.') ? join(dirname(from.identifier), specifier) : specifier;
      if (modules.has(path)) return modules.get(path);
      const module = specifier.startsWith('.') || specifier.startsWith('/')
        ? new vm.SourceTextModule(readFileSync(path, 'utf8'), { context, identifier: path })
        : await synthetic(specifier);
      modules.set(path, module);
      return module;
    }
    for (const file of ${JSON.stringify(ENTRIES.filter(({ name }) => !NODE.includes(name)).map(({ code }) => code))}) {
      const module = await link('./' + file, { identifier: join(${JSON.stringify(folder)}, 'x') });
      if (module.status === 'unlinked') await module.link(link);
      await module.evaluate();
    }
    console.log(modules.size);`;
  const file = join(folder, 'bare.mjs');
  writeFileSync(file, program);
  const options = ['--experimental-vm-modules', '--no-warnings', file];
  expect(Number(execFileSync(process.execPath, options, { encoding: 'utf8' }))).toBeGreaterThan(20);
}, 120_000);
