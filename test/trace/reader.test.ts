import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { afterAll, expect, test } from 'vitest';
import { ViommuError } from '../../src/core/errors.ts';
import { NOT_SAID, type TraceEvent } from '../../src/trace/index.ts';
import { openTrace } from '../../src/trace/node.ts';
import { type Line, numbered, SMMU_HEADER, TraceFolder } from './files.ts';

const folder = new TraceFolder();
afterAll(() => folder.remove());

async function read(path: string): Promise<TraceEvent[]> {
  const events: TraceEvent[] = [];
  const trace = await openTrace(path);
  for await (const batch of trace.batches) events.push(...batch);
  return events;
}

async function complaint(path: string): Promise<string> {
  try {
    await read(path);
  } catch (e) {
    expect(e).toBeInstanceOf(ViommuError);
    return (e as ViommuError).message;
  }
  throw new Error(`${path} was accepted`);
}

const READ = { t: 'r', off: '0x0', size: 4, val: '0xd44101b' };
const HEADER_VTD: Line = { ...SMMU_HEADER, iommu: 'vtd', mmio: { base: '0xfed90000', size: '0x1000' } };

test('events come out compact, and unknown keys are ignored', async () => {
  const events = numbered([
    { t: 'page', gpa: '0x40001000', kind: 'ste', zero: true, colour: 'green' },
    { t: 'st', gpa: '0x40001008', size: 8, val: '0x123456789abcdef0' },
    {
      t: 'xlat',
      sid: 48,
      iova: '0xffff000000001004',
      perm: 'w',
      out: '0x40002004',
      tlb: 'miss',
      pageSize: '0x1000',
      asid: -1,
    },
    { t: 'xlat', sid: 48, iova: '0x8090040', perm: 'w', out: '0x8090040', mode: 'bypass' },
    { t: 'fault', sid: 48, type: 'abort', iova: '0x0', write: false },
  ]);

  expect(await read(folder.lines({ ...SMMU_HEADER, mood: 1 }, events))).toEqual([
    { t: 'page', i: 0, gpa: 0x4000_1000, kind: 'ste', data: null },
    { t: 'st', i: 1, gpa: 0x4000_1008, size: 8, lo: 0x9abcdef0 | 0, hi: 0x12345678 },
    {
      t: 'xlat',
      i: 2,
      sid: 48,
      lo: 0x1004,
      hi: 0xffff0000 | 0,
      access: 2,
      out: 0x4000_2004,
      perm: 2,
      shift: 12,
      tag: -1,
    },
    {
      t: 'xlat',
      i: 3,
      sid: 48,
      lo: 0x8090040,
      hi: 0,
      access: 2,
      out: 0x809_0040,
      perm: NOT_SAID,
      shift: NOT_SAID,
      tag: NOT_SAID,
    },
    { t: 'fault', i: 4, sid: 48, lo: 0, hi: 0, access: 1, reason: NOT_SAID, name: 'abort', recorded: false },
  ]);
});

test.each<[string, Line, RegExp]>([
  ['another version', { version: 2 }, /header: "version": expected 1.*found 2/],
  ['another format', { format: 'pcap' }, /header: "format": expected "viommu-trace", found "pcap"/],
  ['an unknown IOMMU', { iommu: 'riscv' }, /header: "iommu": expected "smmuv3" or "vtd", found "riscv"/],
  ['no source', { source: undefined }, /header: "source": expected an object, found nothing/],
  [
    'more RAM than can be laid out',
    { ram: [{ gpa: '0x0', size: '0x1000000000' }] },
    /header: "ram": expected regions of at most 8 GiB/,
  ],
  ['no RAM', { ram: [] }, /header: "ram": expected at least one region/],
  [
    'a RAM size that is a number',
    { ram: [{ gpa: '0x0', size: 4096 }] },
    /header: "size": expected a "0x…" hexadecimal/,
  ],
  [
    'overlapping RAM',
    { ram: [SMMU_HEADER.ram, SMMU_HEADER.ram].flat() },
    /header: "ram": expected regions that do not overlap/,
  ],
  [
    'a count that is text',
    { source: { cmdline: '', commands: { SMMU_CMD_SYNC: 'many' } } },
    /"SMMU_CMD_SYNC": expected an integer/,
  ],
])('a header with %s is refused by name', async (_, change, message) => {
  expect(await complaint(folder.lines({ ...SMMU_HEADER, ...change }, numbered([READ])))).toMatch(message);
});

