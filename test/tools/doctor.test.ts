import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { installer, type Look, look } from '../../tools/doctor/look.ts';
import { OPTIONAL } from '../../tools/doctor/tools.ts';
import { run } from './program.ts';

const folder = mkdtempSync(join(tmpdir(), 'viommu-doctor-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What the doctor says where the only programs are these scripts. */
function doctor(programs: Readonly<Record<string, string>>): Map<string, Look> {
  const bin = mkdtempSync(join(folder, 'bin-'));
  mkdirSync(bin, { recursive: true });
  for (const [name, said] of Object.entries(programs)) {
    writeFileSync(join(bin, name), `#!/bin/sh\n${said}\n`);
    chmodSync(join(bin, name), 0o755);
  }
  const { status, out } = run(['doctor', '--json'], { PATH: `${bin}:${dirname(process.execPath)}` });
  expect(status).toBe(0);
  const all = out
    .trimEnd()
    .split('\n')
    .map((l) => JSON.parse(l) as Look);
  return new Map(all.map((l) => [l.name, l]));
}

test('what is there says what it is, what is not comes with the command that gets it', () => {
  const seen = doctor({ 'qemu-system-x86_64': 'echo QEMU emulator version 11.1.3' });
  expect(seen.get('qemu-system-x86_64')?.found).toBe('QEMU emulator version 11.1.3');
  expect(seen.get('qemu-system-aarch64')?.found).toBe(null);
  for (const l of seen.values()) expect(l.get).not.toBe('');
  expect([...seen.keys()].slice(1)).toEqual(OPTIONAL.map((o) => o.name));
});

test('the command is that of the system', () => {
  const iasl = OPTIONAL.find((o) => o.name === 'iasl')!;
  const nowhere = { ...iasl, found: { program: ['no-such-program-at-all'] } };
  const get = (platform: string, release: string) => look(nowhere, installer(platform, release)).get;
  expect(get('linux', 'ID=debian\n')).toBe('apt-get install acpica-tools');
  expect(get('linux', 'ID=rocky\nID_LIKE="rhel centos fedora"\n')).toBe('dnf install acpica-tools');
  expect(get('darwin', '')).toBe('brew install acpica');
});

test('without --json: a line each, missing or ok', () => {
  const { out } = run(['doctor']);
  const lines = out.trimEnd().split('\n');
  expect(lines.length).toBe(OPTIONAL.length + 1);
  for (const line of lines) expect(line).toMatch(/ {2}(ok {5}|missing) {2}\S/);
});
