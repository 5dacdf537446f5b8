import { afterAll, expect, test } from 'vitest';
import type { MakeReplayTarget } from '../../src/trace/index.ts';
import { replayCommand } from '../../tools/commands/replay.ts';
import { FakeTarget } from '../trace/fake-target.ts';
import { type Line, numbered, SMMU_HEADER, TraceFolder } from '../trace/files.ts';
import { viommu } from './run.ts';

const folder = new TraceFolder();
afterAll(() => folder.remove());

const make: MakeReplayTarget = (_header, _options, tell) => new FakeTarget(tell);
const COMMANDS = [replayCommand(make)];
const header: Line = { ...SMMU_HEADER, source: { cmdline: '', commands: { SMMU_CMD_SYNC: 2 } } };
const GUEST: Line[] = [
  { t: 'w', off: '0x98', size: 4, val: '0x2' },
  { t: 'r', off: '0x98', size: 4, val: '0x2' },
];
const good = folder.lines(header, numbered(GUEST));
const wrong = folder.lines(header, numbered([GUEST[0]!, { ...GUEST[1], val: '0x3' }]));

test('a recording that matches ends with status 0 and a table', async () => {
  const r = await viommu(COMMANDS, ['replay', good]);
  expect(r.status).toBe(0);
  expect(r.out.at(-1)).toMatch(/^t0\s+2\s+1\s+-\s+-\s+-\s+-\s+2\s+0\s+\d+\.\d\d\s+matches$/);
  expect(r.err.at(-1)).toMatch(/2 events in .* all as recorded/);
});

test('--json prints exactly the agreed object per recording', async () => {
  const r = await viommu(COMMANDS, ['replay', '--json', good, wrong]);
  expect(r.status).toBe(1);
  const [a, b] = r.out.map((line) => JSON.parse(line));
  expect(a).toEqual({
    trace: 't0.ndjson.gz',
    iommu: 'smmuv3',
    ok: true,
    reads: { total: 1, matched: 1 },
    translations: { total: 0, matched: 0 },
    faults: { total: 0, matched: 0 },
    records: { total: 0, matched: 0 },
    interrupts: { total: 0, matched: 0 },
    commands: { SMMU_CMD_SYNC: 2 },
    hostOps: {},
    seconds: expect.any(Number),
  });
  expect(b).toMatchObject({ trace: 't1.ndjson.gz', ok: false, reads: { total: 1, matched: 0 } });
});

test('a difference is told with event number, expectation and finding, and ends with status 1', async () => {
  const r = await viommu(COMMANDS, ['replay', wrong]);
  expect(r.status).toBe(1);
  expect(r.out.join('\n')).toMatch(
    /t1\.ndjson\.gz: 1 differences; the first:\n {2}event 1: read of 4 bytes at register 0x98\n {4}expected 0x3\n {4}got {6}0x2/,
  );
});

test('one file that cannot be used does not keep the others from being replayed, and the status says so', async () => {
  const r = await viommu(COMMANDS, ['replay', '/nowhere/a.gz', good]);
  expect(r.status).toBe(2);
  expect(r.err[0]).toBe('viommu replay: /nowhere/a.gz: cannot be read: no such file');
  expect(r.out.at(-1)).toMatch(/matches$/);
});

test.each<[string[], RegExp]>([
  [[], /usage: viommu COMMAND/],
  [['dance'], /unknown command 'dance'; the commands are replay/],
  [['replay'], /expected at least one recording/],
  [['replay', '--caches', 'huge', good], /--caches: expected full, off or tiny, found "huge"/],
  [['replay', '--speed', good], /unknown option '--speed'/],
  [['replay', '--profile'], /--profile <name>' argument missing/],
])('%j is a usage error: one message, status 2', async (args, message) => {
  const r = await viommu(COMMANDS, args);
  expect(r.status).toBe(2);
  expect(r.err.join('\n')).toMatch(message);
  expect(r.err.join('\n')).not.toMatch(/\n\s+at /);
});

test('--help and help explain, with status 0', async () => {
  expect((await viommu(COMMANDS, ['help'])).out.join('\n')).toMatch(/replay {6}replay recorded guests/);
  const r = await viommu(COMMANDS, ['replay', '--help']);
  expect(r.status).toBe(0);
  expect(r.out[0]).toMatch(/--ignore-invalidations/);
});

test('a machine that breaks down is reported by event, not by stack', async () => {
  const broken: MakeReplayTarget = (_header, _options, tell) => {
    const target = new FakeTarget(tell);
    target.read = () => {
      throw new TypeError('undefined is not a function');
    };
    return target;
  };
  const r = await viommu([replayCommand(broken)], ['replay', good]);
  expect(r.status).toBe(2);
  expect(r.err).toEqual(['viommu replay: t0.ndjson.gz: event 1: the machine failed: undefined is not a function']);
});
