import { existsSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

const sections = readFileSync('docs/threat-model.md', 'utf8').split(/^## /m).slice(1);

test('the threat model speaks of everybody who can send something', () => {
  const who = ['guest', 'endpoint', 'emulator', 'iommufd', 'recording', 'saved state', 'qtest', 'page'];
  const titles = sections.map((s) => s.slice(0, s.indexOf('\n')));
  expect(who.filter((word) => titles.filter((title) => title.includes(word)).length !== 1)).toEqual([]);
});

test.each(sections.map((s) => [s.slice(0, s.indexOf('\n')), s] as const))('%s: each line has its test', (_, text) => {
  const lines = text.split('\n').filter((line) => line.startsWith('| ') && !line.endsWith('| shown by |'));
  expect(lines.length).toBeGreaterThan(0);
  for (const line of lines) {
    const [, path] = /^\| [^|]+ \| `(test\/[\w./-]+\.test\.ts)` \|$/.exec(line) ?? [];
    expect(path, line).toBeDefined();
    expect(existsSync(path!), line).toBe(true);
    expect(readFileSync(path!, 'utf8'), line).toMatch(/\btest(\.each\(.*)?\(/);
  }
});
