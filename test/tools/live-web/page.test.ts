import { readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { expect, test } from 'vitest';

const PAGE = 'tools/live-web/page/main.ts';
const IMPORT = /^(?:import|export)\s+(?!type\b)(?:[^'";]*?from\s+)?'([^']+)'/gm;

/** Every module a browser fetches for a file, and what it names that is not a file. */
function reach(file: string, seen = new Map<string, string[]>()): Map<string, string[]> {
  if (seen.has(file)) return seen;
  const names = [...readFileSync(file, 'utf8').matchAll(IMPORT)].map((m) => m[1]!);
  seen.set(
    file,
    names.filter((n) => !n.startsWith('.')),
  );
  for (const n of names) if (n.startsWith('.')) reach(normalize(join(dirname(file), n)), seen);
  return seen;
}

test('what the page loads is this package alone: no node: modules, no packages, nothing that compiles code', () => {
  const files = reach(PAGE);
  expect(files.size).toBeGreaterThan(60);
  expect([...files].filter(([, outside]) => outside.length > 0)).toEqual([]);
  expect([...files.keys()].filter((f) => f.includes('iommufd-socket') || f.includes('structs'))).toEqual([]);
  for (const f of files.keys()) expect(readFileSync(f, 'utf8'), f).not.toMatch(/\bnew Function\b|\beval\(|\bBuffer\./);
});
