import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { smmuv3Ways, vtdWays } from './ways.ts';

const TEXT = readFileSync('docs/architecture.md', 'utf8');

/** Rows of the first table below a heading, cells without their backticks. */
function rowsOf(heading: string): string[][] {
  const section = TEXT.split(`${heading}\n`)[1]!.split(/^#/m)[0]!;
  const rows = section.split('\n').filter((line) => line.startsWith('|'));
  return rows.slice(2).map((row) =>
    row
      .slice(1, -1)
      .split('|')
      .map((cell) => cell.trim().replaceAll('`', '')),
  );
}

describe('docs/architecture.md says what really calls what', () => {
  const ways = [smmuv3Ways(), vtdWays()] as const;

  test.each(['command', 'access', 'fault'] as const)('the way of a %s', (name) => {
    const rows = rowsOf(name === 'access' ? '## The way of an access' : `## The way of a ${name}`);
    for (const [column, seen] of ways.entries()) {
      expect(rows.map((row) => row[column]!).filter((file) => file !== '')).toEqual(seen[name]);
    }
  });
});

describe('docs/architecture.md puts the two halves side by side', () => {
  test.each([
    ['### What the guest sees', 'devices'],
    ['### The hardware', 'src/piommu'],
    ["### The kernel's drivers", 'src/host/drivers'],
  ])('%s: every file of both, each in the row of its name', (heading, root) => {
    const rows = rowsOf(heading);
    for (const [column, kind] of ['smmuv3', 'vtd'].entries()) {
      const files = readdirSync(`${root}/${kind}`).filter((name) => name.endsWith('.ts'));
      expect(
        rows
          .map((row) => row[column + 1]!)
          .filter((name) => name !== '')
          .sort(),
      ).toEqual(files.sort());
    }
    for (const [, smmuv3, vtd] of rows) if (smmuv3 !== '' && vtd !== '') expect(smmuv3).toBe(vtd);
  });
});
