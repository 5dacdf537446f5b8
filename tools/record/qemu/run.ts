import { type ChildProcess, spawn } from 'node:child_process';
import { accessSync, constants, createReadStream, createWriteStream, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { ViommuError } from '../../../src/core/errors.ts';
import { beforeLeaving, onSignals } from '../../cli/leaving.ts';
import { openOutput } from '../../files/output.ts';
import type { LoggedEvent } from './collector.ts';
import { keptCommandLine, type QemuCommand } from './command-line.ts';
import { type Lost, QemuConversion } from './conversion.ts';
import { type KeptDevice, pciFunctions } from './qmp.ts';
import { SMMUV3_TRACE } from './smmuv3-lines.ts';
import { VTD_TRACE } from './vtd-lines.ts';

/** Characters of a recording, at most: what a reader takes, less a header. */
const MOST_TEXT = 2 ** 28 - 2 ** 20;
/** How long QEMU may take to end after it was told to, milliseconds. */
const PATIENCE = 15_000;
const BETWEEN_LOOKS = 1000;

/** What came out of a recorded run. */
export interface Recorded {
  readonly events: number;
  readonly byKind: ReadonlyMap<string, number>;
  readonly lost: Lost;
  /** QEMU did not end in order: the last access may be missing. */
  readonly cut: boolean;
  /** Events that did not fit. */
  readonly beyond: number;
  /** QEMU's exit status; null: a signal ended it. */
  readonly status: number | null;
}

/** A folder of our own, in memory if the machine has such a place: guest RAM lies in it. */
export function workFolder(): string {
  let base = tmpdir();
  try {
    accessSync('/dev/shm', constants.W_OK);
    base = '/dev/shm';
  } catch {
    // There is none here: a folder on a disk does as well.
  }
  const folder = mkdtempSync(join(base, 'viommu-record-'));
  const kept = beforeLeaving(() => rmSync(folder, { recursive: true, force: true }));
  process.once('exit', () => {
    rmSync(folder, { recursive: true, force: true });
    kept();
  });
  return folder;
}

/** What the recorder adds to a command line. */
function added(m: QemuCommand, folder: string, plugin: string, all: boolean): string[] {
  const ram = join(folder, 'ram');
  const where = m.ram.map((r) => `ram=0x${r.gpa.toString(16)}:0x${r.size.toString(16)}:0x${r.offset.toString(16)}`);
  const window = [`iommu=${m.iommu}`, `base=0x${m.mmio.base.toString(16)}`, `size=0x${m.mmio.size.toString(16)}`];
  const traced = m.iommu === 'smmuv3' ? SMMUV3_TRACE : VTD_TRACE;
  return [
    ...['-accel', `tcg${m.accel},thread=single`],
    ...['-object', `memory-backend-file,id=viommu-ram,size=${m.memory},mem-path=${ram},share=on`],
    ...['-machine', 'memory-backend=viommu-ram'],
    ...['-plugin', [plugin, ...window, `memory=${ram}`, ...where, ...(all ? ['all=on'] : [])].join(',')],
    ...['-d', 'plugin', '-D', join(folder, 'log'), '-qmp', `unix:${join(folder, 'qmp')},server=on,wait=off`],
    ...traced.flatMap((event) => ['-trace', event]),
  ];
}

/** Waits for QEMU to end: by itself, by a signal to us, or after some time. */
async function ended(child: ChildProcess, seconds: number | null): Promise<number | null> {
  let patience: NodeJS.Timeout | null = null;
  const end = (): void => {
    child.kill('SIGTERM');
    patience ??= setTimeout(() => child.kill('SIGKILL'), PATIENCE);
  };
  onSignals(end);
  const enough = seconds === null ? null : setTimeout(end, seconds * 1000);
  try {
    return await new Promise((done, fail) => {
      child.once('error', fail);
      child.once('close', (status) => done(status));
    });
  } finally {
    if (patience !== null) clearTimeout(patience);
    if (enough !== null) clearTimeout(enough);
  }
}

/**
 * Runs QEMU with the plugin until it ends.
 * @returns the PCI functions it had, as far as the guest had numbered them, and its exit status.
 */
export async function runQemu(
  m: QemuCommand,
  folder: string,
  plugin: string,
  o: { readonly all: boolean; readonly seconds: number | null },
): Promise<{
  readonly devices: readonly KeptDevice[];
  readonly status: number | null;
  readonly args: readonly string[];
}> {
  const args = [...m.args, ...added(m, folder, plugin, o.all)];
  const child = spawn(m.qemu, args, { stdio: 'inherit' });
  const gone = beforeLeaving(() => child.kill('SIGKILL'));
  let devices: readonly KeptDevice[] = [];
  const looking = setInterval(async () => {
    devices = (await pciFunctions(join(folder, 'qmp'))) ?? devices;
  }, BETWEEN_LOOKS);
  try {
    const status = await ended(child, o.seconds);
    return { devices, status, args };
  } finally {
    clearInterval(looking);
    gone();
  }
}

/** Makes a recording of QEMU's log. @throws ViommuError `EIO` when there is no log, or the recording cannot be written. */
export async function convertLog(
  m: QemuCommand,
  folder: string,
  output: string,
  ran: Awaited<ReturnType<typeof runQemu>>,
  version: string,
  progress: (events: number) => void,
): Promise<Recorded> {
  const byKind = new Map<string, number>();
  let events = 0;
  let text = 0;
  let beyond = 0;
  const part = join(folder, 'events');
  const body = createWriteStream(part);
  const conversion = new QemuConversion(m.iommu, (e: LoggedEvent) => {
    const line = `${JSON.stringify({ i: events, ...e })}\n`;
    if (beyond > 0 || text + line.length > MOST_TEXT) {
      beyond++;
      return;
    }
    text += line.length;
    events++;
    byKind.set(e.t, (byKind.get(e.t) ?? 0) + 1);
    body.write(line);
  });
  const log = createReadStream(join(folder, 'log'));
  const failed = new Promise<never>((_, fail) => log.once('error', fail));
  const all = (async () => {
    for await (const line of createInterface({ input: log, crlfDelay: Number.POSITIVE_INFINITY })) {
      conversion.line(line);
      progress(events);
      if (body.writableNeedDrain) await new Promise<void>((go) => body.once('drain', () => go()));
    }
  })();
  try {
    await Promise.race([all, failed]);
  } catch (e) {
    throw new ViommuError('EIO', 'host', `QEMU left no log: it did not start (its own message is above)`, {}, e);
  }
  conversion.end();
  await new Promise<void>((done) => body.end(() => done()));
  const { cmdline, kernel } = keptCommandLine(m.qemu, ran.args);
  const known = new Set(ran.devices.map((d) => d.sid));
  const others = [...conversion.streams].filter((sid) => !known.has(sid));
  const hex = (n: number): string => `0x${n.toString(16)}`;
  const bdf = (sid: number): string =>
    `0000:${(sid >> 8).toString(16).padStart(2, '0')}:${((sid >> 3) & 31).toString(16).padStart(2, '0')}.${sid & 7}`;
  const header = {
    t: 'header',
    format: 'viommu-trace',
    version: 1,
    iommu: m.iommu,
    source: {
      qemu: version,
      cmdline,
      kernelCmdline: kernel,
      commands: Object.fromEntries([...conversion.commands].toSorted(([a], [b]) => (a < b ? -1 : 1))),
    },
    mmio: { base: hex(m.mmio.base), size: hex(m.mmio.size) },
    ram: m.ram.map((r) => ({ gpa: hex(r.gpa), size: hex(r.size) })),
    devices: [...ran.devices, ...others.map((sid) => ({ name: `stream ${hex(sid)}`, bdf: bdf(sid), sid, ats: false }))],
  };
  const out = openOutput(output, output.endsWith('.gz'));
  try {
    out.write(`${JSON.stringify(header)}\n`);
    for await (const chunk of createReadStream(part)) {
      out.write(chunk as Buffer);
      await out.drained();
    }
    await out.finished();
  } catch (e) {
    await out.discard();
    throw e;
  }
  return { events, byKind, lost: conversion.lost, cut: !conversion.ended, beyond, status: ran.status };
}
