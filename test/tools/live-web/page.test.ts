import { readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { expect, test } from 'vitest';

const PAGE = 'tools/live-web/page/main.tsx';
/** The part of the page that runs in the worker, which the bundler puts into it. */
const WORKER = 'tools/explorer/page/worker.ts';
const IMPORT = /^(?:import|export)\s+(?!type\b)(?:[^'";]*?from\s+)?'([^']+)'/gm;

/** Every module a browser fetches for a file, and what it names that is not a file. */
function reach(file: string, seen = new Map<string, string[]>()): Map<string, string[]> {
  if (seen.has(file)) return seen;
  const names = [...readFileSync(file, 'utf8').matchAll(IMPORT)].map((m) => m[1]!);
  seen.set(
    file,
    names.filter((n) => !n.startsWith('.')),
  );
  for (const n of names) if (n.startsWith('.') && !n.includes('?')) reach(normalize(join(dirname(file), n)), seen);
  return seen;
}

test('what the page is bundled of is this package and preact: no node: modules, nothing that compiles code', () => {
  const files = reach(PAGE, reach(WORKER));
  expect(files.size).toBeGreaterThan(60);
  const outside = new Set([...files.values()].flat());
  expect([...outside].filter((name) => name !== 'preact' && name !== 'preact/hooks')).toEqual([]);
  expect([...files.keys()].filter((f) => f.includes('iommufd-socket') || f.includes('structs'))).toEqual([]);
  for (const f of files.keys()) expect(readFileSync(f, 'utf8'), f).not.toMatch(/\bnew Function\b|\beval\(|\bBuffer\./);
});
