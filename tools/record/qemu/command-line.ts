import { basename } from 'node:path';
import { ViommuError } from '../../../src/core/errors.ts';
import type { IommuKind } from '../../../src/trace/index.ts';

/** A piece of guest RAM, and where in the file behind it it lies. Bytes. */
export interface RamPiece {
  readonly gpa: number;
  readonly size: number;
  readonly offset: number;
}

/** What a QEMU command line says of the machine that is to be recorded. */
export interface QemuCommand {
  readonly qemu: string;
  readonly iommu: IommuKind;
  readonly mmio: { readonly base: number; readonly size: number };
  readonly ram: readonly RamPiece[];
  readonly memory: number;
  /** The command line without what the recorder says itself. */
  readonly args: readonly string[];
  /** Options of `-accel tcg`, with which processors take turns. */
  readonly accel: string;
}

const MIB = 2 ** 20;
const Q35 = { SPLIT: 0xb000_0000, LOW: 0x8000_0000, ABOVE: 0x1_0000_0000 } as const;
const VIRT_RAM = 0x4000_0000;
const WINDOW = {
  vtd: { base: 0xfed9_0000, size: 0x1000 },
  virt: { base: 0x0905_0000, size: 0x2_0000 },
  device: { base: 0x0c00_0000, size: 0x2_0000 },
} as const;
/** A recording's region of RAM is one array of words when it is replayed. */
const MOST_MEMORY = 2 ** 33;

function refuse(what: string): never {
  throw new ViommuError('EINVAL', 'caller', what);
}

/** Options that have no argument, of those that could be followed by something like an option. */
const ALONE =
  /^-(nographic|enable-kvm|no-reboot|no-shutdown|S|snapshot|nodefaults|no-user-config|daemonize|s|full-screen|no-hpet|no-acpi|h|help|version|usb|preconfig|realtime|win2k-hack)$/;

/** Words of a command line: each option with its argument; null: it has none. */
export function options(words: readonly string[]): [name: string, value: string | null][] {
  const found: [string, string | null][] = [];
  for (let n = 0; n < words.length; n++) {
    const word = words[n]!;
    if (!word.startsWith('-') || word === '-') found.push(['', word]);
    else if (ALONE.test(word.replace(/^--/, '-'))) found.push([word.replace(/^--/, '-'), null]);
    else found.push([word.replace(/^--/, '-'), words[++n] ?? null]);
  }
  return found;
}

function bytes(text: string): number {
  const m = /^(?:size=)?(\d+(?:\.\d+)?)([KMGT]?)B?$/i.exec(text.split(',')[0]!);
  if (m === null) refuse(`-m ${text}: expected a size such as 512M`);
  const unit = { '': MIB, K: 2 ** 10, M: MIB, G: 2 ** 30, T: 2 ** 40 }[m[2]!.toUpperCase()]!;
  return Number(m[1]) * unit;
}

function value(list: string, key: string): string | undefined {
  return new RegExp(`(?:^|,)${key}=([^,]*)`).exec(list)?.[1];
}

function without(list: string, key: string): string {
  return list.replace(new RegExp(`(^|,)${key}=[^,]*`), '').replace(/^,/, '');
}

/** What cannot be recorded, and what would do. */
function check(name: string, v: string): void {
  if (name === '-enable-kvm') refuse('recording watches what TCG executes: leave -enable-kvm out');
  if (name === '-d' || name === '-D') refuse(`${name} is what the recorder uses: leave it out`);
  if (name === '-plugin') refuse('-plugin: leave other plugins out while something is recorded');
  if (name === '-daemonize') refuse('-daemonize: the recorder waits for QEMU to end: leave it out');
  if (name === '-loadvm' || name === '-incoming') refuse(`${name}: a recording begins when the machine starts`);
  if (name === '-numa' || name === '-mem-path' || name === '-mem-prealloc')
    refuse(`${name}: the recorder keeps guest RAM in a file of its own: leave it out`);
  if (name === '-object' && v.startsWith('memory-backend'))
    refuse(
      `-object ${v}: the recorder keeps guest RAM in a file of its own: leave it out, and memory-backend= of -machine`,
    );
  if (name === '-m' && /slots=|maxmem=/.test(v)) refuse(`-m ${v}: memory that is plugged later is not followed`);
}

