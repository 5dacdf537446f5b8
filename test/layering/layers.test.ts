import { describe, expect, test } from 'vitest';
import { circles } from './circles.ts';
import { forbidden, LAYERS, ORACLE, roomOf } from './layers.ts';
import { importsOf, sources } from './sources.ts';

const PRODUCT = sources('src', 'devices', 'bus', 'guest-fixtures', 'tools');
const TESTS = sources('test');

describe('imports point one way', () => {
  test('every file lies in one room, and imports only rooms below its own', () => {
    const broken = PRODUCT.flatMap(importsOf).flatMap(({ importer, line, file }) => {
      const rule = file === null ? null : forbidden(importer, file);
      return rule === null ? [] : [`${importer}:${line} imports ${file}: ${rule}`];
    });
    expect(broken).toEqual([]);
    expect(PRODUCT.filter(({ path }) => roomOf(path) === undefined).map((s) => s.path)).toEqual([]);
  });

  test('every room of the table holds files', () => {
    const rooms = new Set(PRODUCT.map(({ path }) => roomOf(path)));
    expect(LAYERS.flat().filter((room) => !rooms.has(room))).toEqual([]);
  });

  test('the oracles do not use what they judge', () => {
    const broken = PRODUCT.filter(({ path }) => path.startsWith(`${ORACLE.room}/`))
      .flatMap(importsOf)
      .filter(({ file }) => file !== null && !ORACLE.imports.some((room) => file.startsWith(`${room}/`)))
      .map(({ importer, line, file }) => `${importer}:${line} imports ${file}: an oracle imports ${ORACLE.imports}`);
    expect(broken).toEqual([]);
  });

  test('no file reaches itself through its imports, types included', () => {
    const all = [...PRODUCT, ...TESTS];
    const edges = new Map(all.map((s) => [s.path, importsOf(s).flatMap(({ file }) => file ?? [])]));
    expect(circles(edges)).toEqual([]);
  });
});

describe('the checks see what they look for', () => {
  test('every form of import is found, with its line', () => {
    const text = [
      "import './a.ts';",
      "import { type B, c } from '../b.ts';",
      'import type {',
      '  D,',
      "} from './d.ts';",
      "export { e } from './e.ts';",
      "export type Here = import('./f.ts').F;",
      "const later = await import('node:fs');",
    ].join('\n');
    expect(
      importsOf({ path: 'src/lib/x.ts', text }).map(({ line, file, specifier }) => [line, file ?? specifier]),
    ).toEqual([
      [1, 'src/lib/a.ts'],
      [2, 'src/b.ts'],
      [3, 'src/lib/d.ts'],
      [6, 'src/lib/e.ts'],
      [7, 'src/lib/f.ts'],
      [8, 'node:fs'],
    ]);
  });

  test.each([
    ['src/lib/walk/vmsa.ts', 'src/spec/vtd/tables.ts', null],
    ['src/lib/walk/vmsa.ts', 'src/host/iommufd.ts', /lies above/],
    ['devices/vtd/queue.ts', 'devices/smmuv3/queue.ts', /do not know each other/],
    ['src/host/kernel.ts', 'src/piommu/smmuv3/commands.ts', /do not know each other/],
    ['src/machine/vm.ts', 'test/support/vmsa-tables.ts', /nothing of test/],
    ['src/elsewhere/a.ts', 'src/core/bits.ts', /in no room/],
  ])('%s that imports %s is judged by its rooms', (importer, imported, rule) => {
    const said = forbidden(importer, imported);
    if (rule === null) expect(said).toBe(null);
    else expect(said).toMatch(rule);
  });

  test('a circle of three is one group, a chain is none', () => {
    const edges = new Map([
      ['a', ['b']],
      ['b', ['c', 'd']],
      ['c', ['a']],
      ['d', []],
    ]);
    expect(circles(edges)).toEqual([['a', 'b', 'c']]);
  });
});
