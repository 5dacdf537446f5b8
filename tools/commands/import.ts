import { basename } from 'node:path';
import { oneOf } from '../cli/parser.ts';
import { type Command, EXIT, usageError } from '../cli/verb.ts';
import { refuseSameFile } from '../files/output.ts';
import { BOARD_WINDOW, type Imported, recordingLines, writeRecording } from '../import/imported.ts';
import { importMmio } from '../import/mmio.ts';
import { importQemuLog } from '../import/qemu-log.ts';

function address(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const n = Number(text);
  if (!/^(0x[0-9a-fA-F]+|\d+)$/.test(text) || n >= 2 ** 52 || n % 4096 !== 0)
    throw usageError(`--base: expected an address that is a multiple of 0x1000, found "${text}"`);
  return n;
}

async function imported(
  kind: string,
  log: string,
  iommu: string | undefined,
  base: number | undefined,
): Promise<Imported> {
  if (kind === 'qemu-log') {
    if (iommu !== undefined) throw usageError('--iommu: the lines of a QEMU log say which IOMMU they are of');
    return importQemuLog(log);
  }
  if (iommu !== 'smmuv3' && iommu !== 'vtd')
    throw usageError(`--iommu: expected smmuv3 or vtd, found ${iommu === undefined ? 'nothing' : `"${iommu}"`}`);
  return importMmio(log, iommu, base);
}

const KINDS = ['qemu-log', 'mmio'] as const;

interface Values {
  readonly output?: string;
  readonly cmdline?: string;
  readonly iommu?: string;
  readonly base?: string;
}

/** `viommu import`. */
export const importCommand: Command = {
  name: 'import',
  summary: "QEMU's -trace log, or plain register accesses, as a recording",
  about: `Turns a log of something else into a recording. Such logs have no guest memory: the recording can be exported and looked at,
not replayed.

  qemu-log   what QEMU 9 to 11 print with -trace "smmu*" or -trace "vtd_*"
  mmio       lines "TIME r|w ADDRESS SIZE VALUE", numbers in decimal or with 0x, # begins a comment`,
  notes: 'Exit status: 0 written, 2 the input or output cannot be used.',
  examples: ['viommu import qemu-log --output boot.ndjson.gz qemu.log && viommu export --to csv boot.ndjson.gz'],
  declare(parser) {
    const kinds = parser.createArgument('[kind]', 'of what: qemu-log or mmio');
    kinds.argChoices = [...KINDS];
    parser
      .usage('qemu-log|mmio [options] --output TRACE LOG')
      .addArgument(kinds)
      .argument('[log]', 'one log (- is the standard input)')
      .option('--output <trace>', 'where to write; packed when the name ends in .gz')
      .option('--cmdline <text>', "QEMU's command line, kept in the recording")
      .addOption(oneOf('--iommu <name>', 'smmuv3 or vtd (mmio only: the lines do not say)', ['smmuv3', 'vtd']))
      .option('--base <address>', "where the register window lies (default: where QEMU's virt and q35 have it)");
  },
  async run([given, log], values: Values, io) {
    const kind = KINDS.find((k) => k === given);
    if (kind === undefined)
      throw usageError(`expected qemu-log or mmio first, found ${given === undefined ? 'nothing' : `"${given}"`}`);
    if (log === undefined) throw usageError('expected one log');
    const { output } = values;
    if (output === undefined) throw usageError('expected --output TRACE');
    await refuseSameFile(log, output);
    const base = address(values.base);
    const found = await imported(kind, log, values.iommu, base);
    const machine = { cmdline: values.cmdline ?? '', base: base ?? BOARD_WINDOW[found.iommu] };
    await writeRecording(output, recordingLines(log === '-' ? 'standard input' : basename(log), found, machine));
    const { events, iommu, unknown, skipped } = found;
    if (io.json) {
      io.out(JSON.stringify({ output, iommu, events: events.length, unknown, skipped: Object.fromEntries(skipped) }));
      return EXIT.OK;
    }
    io.note(`${output}: ${events.length} events of ${iommu}`);
    for (const what of unknown) io.note(`  not in such a log: ${what}`);
    const passed = [...skipped].toSorted((a, b) => b[1] - a[1]).map(([name, count]) => `${name} x ${count}`);
    if (passed.length > 0) io.note(`  passed over: ${passed.join(', ')}`);
    return EXIT.OK;
  },
};
