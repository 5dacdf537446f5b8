import { afterAll, expect, test } from 'vitest';
import { Heard, Replay, type ReplayResult } from '../../src/trace/index.ts';
import { openTrace } from '../../src/trace/node.ts';
import { FakeTarget } from './fake-target.ts';
import { type Line, numbered, SMMU_HEADER, TraceFolder } from './files.ts';

const folder = new TraceFolder();
afterAll(() => folder.remove());

async function replay(
  events: readonly Line[],
  change: Line = {},
  fault: FakeTarget['fault'] = 'none',
): Promise<ReplayResult> {
  const source = { cmdline: '', commands: { SMMU_CMD_SYNC: 3 } };
  const trace = await openTrace(folder.lines({ ...SMMU_HEADER, source, ...change }, numbered(events)));
  const heard = new Heard();
  const target = new FakeTarget(heard.tell);
  target.fault = fault;
  const run = new Replay(trace.header, target, heard);
  for await (const batch of trace.batches) for (const e of batch) run.apply(e);
  return run.finish();
}

const XLAT = {
  t: 'xlat',
  sid: 48,
  iova: '0x1004',
  perm: 'rw',
  out: '0x40033004',
  tlb: 'miss',
  pageSize: '0x1000',
  asid: 7,
};
const FAULT = { t: 'fault', sid: 48, type: 'F_TRANSLATION', code: 16, iova: '0x2010', write: true, recorded: true };
const DST = { t: 'dst', gpa: '0x40002000', data: 'EAAAADAAAAAAAAAAAAIAABAgAAAAAAAAAAAAAAAAAAA=' };
const IRQ = { t: 'irq', line: 'evtq' };
const GUEST: readonly Line[] = [
  { t: 'w', off: '0x20', size: 4, val: '0x5' },
  { t: 'r', off: '0x20', size: 4, val: '0x5' },
  { t: 'page', gpa: '0x40001000', kind: 'pt', zero: true },
  { t: 'st', gpa: '0x40001008', size: 8, val: '0x40033003' },
  XLAT,
  { ...XLAT, tlb: 'hit', pageSize: undefined, asid: undefined },
  FAULT,
  IRQ,
  { t: 'w', off: '0x98', size: 4, val: '0x3' },
  DST,
  { t: 'drop', gpa: '0x40001000' },
];

function at(n: number, change: Line): Line[] {
  return GUEST.map((e, i) => (i === n ? { ...e, ...change } : e));
}

test('a machine that does what the recording says matches in every column', async () => {
  const r = await replay(GUEST);
  expect(r.differences).toEqual([]);
  expect(r).toMatchObject({
    ok: true,
    events: 11,
    columns: {
      reads: { total: 1, matched: 1 },
      translations: { total: 2, matched: 2 },
      faults: { total: 1, matched: 1 },
      records: { total: 1, matched: 1 },
      interrupts: { total: 1, matched: 1 },
    },
  });
  expect([...r.commands]).toEqual([['SMMU_CMD_SYNC', 3]]);
});

test.each<[string, number, Line, string, RegExp, RegExp]>([
  ['another register value', 1, { val: '0x4' }, 'reads', /^0x4$/, /^0x5$/],
  ['another output', 4, { out: '0x40033005' }, 'translations', /out 0x40033005/, /out 0x40033004/],
  ['another permission', 5, { perm: 'r' }, 'translations', /, r$/, /, rw$/],
  ['another page size', 4, { pageSize: '0x200000' }, 'translations', /page size 0x200000/, /page size 0x1000/],
  ['another ASID', 4, { asid: 8 }, 'translations', /tag 8/, /tag 7/],
  [
    'a translation the machine refuses',
    4,
    { iova: '0x3000' },
    'translations',
    /out 0x/,
    /refused \(ABORT, reason 0x10\)/,
  ],
  [
    'a fault the machine does not raise',
    6,
    { iova: '0x1000' },
    'faults',
    /F_TRANSLATION, recorded/,
    /translated to 0x40033000/,
  ],
  ['a fault for another reason', 6, { code: 19 }, 'faults', /F_TRANSLATION/, /reason 0x10/],
  ['a silent abort', 6, { type: 'abort' }, 'faults', /^abort$/, /with a record/],
  ['another record', 9, { data: DST.data.replace('EAAA', 'EwAA') }, 'records', /00000013/, /00000010/],
  ['a record elsewhere', 9, { gpa: '0x40002020' }, 'records', /0x40002020: /, /nothing written there/],
  ['another interrupt', 7, { line: 'gerror' }, 'interrupts', /gerror/, /evtq/],
])('%s is a difference at its event', async (_, n, change, column, expected, got) => {
  const r = await replay(at(n, change));
  expect(r.ok).toBe(false);
  expect(r.differences.map((d) => d.i)).toContain(n);
  const d = r.differences.find((x) => x.i === n && x.column === column);
  expect(d?.expected).toMatch(expected);
  expect(d?.got).toMatch(got);
  const { total, matched } = r.columns[column as 'reads'];
  expect(matched).toBeLessThan(total);
});

test('what the machine does and the recording lacks is a difference too', async () => {
  const quiet = await replay(GUEST.filter((e) => e !== IRQ && e !== DST));
  expect(quiet.differences).toMatchObject([
    { i: 6, column: 'interrupts', expected: 'none', got: 'evtq' },
    { i: 6, column: 'records', expected: 'none' },
  ]);
  expect(quiet.columns.records).toEqual({ total: 1, matched: 0 });

  const noisy = await replay(GUEST, {}, 'noisy');
  expect(noisy.differences).toMatchObject([{ i: 6, column: 'interrupts', expected: 'none', got: 'gerror' }]);
});

test('a machine that raises nothing, or says it wrote what memory does not hold, is caught', async () => {
  expect((await replay(GUEST, {}, 'mute')).differences).toMatchObject([{ i: 7, column: 'interrupts', got: 'none' }]);
  expect((await replay(GUEST, {}, 'forgetful')).differences).toMatchObject([{ i: 9, column: 'records' }]);
  expect((await replay(GUEST, {}, 'silent')).columns.faults).toEqual({ total: 1, matched: 0 });
});

test('command counts must be those of QEMU', async () => {
  const source = { cmdline: '', commands: { SMMU_CMD_SYNC: 2, SMMU_CMD_CFGI_STE: 1 } };
  const r = await replay(GUEST, { source });
  expect(r.ok).toBe(false);
  expect(r.differences).toMatchObject([
    { column: 'commands', what: 'SMMU_CMD_SYNC', expected: '2 in all', got: '3' },
    { column: 'commands', what: 'SMMU_CMD_CFGI_STE', expected: '1 in all', got: '0' },
  ]);
  expect((await replay(GUEST, { source: { cmdline: '' } })).ok).toBe(true);
});

test('records and interrupts may come later than their cause, but not after a reset', async () => {
  const late = [...GUEST.filter((e) => e !== IRQ && e !== DST), DST, IRQ];
  expect((await replay(late)).ok).toBe(true);

  const over = [...GUEST.filter((e) => e !== IRQ), { t: 'reset' }, IRQ];
  const r = await replay(over);
  expect(r.differences).toMatchObject([
    { i: 6, column: 'interrupts', expected: 'none', got: 'evtq' },
    { i: 11, column: 'interrupts', expected: 'evtq', got: 'none' },
  ]);
});
