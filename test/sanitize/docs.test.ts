import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { RULE, RULE_IDS } from '../../src/sanitize/index.ts';

test('docs/sanitize.md has every rule as it is', () => {
  const text = readFileSync('docs/sanitize.md', 'utf8');
  const rows = text.split('\n').filter((l) => /^\| `[a-z-]+` \| (error|warning|hint) /.test(l));
  const expected = RULE_IDS.map((id) => {
    const r = RULE[id];
    return `| \`${id}\` | ${r.severity} | ${r.finds} | ${r.smmuv3 ?? '-'} | ${r.vtd ?? '-'} |`;
  });

  expect(rows).toEqual(expected);
});
