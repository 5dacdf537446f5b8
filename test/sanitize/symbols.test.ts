import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { symbols } from '../../tools/sanitize/symbols.ts';

const folder = mkdtempSync(join(tmpdir(), 'viommu-symbols-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Whether the tools to make and read symbols are here. */
function can(tool: string): boolean {
  try {
    execFileSync(tool, ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

test.runIf(can('gcc') && can('addr2line'))('function and line of a program counter', async () => {
  const source = join(folder, 'driver.c');
  const object = join(folder, 'vmlinux');
  writeFileSync(source, 'int unmap(int *p) {\n  *p = 0;\n  return 1;\n}\n');
  execFileSync('gcc', ['-g', '-c', '-o', object, source]);

  const found = await symbols(object, [0n, 0xffff_ffffn]);

  expect(found.get(0n)).toMatch(/^unmap at .*driver\.c:1/);
  expect(found.has(0xffff_ffffn)).toBe(false);
});

test('a file without symbols is refused in one line', async () => {
  await expect(symbols(join(folder, 'missing'), [1n])).rejects.toMatchObject({ code: 'E_MISSING' });
});

test.runIf(can('addr2line'))('a file that is no program is refused in the words of addr2line', async () => {
  const text = join(folder, 'driver.txt');
  writeFileSync(text, 'not a program\n');

  await expect(symbols(text, [1n])).rejects.toThrow(
    /cannot be read: addr2line: .*driver\.txt: file format not recognized$/,
  );
});
