import { readFileSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { page } from './page.ts';

const FILE = 'docs/capabilities.md';

test('docs/capabilities.md says what the rows say (npm run docs:capabilities writes it)', () => {
  const text = page();
  if (process.env.VIOMMU_WRITE_DOCS === '1') writeFileSync(FILE, text);
  expect(readFileSync(FILE, 'utf8')).toBe(text);
});