test.each<[string, Line, RegExp]>([
  ['an unknown type', { t: 'wish' }, /event 1: "t": expected page, st,.*found "wish"/],
  [
    'a size of 9',
    { t: 'st', gpa: '0x40000000', size: 9, val: '0x0' },
    /event 1: "size": expected an integer from 1 to 8, found 9/,
  ],
  [
    'a value that does not fit',
    { t: 'st', gpa: '0x40000000', size: 1, val: '0x100' },
    /event 1: "val": expected a value of 1 bytes/,
  ],
  [
    'a store outside RAM',
    { t: 'st', gpa: '0x50000000', size: 8, val: '0x0' },
    /event 1: "gpa": expected 8 bytes inside the RAM/,
  ],
  [
    'a page off its boundary',
    { t: 'page', gpa: '0x40000010', kind: 'pt', zero: true },
    /"gpa": expected a multiple of 0x1000/,
  ],
  [
    'a page of 3 bytes',
    { t: 'page', gpa: '0x40000000', kind: 'pt', data: 'AAAA' },
    /"data": expected base64 of 4096 bytes \(not 3\)/,
  ],
  ['a page of noise', { t: 'page', gpa: '0x40000000', kind: 'pt', data: '!!' }, /"data": expected base64/],
  ['an offset past the window', { t: 'r', off: '0x20000', size: 4, val: '0x0' }, /"off": expected an offset inside/],
  ['an unaligned offset', { t: 'w', off: '0x2', size: 4, val: '0x0' }, /"off": expected a multiple of 4/],
  ['a decimal address', { t: 'drop', gpa: '1073741824' }, /"gpa": expected a "0x…" hexadecimal/],
  ['an address that is a number', { t: 'drop', gpa: 4096 }, /"gpa": expected a "0x…" hexadecimal, found 4096/],
  [
    'an output beyond 52 bits',
    { t: 'xlat', sid: 1, iova: '0x0', perm: 'r', out: '0xfffffffffffff', tlb: 'hit', i: 1 },
    /nope/,
  ],
  [
    'a permission of x',
    { t: 'xlat', sid: 1, iova: '0x0', perm: 'x', out: '0x0' },
    /"perm": expected "r", "w" or "rw", found "x"/,
  ],
  [
    'a page size of 3',
    { t: 'xlat', sid: 1, iova: '0x0', perm: 'r', out: '0x0', tlb: 'miss', pageSize: '0x3' },
    /a power of two/,
  ],
  ['a line nobody has', { t: 'irq', line: 'door' }, /"line": expected evtq, priq, cmd_sync, gerror, found "door"/],
  [
    'a fault without a type',
    { t: 'fault', sid: 1, iova: '0x0', write: true },
    /"type": expected a string, found nothing/,
  ],
  ['a record of no bytes', { t: 'dst', gpa: '0x40000000', data: '' }, /"data": expected 1 to 4096 bytes/],
  ['a stream that is text', { t: 'xlat', sid: '48', iova: '0x0', perm: 'r', out: '0x0' }, /"sid": expected an integer/],
])('an event with %s is refused with its number', async (name, event, message) => {
  const path = folder.lines(SMMU_HEADER, numbered([READ, event, READ]));
  if (name === 'an output beyond 52 bits') expect((await read(path))[1]).toMatchObject({ out: 0xf_ffff_ffff_ffff });
  else expect(await complaint(path)).toMatch(message);
});

test('a fault reason that is not a number is refused', async () => {
  const path = folder.lines(HEADER_VTD, numbered([{ t: 'fault', sid: 1, iova: '0x0', write: true, reason: '5' }]));
  expect(await complaint(path)).toMatch(/event 0: "reason": expected an integer from 1 to 255, found "5"/);
});

