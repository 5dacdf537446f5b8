import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { ViommuError } from '../../src/core/errors.ts';
import { GUESTS, type GuestImage, imagePath } from '../live-arm/guests.ts';
import { machineOf, SHARED } from '../live-arm/machine.ts';
import { packageFolder } from '../package-folder.ts';
import { Conversion } from './convert.ts';

const SMMU = { base: 0x0905_0000, size: 0x2_0000 };
const RAM = { base: 0x4000_0000, size: 128 << 20 };

/**
 * Runs a guest on QEMU with the logging plugin until it says PASS.
 * @returns QEMU's log. @throws ViommuError `EIO` when the guest says FAIL or nothing.
 */
async function run(qemu: string, plugin: string, guest: GuestImage, folder: string): Promise<string> {
  const log = join(folder, 'log');
  const serial = join(folder, 'serial');
  writeFileSync(serial, '');
  const window = `base=${SHARED.base},size=${SHARED.size}`;
  const args = [
    ...machineOf(guest).split(' '),
    ...['-display', 'none', '-monitor', 'none', '-serial', `file:${serial}`, '-kernel', imagePath(guest.name)],
    ...['-accel', 'tcg,thread=single', '-plugin', `${plugin},${window}`, '-d', 'plugin,guest_errors', '-D', log],
    ...['-trace', 'smmu*'],
  ];
  const child = spawn(qemu, args, { stdio: 'ignore' });
  const gone = new Promise<void>((resolve) => child.on('close', () => resolve()));
  let said = '';
  for (let n = 0; n < 300 && !/PASS|FAIL/.test(said); n++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    said = readFileSync(serial, 'latin1');
  }
  child.kill();
  await gone;
  if (!said.includes('PASS')) throw new ViommuError('EIO', 'caller', `the guest did not pass on QEMU: ${said.trim()}`);
  return readFileSync(log, 'latin1');
}

function trace(guest: GuestImage, log: string, version: string): { text: string; events: number } {
  const conversion = new Conversion({ smmu: SMMU.base, smmuBytes: SMMU.size });
  for (const line of log.split('\n')) conversion.line(line);
  const hex = (n: number) => `0x${n.toString(16)}`;
  const device = (slot: number) => ({
    name: 'iommu-testdev',
    bdf: `0000:00:0${slot}.0`,
    sid: slot << 3,
    pciId: '1b36:0005',
    iommuGroup: null,
    domainType: null,
    driver: null,
    ats: false,
    pasid: false,
  });
  const header = {
    t: 'header',
    format: 'viommu-trace',
    version: 1,
    iommu: 'smmuv3',
    source: {
      qemu: version,
      cmdline: `qemu-system-aarch64 ${machineOf(guest)} -kernel ${guest.name}.elf`,
      guestKernel: `bare-metal guest ${guest.name} (guest-fixtures/aarch64)`,
      kernelCmdline: '',
      scenario: guest.name,
      xlatDropped: 0,
      commands: conversion.commands,
    },
    mmio: { base: hex(SMMU.base), size: hex(SMMU.size) },
    ram: [{ gpa: hex(RAM.base), size: hex(RAM.size) }],
    devices: [device(1), device(2)],
  };
  const lines = [header, ...conversion.events].map((e) => JSON.stringify(e));
  return { text: `${lines.join('\n')}\n`, events: conversion.events.length };
}

const root = process.env.VIOMMU_LIVE ?? join(packageFolder(), '.cache/live');
const qemu = join(root, 'bin/qemu-system-aarch64');
const version = /version (\S+ \([^)]*\))/.exec(execFileSync(qemu, ['--version'], { encoding: 'utf8' }))?.[1] ?? '';
const folder = mkdtempSync(join(tmpdir(), 'viommu-record-'));
try {
  const plugin = join(folder, 'log.so');
  const source = join(packageFolder(), 'tools/record/log.c');
  execFileSync('gcc', ['-O2', '-Wall', '-Wextra', '-Werror', '-shared', '-fPIC', '-o', plugin, source]);
  const manifestPath = join(packageFolder(), 'guest-fixtures/manifest.json');
  const manifest = JSON.parse(readFileSync(manifestPath, 'utf8')) as { recordings: { file: string }[] };
  for (const guest of GUESTS.filter((g) => g.onQemu)) {
    const log = await run(qemu, plugin, guest, folder);
    const { text, events } = trace(guest, log, version);
    const file = `smmuv3-guest-${guest.name}.ndjson.gz`;
    const packed = gzipSync(text, { level: 9 });
    writeFileSync(join(packageFolder(), 'guest-fixtures/recordings', file), packed);
    const entry = {
      file,
      sha256: createHash('sha256').update(packed).digest('hex'),
      iommu: 'smmuv3',
      events,
      source: `QEMU ${version}; guest ${guest.name} of guest-fixtures/aarch64; npm run record:arm`,
      shows: guest.shows,
    };
    const at = manifest.recordings.findIndex((r) => r.file === file);
    if (at >= 0) manifest.recordings[at] = entry;
    else manifest.recordings.push(entry);
    process.stdout.write(`${file}: ${events} events, ${packed.length} bytes\n`);
  }
  manifest.recordings.sort((a, b) => (a.file < b.file ? -1 : 1));
  writeFileSync(manifestPath, `${JSON.stringify(manifest, null, 2)}\n`);
} finally {
  rmSync(folder, { recursive: true });
}
