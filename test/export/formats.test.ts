import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterAll, describe, expect, test } from 'vitest';
import type { Moment } from '../../src/history/index.ts';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { EVENT_NAMES } from '../../src/spec/smmuv3/index.ts';
import { loadTrace } from '../../src/trace/node.ts';
import { exportCommand } from '../../tools/commands/export.ts';
import { viommu } from '../tools/run.ts';
import { submessage, text, values, wireFields } from './wire.ts';

const COMMANDS = [exportCommand(makeReplayMachine)];
const folder = mkdtempSync(join(tmpdir(), 'viommu-export-'));
afterAll(() => rmSync(folder, { recursive: true }));
const RECORDINGS = ['smmuv3-guest-faults', 'vtd-boot', 'vtd-v86-nested'] as const;
const path = (name: string) => `guest-fixtures/recordings/${name}.ndjson.gz`;

const known = new Map<string, Buffer>();

async function exported(to: string, name: string): Promise<Buffer> {
  const before = known.get(`${to} ${name}`);
  if (before !== undefined) return before;
  const output = join(folder, `${name}.${to}`);
  const { status, err } = await viommu(COMMANDS, ['export', '--to', to, '--output', output, path(name)]);
  expect(err.join('\n')).toMatch(/\d+ events exported$/);
  expect(status).toBe(0);
  const bytes = readFileSync(output);
  known.set(`${to} ${name}`, bytes);
  return bytes;
}

async function json(name: string): Promise<{ header: Record<string, unknown>; moments: Moment[] }> {
  const [first, ...rest] = (await exported('json', name)).toString().trimEnd().split('\n');
  return { header: JSON.parse(first!), moments: rest.map((l) => JSON.parse(l)) };
}