test('missing, doubled and re-ordered events are named by number', async () => {
  const [a, b, c] = numbered([READ, READ, READ]) as [Line, Line, Line];
  expect(await complaint(folder.lines(SMMU_HEADER, [a, c]))).toMatch(
    /event 1: "i": expected the next event number, 1 .*found 2/,
  );
  expect(await complaint(folder.lines(SMMU_HEADER, [a, a, b]))).toMatch(/event 1: .*found 0/);
  expect(await complaint(folder.lines(SMMU_HEADER, [b, a, c]))).toMatch(/event 0: .*found 1/);
});

test('a recording need not be packed, and may come in by the standard input, packed or not', async () => {
  const events = numbered([READ, READ, { ...READ, val: '0x7' }]);
  const text = `${[SMMU_HEADER, ...events].map((l) => JSON.stringify(l)).join('\n')}\n`;
  const packed = folder.text(text);
  const plain = folder.bytes(Buffer.from(text));
  const wanted = await read(packed);
  expect(wanted).toHaveLength(3);
  expect(await read(plain)).toEqual(wanted);
  // A program of its own, with the reader as it is built.
  const program = `
    import { openTrace } from './dist/src/trace/node.js';
    let n = 0;
    for await (const batch of (await openTrace('-')).batches) n += batch.length;
    console.log(n);`;
  for (const path of [packed, plain]) {
    const input = readFileSync(path);
    expect(execFileSync('node', ['--input-type=module', '-e', program], { input }).toString()).toBe('3\n');
  }
});

test('files that are no recording are refused in words', async () => {
  expect(await complaint('/nowhere/x.ndjson.gz')).toMatch(/x\.ndjson\.gz: cannot be read: no such file/);
  expect(await complaint('/tmp')).toMatch(/cannot be read: it is a folder/);
  expect(await complaint(folder.bytes(Buffer.from('ELF, not a recording\n')))).toMatch(
    /header: line 1: expected a JSON object, found "ELF, not/,
  );
  expect(await complaint(folder.bytes(Uint8Array.of(0x1f)))).toMatch(/header: /);
  expect(await complaint(folder.bytes(new Uint8Array(0)))).toMatch(/expected a header line, found an empty file/);
  expect(await complaint(folder.text(''))).toMatch(/header: expected a header line, found an empty file/);
  expect(await complaint(folder.text('hello\n'))).toMatch(/header: line 1: expected a JSON object, found "hello"/);
  expect(await complaint(folder.text('[1]\n'))).toMatch(/line 1: expected a JSON object/);
  expect(await complaint(folder.lines(SMMU_HEADER, []))).toMatch(/expected events, found the end of the recording/);
  expect(await complaint(folder.text(`${JSON.stringify(SMMU_HEADER)}\n{"i":0,"t":"r","of`))).toMatch(
    /event 0: line 2: expected a JSON object, found/,
  );
  expect(await complaint(folder.text(`${JSON.stringify(SMMU_HEADER)}\n${' '.repeat(1 << 21)}`))).toMatch(
    /a line of more than/,
  );
});

test('a file that unpacks to more than is read is refused by size, whatever it holds', async () => {
  const path = 'guest-fixtures/recordings/smmuv3-boot.ndjson.gz';
  const trace = await openTrace(path, 100_000);
  let seen = 0;
  const reading = (async () => {
    for await (const batch of trace.batches) seen += batch.length;
  })();
  await expect(reading).rejects.toThrow(/unpacks to more than 100000 characters/);
  expect(seen).toBeGreaterThan(100);
});

test('a recording that was cut off says where', async () => {
  const whole = readFileSync('guest-fixtures/recordings/smmuv3-boot.ndjson.gz');
  expect(await complaint(folder.bytes(whole.subarray(0, 4000)))).toMatch(/event \d+: expected more compressed data/);
  expect(await complaint(folder.bytes(whole.subarray(0, whole.length - 4)))).toMatch(/expected more compressed data/);
  const damaged = Buffer.from(whole);
  damaged.fill(0x55, 3000, 3020);
  expect(await complaint(folder.bytes(damaged))).toMatch(/t\d+\.ndjson\.gz: (event \d+|header): /);
});
