import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { blocks } from './installed.ts';

const PAGE = 'docs/qemu-vfio.md';

test('the page shows the workflow that is in the package, and the file it needs', () => {
  const workflow = readFileSync('docs/examples/qemu-vfio-ci.yml', 'utf8');
  expect(blocks(PAGE).find((b) => b.name === 'qemu-vfio-ci.yml')?.text).toBe(workflow);
  expect(workflow).toContain('guest-init.sh');
  const guest = blocks(PAGE).find((b) => b.name === 'guest-init.sh')?.text ?? '';
  // What the last step looks for is what the guest says.
  expect(workflow).toContain("grep -q 'disk: the same' log");
  expect(guest).toContain("echo 'disk: the same'");
});

test('the table of live runs names what the script can run', () => {
  const script = readFileSync('tools/live/qemu-vfio.ts', 'utf8');
  const rows = [...readFileSync(PAGE, 'utf8').matchAll(/^\| ([a-z]) \|/gm)].map(([, name]) => name!);
  expect(rows).toEqual(['a', 'b', 'c', 'd', 'e']);
  for (const name of rows) expect(script).toContain(`['${name}', `);
});