/** The options of `-accel tcg`. @throws ViommuError for other accelerators, and for processors that do not take turns. */
function tcg(v: string): string {
  const [kind, ...more] = v.split(',');
  if (kind !== 'tcg') refuse(`-accel ${v}: recording watches what TCG executes: use -accel tcg,thread=single`);
  if (more.includes('thread=multi'))
    refuse(`-accel ${v}: what several threads store at once has no order: use -accel tcg,thread=single`);
  return [...more.filter((o) => o !== 'thread=single')].map((o) => `,${o}`).join('');
}

/**
 * Reads the command line of a QEMU that is to be recorded.
 * @throws ViommuError `EINVAL` names what cannot be recorded and what would do.
 */
export function qemuCommand(words: readonly string[]): QemuCommand {
  const [qemu, ...rest] = words;
  if (qemu === undefined) refuse('expected QEMU and its options after --');
  const arch = /qemu-system-(aarch64|x86_64)/.exec(basename(qemu))?.[1];
  if (arch === undefined) refuse(`${qemu}: expected qemu-system-aarch64 or qemu-system-x86_64`);
  let memory = 128 * MIB;
  let accel = '';
  let board = '';
  let machine = '';
  const devices: string[] = [];
  const args: string[] = [];
  for (const [name, v] of options(rest)) {
    const text = v ?? '';
    check(name, text);
    if (name === '-m') memory = bytes(text);
    else if (name === '-accel') {
      accel = tcg(text);
      continue;
    } else if (name === '-M' || name === '-machine') {
      const named = value(text, 'accel');
      if (named !== undefined) accel = tcg(named);
      for (const key of ['memory-backend', 'memory-encryption', 'max-ram-below-4g'])
        if (value(text, key) !== undefined) refuse(`${name} ${key}=: the recorder lays out guest RAM: leave it out`);
      const left = without(text, 'accel');
      board = value(left, 'type') ?? (left.split(',')[0]!.includes('=') ? board : left.split(',')[0]!);
      machine = `${machine},${left}`;
      if (left !== '') args.push(name, left);
      continue;
    } else if (name === '-device') devices.push(text);
    if (name !== '') args.push(name);
    if (v !== null) args.push(v);
  }
  if (memory > MOST_MEMORY || memory % MIB !== 0)
    refuse(`-m: expected whole mebibytes up to ${MOST_MEMORY / 2 ** 30} GiB`);
  const all = { qemu, memory, args, accel };
  if (arch === 'aarch64') {
    if (!/^virt(-|$)/.test(board)) refuse(`-M ${board}: an SMMUv3 is recorded on -M virt,iommu=smmuv3`);
    const own = devices.filter((d) => d.startsWith('arm-smmuv3'));
    if (own.length > 1) refuse('there are several SMMUs (-device arm-smmuv3): one is recorded at a time');
    const onBoard = value(machine, 'iommu') === 'smmuv3';
    if (!onBoard && own.length === 0) refuse('the machine has no SMMU: add iommu=smmuv3 to -M virt');
    const ram = [{ gpa: VIRT_RAM, size: memory, offset: 0 }];
    return { ...all, iommu: 'smmuv3', mmio: onBoard ? WINDOW.virt : WINDOW.device, ram };
  }
  if (!/^(pc-)?q35(-|$)/.test(board)) refuse(`-M ${board || 'pc'}: a VT-d unit is recorded on -M q35`);
  if (!devices.some((d) => d.startsWith('intel-iommu'))) refuse('the machine has no IOMMU: add -device intel-iommu');
  const low = memory < Q35.SPLIT ? memory : Q35.LOW;
  const ram = [{ gpa: 0, size: low, offset: 0 }];
  if (memory > low) ram.push({ gpa: Q35.ABOVE, size: memory - low, offset: low });
  return { ...all, iommu: 'vtd', mmio: WINDOW.vtd, ram };
}

/** The command line as a recording keeps it: file names without their folders, what the kernel was told apart. */
export function keptCommandLine(qemu: string, args: readonly string[]): { cmdline: string; kernel: string } {
  const kept: string[] = [basename(qemu)];
  let kernel = '';
  for (const [name, v] of options(args)) {
    if (name === '-append') kernel = v ?? '';
    else kept.push(...(name === '' ? [] : [name]), ...(v === null ? [] : [plain(name, v)]));
  }
  return { cmdline: kept.join(' '), kernel };
}

function plain(name: string, v: string): string {
  if (['-kernel', '-initrd', '-dtb', '-bios', '-L', '-cdrom', '-hda', '-pflash'].includes(name)) return basename(v);
  return v.replaceAll(/((?:file|mem-path|path|tftp|filename)=)[^,]*\/([^,/]*)/g, '$1$2').replaceAll(/\s+/g, '_');
}