describe.each(RECORDINGS)('%s', (name) => {
  test('json: the machine, then the moments of every event', async () => {
    const { header, moments } = await json(name);
    const { events, header: recorded } = await loadTrace(path(name));
    expect(header).toMatchObject({
      format: 'viommu-moments',
      version: 1,
      iommu: recorded.iommu,
      devices: recorded.devices,
    });
    expect(moments.filter((m) => m.lane === 'accesses').map((m) => m.event)).toEqual(
      events.filter((e) => e.t === 'xlat' || e.t === 'fault').map((e) => e.i),
    );
    const registers = events.filter((e) => e.t === 'r' || e.t === 'w').map((e) => e.i);
    expect(moments.filter((m) => m.lane === 'registers').map((m) => m.event)).toEqual(registers);
  });

  test('csv: a line per access, with the address QEMU gave', async () => {
    const lines = (await exported('csv', name)).toString().trimEnd().split('\r\n');
    const { events, header: recorded } = await loadTrace(path(name));
    const accesses = events.filter((e) => e.t === 'xlat' || e.t === 'fault');
    expect(lines).toHaveLength(accesses.length + 1);
    const columns = lines[0]!.split(',');
    for (const [n, e] of accesses.entries()) {
      const row = lines[n + 1]!.split(',');
      expect(row[columns.indexOf('event')]).toBe(String(e.i));
      expect(row[columns.indexOf('stream')]).toBe(String(e.sid));
      if (e.t === 'xlat') expect(row[columns.indexOf('out')]).toBe(`0x${e.out.toString(16)}`);
      else
        expect(row[columns.indexOf('refused')]).toBe(
          recorded.iommu === 'vtd' ? e.name : (EVENT_NAMES.get(e.reason) ?? e.name),
        );
    }
  });

  test('vcd: every register has at every event the value the guest last read there', async () => {
    const dump = (await exported('vcd', name)).toString();
    const [declared, changes] = dump.split('$enddefinitions $end\n') as [string, string];
    const codes = new Map(
      [...declared.matchAll(/\$var (?:reg|wire) \d+ (\S+) (\S+)/g)].map(([, code, reg]) => [reg!, code!]),
    );
    expect(new Set(codes.values()).size).toBe(codes.size);
    const now = new Map<string, string>();
    const steps = changes
      .split(/^#/m)
      .slice(1)
      .map((s) => s.split('\n'));
    const { moments } = await json(name);
    let step = 0;
    let compared = 0;
    for (const m of moments.filter((r) => r.lane === 'registers' && r.name.startsWith('read '))) {
      for (; step < steps.length && Number(steps[step]![0]) <= (m.event + 1) * 1000; step++)
        for (const line of steps[step]!.slice(1)) {
          const vector = line.match(/^b([01]+) (\S+)$/);
          if (vector !== null) now.set(vector[2]!, vector[1]!);
        }
      const code = codes.get(m.name.slice(5));
      if (code === undefined) continue;
      const bits = BigInt(Number(m.args.size) * 8);
      const value = BigInt(`0b${now.get(code)}`) & ((1n << bits) - 1n);
      expect(`${m.name} ${value.toString(16)} at ${m.event}`).toBe(
        `${m.name} ${BigInt(m.args.value!).toString(16)} at ${m.event}`,
      );
      compared++;
    }
    expect(compared).toBeGreaterThan(10);
    // Interrupts of the IOMMU itself, and none of functions that pass through it.
    const own = moments
      .filter((m) => m.lane === 'interrupts' && codes.has(`irq_${m.name}`))
      .map((m) => `${m.event} ${m.name}`);
    const raised = [...dump.matchAll(/^#(\d+)\n((?:[^#].*\n)*)/gm)].flatMap(([, at, block]) =>
      [...codes]
        .filter(([name, c]) => name.startsWith('irq_') && block!.split('\n').includes(`1${c}`))
        .map(([name]) => `${Number(at) / 1000 - 1} ${name.slice(4)}`),
    );
    expect(raised).toEqual([...new Set(own)]);
  });

  test('perfetto: a slice per moment on the track of its lane, an arrow per cause', async () => {
    const packets = values(wireFields(await exported('perfetto', name)), 1).map((p) => wireFields(p as Uint8Array));
    const { moments } = await json(name);
    const tracks = new Map<bigint, string>();
    const begun: { name: string; track: string; event: bigint; from: bigint[]; to: bigint[] }[] = [];
    let open = 0;
    for (const p of packets) {
      expect(values(p, 10)).toEqual([1n]);
      const descriptor = submessage(p, 60);
      if (descriptor !== null) tracks.set(values(descriptor, 1)[0] as bigint, text(descriptor, 2));
      const event = submessage(p, 11);
      if (event === null) continue;
      const type = values(event, 9)[0];
      expect(tracks.has(values(event, 11)[0] as bigint)).toBe(true);
      if (type === 2n) open--;
      else {
        open++;
        expect(open).toBe(1);
        const annotations = values(event, 4).map((a) => wireFields(a as Uint8Array));
        begun.push({
          name: text(event, 23),
          track: tracks.get(values(event, 11)[0] as bigint)!,
          event: values(annotations.find((a) => text(a, 10) === 'event')!, 4)[0] as bigint,
          from: values(event, 47) as bigint[],
          to: values(event, 48) as bigint[],
        });
      }
    }
    expect(open).toBe(0);
    expect(begun.map((b) => `${b.event} ${b.name}`)).toEqual(moments.map((m) => `${m.event} ${m.name}`));
    expect(begun.filter((b, n) => !b.track.startsWith(moments[n]!.lane))).toEqual([]);
    const starts = new Map(begun.flatMap((b, n) => b.from.map((flow) => [flow, n] as const)));
    expect(begun.map((b) => (b.to.length === 0 ? -1 : starts.get(b.to[0]!)))).toEqual(moments.map((m) => m.cause));
  });
});

describe('the output', () => {
  test('is never the recording itself, whatever its name', async () => {
    const copy = join(folder, 'copy.ndjson.gz');
    copyFileSync(path('smmuv3-boot'), copy);
    const before = readFileSync(copy);
    symlinkSync(copy, join(folder, 'link'));
    for (const output of [copy, `${folder}/../${basename(folder)}/copy.ndjson.gz`, join(folder, 'link')]) {
      const { status, err } = await viommu(COMMANDS, ['export', '--to', 'csv', '--output', output, copy]);
      expect(status).toBe(2);
      expect(err[0]).toContain('is the input itself');
    }
    expect(readFileSync(copy).equals(before)).toBe(true);
  });

  test('may be what is no file, and that stays what it is', async () => {
    const fifo = join(folder, 'fifo');
    execFileSync('mkfifo', [fifo]);
    const reader = readFile(fifo, 'utf8');
    const { status } = await viommu(COMMANDS, ['export', '--to', 'csv', '--output', fifo, path('smmuv3-boot')]);
    expect(status).toBe(0);
    expect(await reader).toMatch(/^moment,event/);
    expect(statSync(fifo).isFIFO()).toBe(true);
    const { err } = await viommu(COMMANDS, ['export', '--to', 'csv', '--output', '/dev/full', path('smmuv3-boot')]);
    expect(err[0]).toContain('/dev/full: cannot be written: ENOSPC');
  });

  test('stays what it was when the recording cannot be used, up to its last event', async () => {
    const output = join(folder, 'kept.csv');
    writeFileSync(output, 'precious');
    const cut = join(folder, 'cut.ndjson');
    const lines = gunzipSync(readFileSync(path('smmuv3-boot')))
      .toString()
      .split('\n');
    writeFileSync(cut, `${lines.slice(0, 300).join('\n')}\nnonsense\n`);
    for (const input of ['no-such-file', 'README.md', cut]) {
      const { status } = await viommu(COMMANDS, ['export', '--to', 'csv', '--output', output, input]);
      expect(status).toBe(2);
      expect(readFileSync(output, 'utf8')).toBe('precious');
    }
    expect(readdirSync(folder).filter((f) => f.endsWith('.part'))).toEqual([]);
  });

  test('a recording of very many pages is exported like any other', async () => {
    const file = join(folder, 'pages.ndjson');
    const [header] = gunzipSync(readFileSync(path('smmuv3-boot')))
      .toString()
      .split('\n');
    const page = (i: number) => `{"i":${i},"t":"page","gpa":"0x${(0x4000_0000 + i * 4096).toString(16)}","zero":true}`;
    writeFileSync(file, `${header}\n${Array.from({ length: 40_000 }, (_, i) => page(i)).join('\n')}\n`);
    const { err } = await viommu(COMMANDS, ['export', '--to', 'json', '--output', join(folder, 'pages.json'), file]);
    expect(err[0]).toContain('40000 events exported');
  });
});

describe('bad input', () => {
  const refused = async (...args: string[]) => {
    const { status, err } = await viommu(COMMANDS, ['export', ...args]);
    expect(status).toBe(2);
    return err[0];
  };

  test('is refused with what is wrong and what would do', async () => {
    expect(await refused(path('smmuv3-boot'))).toBe('viommu export: expected --to perfetto|vcd|csv|json');
    expect(await refused('--to', 'pcap', path('smmuv3-boot'))).toBe(
      'viommu export: --to: expected perfetto, vcd, csv or json, found "pcap"',
    );
    expect(await refused('--to', 'toString', path('smmuv3-boot'))).toContain('found "toString"');
    expect(await refused('--to', 'csv')).toBe('viommu export: expected one recording');
    expect(await refused('--to', 'csv', 'no-such-file')).toContain('no-such-file: cannot be read: no such file');
    expect(await refused('--to', 'csv', '--output', '/no/such/folder/x.csv', path('smmuv3-boot'))).toContain(
      '/no/such/folder/x.csv: cannot be written',
    );
  });
});
