import { afterAll, describe, expect, test } from 'vitest';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { RULE_IDS } from '../../src/sanitize/index.ts';
import { sanitizeCommand } from '../../tools/commands/sanitize.ts';
import { viommu } from '../tools/run.ts';
import { TraceFolder } from '../trace/files.ts';
import { recording as lines } from '../trace/mutate.ts';
import { recording, submitted } from './spoil.ts';

const COMMANDS = [sanitizeCommand(makeReplayMachine)];
const BOOT = 'guest-fixtures/recordings/smmuv3-boot.ndjson.gz';
const folder = new TraceFolder();
afterAll(() => folder.remove());

/** A recording with an invalidation whose address is used again turned into nothing. */
async function spoiled(pc: boolean): Promise<string> {
  const r = await recording('smmuv3-default');
  const c = submitted(r).filter((s) => (s.words[0] & 0xff) === 0x12)[4]!;
  const { header, events } = lines('smmuv3-default');
  const changed = events.map((e, i) => {
    const n = c.stores.indexOf(i);
    const withPc = pc && e.t === 'st' ? { ...e, pc: '0xffff800081234567' } : e;
    return n < 0 ? withPc : { ...withPc, val: n === 0 ? '0x2000000001' : '0x0' };
  });
  return folder.lines(header, changed);
}

describe('viommu sanitize', () => {
  test('a recording without findings: status 0, and a line that says so', async () => {
    const { status, out } = await viommu(COMMANDS, ['sanitize', BOOT]);

    expect(status).toBe(0);
    expect(out[0]).toBe('smmuv3-boot.ndjson.gz: no findings');
  });

  test('a finding: status 1, text with rule, section, stream, address and both ends', async () => {
    const { status, out } = await viommu(COMMANDS, ['sanitize', await spoiled(false)]);

    expect(status).toBe(1);
    expect(out[0]).toMatch(/: 1 error$/);
    expect(out[1]).toMatch(/^ {2}1\. error missing-invalidation \(IHI 0070 .*\): stream 0x[0-9a-f]+ \(.+\), IOVA 0x/);
    expect(out[2]).toMatch(/^ {5}events \d+, \d+/);
  });

  test('--json: one object per finding and one summary', async () => {
    const { status, out } = await viommu(COMMANDS, ['sanitize', '--json', await spoiled(true)]);

    expect(status).toBe(1);
    const [finding, summary] = out.map((l) => JSON.parse(l));
    expect(finding).toMatchObject({
      rule: 'missing-invalidation',
      severity: 'error',
      iommu: 'smmuv3',
      count: 1,
      pc: '0xffff800081234567',
    });
    expect(summary).toMatchObject({
      findings: 1,
      errors: 1,
      warnings: 0,
      hints: 0,
      byRule: { 'missing-invalidation': 1 },
    });
  });

  test('--json: the summary counts findings, by severity and by rule; a finding says how often', async () => {
    const path = 'guest-fixtures/recordings/vtd-xen-register-invalidation.ndjson.gz';
    const { out } = await viommu(COMMANDS, ['sanitize', '--json', '--at-least', 'hint', path]);

    const all = out.map((l) => JSON.parse(l));
    const summary = all.pop();
    expect(all.find((f) => f.rule === 'one-bit-at-a-time').count).toBe(2);
    expect(summary.findings).toBe(all.length);
    expect(summary.errors + summary.warnings + summary.hints).toBe(all.length);
    expect(Object.values<number>(summary.byRule).reduce((a, b) => a + b)).toBe(all.length);
  });

  test('--only and --ignore choose rules, --at-least severities', async () => {
    const trace = await spoiled(false);
    const status = async (...args: string[]) => (await viommu(COMMANDS, ['sanitize', ...args, trace])).status;

    expect(await status('--only', 'missing-invalidation')).toBe(1);
    expect(await status('--only', 'use-after-unmap')).toBe(0);
    expect(await status('--ignore', 'missing-invalidation')).toBe(0);
    expect(await status('--at-least', 'error')).toBe(1);
  });

  test('--explain N shows the finding, and what the guest had built by then', async () => {
    const { status, out } = await viommu(COMMANDS, ['sanitize', '--explain', '1', await spoiled(false)]);

    expect(status).toBe(1);
    expect(out[0]).toMatch(/missing-invalidation/);
    expect(out.join('\n')).toMatch(/before event \d+/);
  });

  test('--explain N counts as the list does, and --vmlinux names where the store was', async () => {
    const path = 'guest-fixtures/recordings/smmuv3-guest-faults.ndjson.gz';
    const second = await viommu(COMMANDS, ['sanitize', '--explain', '2', path]);
    expect(second.out[0]).toMatch(/^ {2}2\. warning record-lost/);
    expect(second.out[3]).toBe('');

    const { out } = await viommu(COMMANDS, ['sanitize', '--explain', '1', await spoiled(true)]);
    expect(out[1]).toMatch(/, by 0xffff800081234567$/);
  });

  test('--rules lists every rule', async () => {
    const { status, out } = await viommu(COMMANDS, ['sanitize', '--rules']);

    expect(status).toBe(0);
    expect(out.slice(1).map((l) => l.split(' ')[0])).toEqual(RULE_IDS);
  });

  test.each([
    [['--only', 'no-such-rule', BOOT], /no-such-rule/],
    [['--at-least', 'fatal', BOOT], /error, warning or hint/],
    [[], /at least one recording/],
    [['--explain', '9', BOOT], /there are 0 findings/],
    [['--explain', '1', '-'], /cannot be read twice/],
    [['--vmlinux', 'no-such-file', BOOT], /no-such-file/],
    [['no-such-file.gz'], /no such file/],
    [[folder.text('not a recording\n')], /expected/],
  ])('bad input %j: status 2 and one line', async (args, why) => {
    const { status, err } = await viommu(COMMANDS, ['sanitize', ...args]);

    expect(status).toBe(2);
    expect(err.join('\n')).toMatch(why);
  });
});
