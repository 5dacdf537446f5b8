import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { toBigint } from '../../src/core/bits.ts';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import type { TraceEvent } from '../../src/trace/index.ts';
import { loadTrace } from '../../src/trace/node.ts';
import { explainCommand } from '../../tools/commands/explain.ts';
import { exportCommand } from '../../tools/commands/export.ts';
import { importCommand } from '../../tools/commands/import.ts';
import { replayCommand } from '../../tools/commands/replay.ts';
import { sanitizeCommand } from '../../tools/commands/sanitize.ts';
import { viommu } from '../tools/run.ts';

// The transcript of the same run says what the client wrote and what QEMU answered: the log must come to the same.

const COMMANDS = [
  importCommand,
  ...[exportCommand, replayCommand, explainCommand, sanitizeCommand].map((c) => c(makeReplayMachine)),
];
const LOGS = 'guest-fixtures/logs';
const BASE = { smmuv3: 0x0905_0000, vtd: 0xfed9_0000 } as const;
const BYTES = { smmuv3: 0x2_0000, vtd: 0x1000 } as const;
/** Offsets of page 1 of an SMMUv3 whose copies in page 0 QEMU prints. */
const PAGE1 = new Set([0xa8, 0xac, 0xc8, 0xcc]);
const SIZES: { readonly [letter: string]: number } = { b: 1, w: 2, l: 4, q: 8 };

