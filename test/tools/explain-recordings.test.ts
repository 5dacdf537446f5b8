import { expect, test } from 'vitest';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { explainCommand } from '../../tools/commands/explain.ts';
import { viommu } from './run.ts';

const COMMANDS = [explainCommand(makeReplayMachine)];
const BOOT = 'guest-fixtures/recordings/smmuv3-boot.ndjson.gz';

test('before event 0 there is a machine and nothing of the guest yet', async () => {
  const r = await viommu(COMMANDS, ['explain', '--at', '0', BOOT]);
  expect(r.status).toBe(0);
  expect(r.out[0]).toBe('smmuv3-boot.ndjson.gz (7.2.13+deb14-arm64), before event 0');
  expect(r.out).toContain('  (the SMMU is off: no stream is looked up)');
  expect(r.out.join('\n')).toMatch(/Cached translations \(0;/);
});

test('in the middle of a boot: the disk has its context, its HWPT and its cached pages', async () => {
  const r = await viommu(COMMANDS, ['explain', '--at', '400', BOOT]);
  const text = r.out.join('\n');
  expect(text).toMatch(/stream 0x100 \(nvme\): stage 1, entry at 0x5be24000\n {4}context at 0x449ee000: ASID 5/);
  expect(text).toMatch(/contexts at 0x449ee000 \(HWPT\), attached: nvme/);
  expect(text).toMatch(/VMID \d+, ASID 5\n {4}0xffffb000 \(4 KiB\) -> 0x447b8000 rw/);
  expect(text).toContain('and 2 more ranges (--all shows them)');

  const all = await viommu(COMMANDS, ['explain', '--at', '400', '--all', BOOT]);
  expect(all.out.join('\n')).not.toContain('--all');
  expect(all.out.length).toBeGreaterThan(r.out.length);
});

test.each<[string[], RegExp]>([
  [['--at', '9999', BOOT], /--at 9999: smmuv3-boot.ndjson.gz has only 621 events/],
  [['--at', '-1', BOOT], /--at/],
  [['--at', 'x', BOOT], /option '--at <n>' argument 'x' is invalid. Expected a whole number/],
  [[BOOT, BOOT], /Expected 1 argument but got 2/],
  [['/nowhere.gz'], /cannot be read/],
])('%j is refused in one message', async (args, message) => {
  const r = await viommu(COMMANDS, ['explain', ...args]);
  expect(r.status).toBe(2);
  expect(r.err.join('\n')).toMatch(message);
});
