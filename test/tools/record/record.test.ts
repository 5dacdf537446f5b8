import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { gunzipSync } from 'node:zlib';
import { afterAll, describe, expect, test } from 'vitest';
import { type Ended, run, start } from '../program.ts';
import { type File, type Line, logOf, recording } from './qemu-log.ts';

// A program that stands in for QEMU: it says which version it is, takes the plugin, and leaves a log. The recorder with a real
// QEMU and Debian's guests: npm run conformance:record.

const folder = mkdtempSync(join(tmpdir(), 'viommu-record-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A compiler that compiles nothing. */
const compiler = join(folder, 'cc');
writeFileSync(compiler, '#!/bin/sh\nexit 0\n');
chmodSync(compiler, 0o755);

/** @param does what it does once it has been started to run, in shell; $log is where its log goes. */
function qemu(name: string, does: string, version = '11.1.3'): string {
  const bin = mkdtempSync(join(folder, 'bin-'));
  const path = join(bin, name);
  writeFileSync(
    path,
    `#!/bin/sh
case "$*" in
  *--version*) echo "QEMU emulator version ${version}"; exit 0 ;;
  *probe=on*) echo "viommu-recorder: taken" >&2; exit 1 ;;
esac
printf '%s\\n' "$@" > "${bin}/args"
while [ $# -gt 0 ]; do [ "$1" = -D ] && log=$2; shift; done
${does}
`,
  );
  chmodSync(path, 0o755);
  return path;
}

const argsOf = (path: string): string[] => readFileSync(join(path, '../args'), 'utf8').trimEnd().split('\n');

function record(command: readonly string[], ...options: readonly string[]): Ended & { readonly output: string } {
  const output = join(mkdtempSync(join(folder, 'out-')), 'x.ndjson.gz');
  return { ...run(['record', 'qemu', '--output', output, ...options, '--', ...command], { CC: compiler }), output };
}

function events(path: string): Line[] {
  return gunzipSync(readFileSync(path))
    .toString()
    .trimEnd()
    .split('\n')
    .slice(1)
    .map((l) => JSON.parse(l) as Line);
}

/** The words of a recording's command line, less what the recorder adds. */
function words({ header }: File): string[] {
  const all = header.source.cmdline.split(' ').slice(1);
  const theirs = /^(-object|-accel|-kernel|-initrd|-d|-D)$/;
  const kept: string[] = [];
  for (let n = 0; n < all.length; n++) {
    if (theirs.test(all[n]!) || (all[n] === '-machine' && all[n + 1]!.startsWith('memory-backend='))) n++;
    else kept.push(all[n]!);
  }
  return kept;
}

/** Fields that only some recordings of old have, and notes that nobody compares. */
const plain = (e: Line): Line => {
  const { joined, i, src, ...rest } = e;
  return e.t === 'st' && src === 'diff' ? { ...rest, src } : rest;
};

/** Recordings of QEMU and Linux; VIOMMU_RECORD=all repeats each of them. */
const MANIFEST = JSON.parse(readFileSync('guest-fixtures/manifest.json', 'utf8')) as {
  readonly recordings: readonly { readonly file: string; readonly source: string }[];
};
const REPEATED = MANIFEST.recordings
  .filter((r) => /^QEMU .*; guest [\dX]/.test(r.source))
  .map((r) => r.file.replace('.ndjson.gz', ''))
  .filter(
    (name) =>
      process.env.VIOMMU_RECORD === 'all' || /^(smmuv3-boot|smmuv3-faults|vtd-boot|vtd-faults-legacy)$/.test(name),
  );

/** Stores of 3, 5, 6 or 7 bytes are several in what is made now. */
function pieces(e: Line): Line[] {
  if (e.t !== 'st' || [1, 2, 4, 8].includes(Number(e.size))) return [e];
  const all: Line[] = [];
  for (let [gpa, left, val] = [BigInt(String(e.gpa)), Number(e.size), BigInt(String(e.val))]; left > 0; ) {
    const size = left >= 4 ? 4 : left >= 2 ? 2 : 1;
    const low = BigInt.asUintN(8 * size, val);
    all.push({ ...e, gpa: `0x${gpa.toString(16)}`, size, val: `0x${low.toString(16)}` });
    gpa += BigInt(size);
    val >>= BigInt(8 * size);
    left -= size;
  }
  return all;
}

describe('viommu record qemu', () => {
  test.each(REPEATED)('the log of what %s has becomes the same recording, and replays', (name) => {
    const file = recording(name);
    const program = name.startsWith('vtd') ? 'qemu-system-x86_64' : 'qemu-system-aarch64';
    const log = join(folder, `${name}.log`);
    writeFileSync(log, logOf(file));
    const { status, out, err, output } = record([qemu(program, `cp "${log}" "$log"`), ...words(file)]);

    expect(err).toContain('all as recorded');
    expect(err).not.toContain('form that is not known');
    expect(status).toBe(0);
    expect(out).toMatch(/matches\n$/);
    const made = events(output).map(plain);
    const wanted = file.events
      .filter((e) => e.t !== 'note')
      .flatMap(pieces)
      .map(plain);
    const different = wanted.findIndex((e, n) => !isDeepStrictEqual(e, made[n]));
    expect([different, made[different], made.length]).toEqual([-1, undefined, wanted.length]);
  });

  const BOOT = recording('smmuv3-boot');
  const bootLog = join(folder, 'boot.log');
  writeFileSync(bootLog, logOf(BOOT));
  const VIRT = ['-M', 'virt,iommu=smmuv3', '-m', '512M'];

  test('what it adds: processors that take turns, RAM in a file, the plugin, the log', () => {
    const path = qemu('qemu-system-aarch64', `cp "${bootLog}" "$log"`);
    record([path, ...VIRT, '-smp', '4', '-accel', 'tcg,tb-size=64', '-kernel', 'Image'], '--no-verify', '--quiet');
    const args = argsOf(path);
    expect(args.slice(0, 8)).toEqual([...VIRT, '-smp', '4', '-kernel', 'Image']);
    expect(args).toContain('tcg,tb-size=64,thread=single');
    expect(args.filter((a) => a === '-accel').length).toBe(1);
    expect(args.find((a) => a.startsWith('memory-backend-file'))).toContain(`size=${512 << 20},`);
    expect(args.find((a) => a.includes('recorder.so'))).toMatch(
      /iommu=smmuv3,base=0x9050000,size=0x20000,.*ram=0x40000000:0x20000000:0x0/,
    );
  });

  test('RAM of q35 beyond 2.75 GiB lies in two pieces', () => {
    const path = qemu('qemu-system-x86_64', 'exit 1');
    record([path, '-M', 'q35', '-device', 'intel-iommu', '-m', '4G']);
    expect(argsOf(path).find((a) => a.includes('recorder.so'))).toContain(
      'ram=0x0:0x80000000:0x0,ram=0x100000000:0x80000000:0x80000000',
    );
  });

  test.each(['SIGINT', 'SIGTERM'] as const)('%s ends QEMU, and what was recorded so far is there', async (signal) => {
    const path = qemu(
      'qemu-system-aarch64',
      `cp "${bootLog}" "$log"; trap 'exit 0' TERM; touch "$(dirname "$0")/up"; while :; do sleep 0.05; done`,
    );
    const output = join(mkdtempSync(join(folder, 'sig-')), 'x.ndjson.gz');
    process.env.CC = compiler;
    const child = start(['record', 'qemu', '--output', output, '--', path, ...VIRT], folder);
    delete process.env.CC;
    const over = new Promise((done) => child.once('exit', done));
    while (!existsSync(join(path, '../up'))) await setTimeout(10);
    child.kill(signal);
    expect(await over).toBe(0);
    expect(events(output).length).toBe(BOOT.events.filter((e) => e.t !== 'note').length);
  });

  test('nothing is left of the run but the recording', () => {
    const mine = () =>
      readdirSync(existsSync('/dev/shm') ? '/dev/shm' : tmpdir()).filter((f) => f.startsWith('viommu-record-'));
    const before = mine();
    record([qemu('qemu-system-aarch64', `cp "${bootLog}" "$log"`), ...VIRT]);
    expect(mine().filter((f) => !before.includes(f))).toEqual([]);
  });

  test('what a recording lacks is said: writes of code that was not watched, memory that was compared, an end out of order', () => {
    const lines = logOf(BOOT).trimEnd().split('\n');
    const first = lines.findIndex((l) => l.startsWith('@W'));
    const spoiled = lines.filter((_, n) => n !== first && n !== lines.length - 1);
    spoiled.push('@D 0x40000000 0100000000000000', 'smmuv3_translate_success without numbers');
    const log = join(folder, 'spoiled.log');
    writeFileSync(log, `${spoiled.join('\n')}\n`);
    const { err, output } = record([qemu('qemu-system-aarch64', `cp "${log}" "$log"`), ...VIRT]);
    expect(err).toMatch(/lost:\n {2}1 register writes were made by code that is not watched/);
    expect(err).toMatch(/1 words of memory were seen changed/);
    expect(err).toMatch(/1 lines of QEMU have a form that is not known; the first: smmuv3_translate_success without/);
    expect(err).toContain('QEMU did not end in order');
    // QEMU's own line has what was written.
    const w = (all: readonly Line[]) => all.filter((e) => e.t === 'w').map((e) => [e.off, e.val]);
    expect(w(events(output))).toEqual(w(BOOT.events));
  });

  test.each<[string[], RegExp]>([
    [['-M', 'virt'], /the machine has no SMMU: add iommu=smmuv3 to -M virt/],
    [['-M', 'sbsa-ref'], /-M sbsa-ref: an SMMUv3 is recorded on -M virt,iommu=smmuv3/],
    [[...VIRT, '-enable-kvm'], /leave -enable-kvm out/],
    [[...VIRT, '-accel', 'kvm'], /-accel kvm: recording watches what TCG executes/],
    [[...VIRT, '-accel', 'tcg,thread=multi'], /has no order: use -accel tcg,thread=single/],
    [['-machine', 'virt,iommu=smmuv3,accel=hvf'], /recording watches what TCG executes/],
    [[...VIRT, '-D', 'x'], /-D is what the recorder uses/],
    [[...VIRT, '-object', 'memory-backend-ram,id=m,size=1G'], /guest RAM in a file of its own/],
    [[...VIRT, '-m', 'lots'], /-m lots: expected a size such as 512M/],
    [[...VIRT, '-device', 'arm-smmuv3', '-device', 'arm-smmuv3'], /several SMMUs/],
    [[...VIRT, '-loadvm', 'x'], /a recording begins when the machine starts/],
  ])('%j cannot be recorded, and it is said what can', (args, why) => {
    const path = qemu('qemu-system-aarch64', 'exit 0');
    const { status, err, output } = record([path, ...args]);
    expect(status).toBe(2);
    expect(err).toMatch(why);
    expect(existsSync(output)).toBe(false);
  });

  test.each<[string, string, RegExp]>([
    ['9.1.2', 'exit 0', /is 9\.1: recording needs QEMU 9\.2 or newer/],
    ['11.1.3', 'echo "no such disk" >&2; exit 1', /QEMU left no log|QEMU ended with status 1/],
    ['11.1.3', 'echo > "$log"', /the guest never touched the smmuv3/],
  ])('QEMU %s that does %j', (version, does, why) => {
    const { status, err } = record([qemu('qemu-system-aarch64', does, version), ...VIRT]);
    expect(status).toBe(2);
    expect(err).toMatch(why);
  });

  test('no compiler, no QEMU, no output: each says what would do', () => {
    const path = qemu('qemu-system-aarch64', 'exit 0');
    const output = join(folder, 'y.ndjson');
    const without = run(['record', 'qemu', '--output', output, '--', path, ...VIRT], { CC: '/no/such/compiler' });
    expect([without.status, without.err]).toEqual([2, expect.stringMatching(/no C compiler.*viommu doctor/)]);
    const missing = run(['record', 'qemu', '--output', output, '--', '/no/qemu-system-aarch64', ...VIRT]);
    expect([missing.status, missing.err]).toEqual([2, expect.stringMatching(/is not there: viommu doctor/)]);
    expect(run(['record', 'qemu', '--', path, ...VIRT]).err).toMatch(/expected --output TRACE/);
  });
});