const folder = mkdtempSync(join(tmpdir(), 'viommu-import-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** `r|w offset size value` of every request of a transcript that reaches the register window. */
function requests(iommu: 'smmuv3' | 'vtd', name: string): string[] {
  const lines = readFileSync(`guest-fixtures/qtest/${iommu}/${name}.qt`, 'utf8').split('\n');
  const found: string[] = [];
  for (const [n, line] of lines.entries()) {
    const m = line.match(/^> (read|write)([bwlq]) (0x[0-9a-f]+)(?: (0x[0-9a-f]+))?$/);
    if (m === null) continue;
    const off = Number(m[3]) - BASE[iommu];
    if (off < 0 || off >= BYTES[iommu]) continue;
    const value = m[1] === 'write' ? m[4]! : lines[n + 1]!.replace('< OK ', '');
    found.push(`${m[1]![0]} ${off.toString(16)} ${SIZES[m[2]!]} ${BigInt(value).toString(16)}`);
  }
  return found;
}

function registers(events: readonly TraceEvent[]): string[] {
  return events.flatMap((e) =>
    e.t === 'r' || e.t === 'w' ? [`${e.t} ${e.off.toString(16)} ${e.size} ${toBigint(e.lo, e.hi).toString(16)}`] : [],
  );
}

async function imported(log: string, ...more: string[]) {
  const output = join(folder, 'imported.ndjson.gz');
  const { status, err } = await viommu(COMMANDS, ['import', 'qemu-log', ...more, '--output', output, log]);
  expect(err.join('\n')).toContain('not in such a log: guest memory');
  expect(status).toBe(0);
  return { output, ...(await loadTrace(output)) };
}

describe('qemu-log: every register access of the client, in order', () => {
  for (const file of readdirSync(LOGS).filter((f) => f.endsWith('.log')))
    test(file, async () => {
      const [iommu, ...rest] = file.replace('.log', '').split('-') as ['smmuv3' | 'vtd', ...string[]];
      const { header, events } = await imported(`${LOGS}/${file}`);
      expect(header.iommu).toBe(iommu);
      const wanted = requests(iommu, rest.join('-'));
      expect(wanted.length).toBeGreaterThan(5);
      // A VT-d log does not say what reads answered.
      expect(registers(events)).toEqual(iommu === 'vtd' ? wanted.filter((w) => w.startsWith('w')) : wanted);
      if (iommu === 'vtd')
        expect(events.filter((e) => e.t === 'note').length).toBe(wanted.filter((w) => w.startsWith('r')).length);
      else expect(events.filter((e) => e.t === 'r' && PAGE1.has(e.off))).toEqual([]);
    });
});

test('translations, faults and commands are events', async () => {
  const cfgi = await imported(`${LOGS}/smmuv3-cfgi.log`);
  const names = cfgi.events.flatMap((e) => (e.t === 'cmd' ? [e.name] : []));
  expect(names).toEqual(expect.arrayContaining(['SMMU_CMD_CFGI_CD', 'SMMU_CMD_CFGI_STE', 'SMMU_CMD_SYNC']));
  const { events } = await imported(`${LOGS}/smmuv3-s1-faults.log`);
  expect(events.filter((e) => e.t === 'fault').length).toBeGreaterThan(3);
  const vtd = await imported(`${LOGS}/vtd-fs-iotlb-page.log`);
  expect(vtd.events.filter((e) => e.t === 'xlat').map((e) => e.t === 'xlat' && e.out)).toEqual([
    0x1400_0000, 0x1400_0000, 0x1401_0000,
  ]);
});

describe('what was imported can be looked at, and cannot be replayed', () => {
  test('every format of export takes it', async () => {
    const { output, events } = await imported(`${LOGS}/vtd-legacy-faults.log`);
    for (const to of ['csv', 'json', 'vcd', 'perfetto']) {
      const file = join(folder, to);
      const { status } = await viommu(COMMANDS, ['export', '--to', to, '--output', file, output]);
      expect(status).toBe(0);
      expect(readFileSync(file).length).toBeGreaterThan(100);
    }
    const accesses = events.filter((e) => e.t === 'xlat' || e.t === 'fault').length;
    expect(readFileSync(join(folder, 'csv'), 'utf8').trimEnd().split('\r\n')).toHaveLength(accesses + 1);
  });

  test.each(['replay', 'explain', 'sanitize'])('%s says what is missing', async (verb) => {
    const { output } = await imported(`${LOGS}/smmuv3-cfgi.log`);
    const { status, out, err } = await viommu(COMMANDS, [verb, output]);
    expect(status).toBe(2);
    expect(err.join('\n')).toContain('imported.ndjson.gz');
    expect(err.join('\n')).toContain('guest memory was not recorded');
    expect(out.join('\n')).not.toContain('no findings');
  });
});

test('lines of older versions of QEMU: a prefix with the process and the time, decimal stream ids', async () => {
  const log = join(folder, 'old.log');
  writeFileSync(
    log,
    [
      '4242@1700000000.123456:smmuv3_write_mmio addr: 0x20 val:0x1 size: 0x4(0)',
      '4242@1700000000.123460:memory_region_ops_read cpu 0 mr 0x55 addr 0x0 value 0x0 size 4',
      'smmuv3_cmdq_opcode <--- SMMU_CMD_TLBI_NSNH_ALL',
      'smmuv3_translate_success smmuv3-iommu-memory-region-0-0 sid=16 iova=0xfffff000 translated=0x80000000 perm=0x3',
      'smmuv3_translate_bypass smmuv3-iommu-memory-region-0-0 sid=8 STE bypass iova:0x1000 is_write=1',
      'smmuv3_record_event SMMU_EVT_F_TRANSLATION sid=16',
    ].join('\r\n'),
  );
  const { events, header } = await imported(log, '--cmdline', 'qemu-system-aarch64 -M virt,iommu=smmuv3');
  expect(header.cmdline).toBe('qemu-system-aarch64 -M virt,iommu=smmuv3');
  expect(header.devices.map((d) => d.sid)).toEqual([8, 16]);
  expect(events).toMatchObject([
    { t: 'w', off: 0x20, size: 4, lo: 1 },
    { t: 'cmd', name: 'SMMU_CMD_TLBI_NSNH_ALL' },
    { t: 'xlat', sid: 16, out: 0x8000_0000, perm: 3 },
    { t: 'xlat', sid: 8, out: 0x1000 },
    { t: 'note', raw: 'F_TRANSLATION of stream 0x10' },
  ]);
});

describe('mmio', () => {
  const file = join(folder, 'accesses.txt');
  const output = join(folder, 'accesses.ndjson');
  const run = (text: string, ...more: string[]) => {
    writeFileSync(file, text);
    return viommu(COMMANDS, ['import', 'mmio', ...more, '--output', output, file]);
  };

  test('offsets and addresses, decimal and hexadecimal, comments', async () => {
    const { status } = await run(
      '# boot\n0.1 w 0x20 8 0x123456789 # root\n0.2 r 0xfed90008 8 4096\n\n',
      '--iommu',
      'vtd',
    );
    expect(status).toBe(0);
    const { events, header } = await loadTrace(output);
    expect(header).toMatchObject({
      iommu: 'vtd',
      mmio: { base: 0xfed9_0000, size: 0x1000 },
      ram: [],
      lacks: ['memory'],
    });
    expect(registers(events)).toEqual(['w 20 8 123456789', 'r 8 8 1000']);
  });

  test.each([
    ['0.1 w 0x20 4', 'line 1: expected "TIME r|w ADDRESS SIZE VALUE", found "0.1 w 0x20 4"'],
    ['0 w 0x20 4 1\n0 w 0x22 4 0x1', 'line 2: expected an address that is a multiple of 4, found 0x22'],
    ['0 w 0x20 4 0x100000000', 'line 1: expected a value of 4 bytes, found 0x100000000'],
    ['0 w 0x5000 4 1', 'line 1: 0x5000 is not in the window at 0xfed90000: say --base ADDRESS'],
    ['# nothing', 'no access in it: expected lines "TIME r|w ADDRESS SIZE VALUE"'],
  ])('%j is refused', async (text, why) => {
    const { status, err } = await run(text, '--iommu', 'vtd');
    expect(status).toBe(2);
    expect(err[0]).toBe(`viommu import: ${file}: ${why}`);
  });
});

describe('bad input', () => {
  const refused = async (...args: string[]) => {
    const { status, err } = await viommu(COMMANDS, ['import', ...args]);
    expect(status).toBe(2);
    return err[0];
  };

  test('says what is wrong and what would do', async () => {
    const log = `${LOGS}/smmuv3-cfgi.log`;
    const out = ['--output', join(folder, 'x.ndjson')];
    expect(await refused()).toBe('viommu import: expected qemu-log or mmio first, found nothing');
    expect(await refused('pcap', log)).toBe('viommu import: expected qemu-log or mmio first, found "pcap"');
    expect(await refused('qemu-log', log)).toBe('viommu import: expected --output TRACE');
    expect(await refused('qemu-log', '--output', log, log)).toContain('is the input itself');
    expect(await refused('mmio', ...out, log)).toBe('viommu import: --iommu: expected smmuv3 or vtd, found nothing');
    expect(await refused('mmio', '--iommu', 'vtd', '--base', '12', ...out, log)).toContain(
      '--base: expected an address',
    );
    expect(await refused('qemu-log', ...out, 'no-such.log')).toContain('no-such.log: cannot be read: no such file');
    expect(await refused('qemu-log', ...out, 'README.md')).toContain('no line of an IOMMU: run QEMU with -trace');
    const broken = join(folder, 'broken.log');
    writeFileSync(broken, 'smmuv3_write_mmio addr: 0x20 val: none\n');
    expect(await refused('qemu-log', ...out, broken)).toContain(
      'line 1: smmuv3_write_mmio as QEMU 9 to 11 print it was expected',
    );
    writeFileSync(broken, `${readFileSync(log, 'utf8')}${readFileSync(`${LOGS}/vtd-fault-overflow.log`, 'utf8')}`);
    expect(await refused('qemu-log', ...out, broken)).toContain('it has events of both IOMMUs');
    expect(await refused('qemu-log', '--output', '/no/such/folder/x', log)).toContain(
      '/no/such/folder/x: cannot be written',
    );
  });
});
