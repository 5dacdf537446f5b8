import { basename } from 'node:path';
import { parseArgs } from 'node:util';
import { type Command, EXIT, usageError } from '../cli/command.ts';
import { refuseSameFile } from '../files/output.ts';
import { BOARD_WINDOW, type Imported, recordingLines, writeRecording } from '../import/imported.ts';
import { importMmio } from '../import/mmio.ts';
import { importQemuLog } from '../import/qemu-log.ts';

const USAGE = `usage: viommu import qemu-log|mmio [OPTIONS] --output TRACE LOG

Turns a log of something else into a recording. Such logs have no guest memory: the recording can be exported and looked at,
not replayed. LOG may be - (standard input); TRACE is packed when its name ends in .gz.

  qemu-log   what QEMU 9 to 11 print with -trace "smmu*" or -trace "vtd_*"
  mmio       lines "TIME r|w ADDRESS SIZE VALUE", numbers in decimal or with 0x, # begins a comment

  --output TRACE   where to write
  --cmdline TEXT   QEMU's command line, kept in the recording
  --iommu NAME     smmuv3 or vtd (mmio only: the lines do not say)
  --base ADDRESS   where the register window lies (default: where QEMU's virt and q35 have it)

  viommu import qemu-log --output boot.ndjson.gz qemu.log && viommu export --to csv boot.ndjson.gz

Exit status: 0 written, 2 the input or output cannot be used.`;

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

/** `viommu import`. */
export const importCommand: Command = {
  name: 'import',
  summary: "QEMU's -trace log, or plain register accesses, as a recording",
  usage: USAGE,
  async run(args, io) {
    const { values, positionals } = parseArgs({
      args: [...args],
      options: {
        output: { type: 'string' },
        cmdline: { type: 'string' },
        iommu: { type: 'string' },
        base: { type: 'string' },
      },
      allowPositionals: true,
    });
    const [kind, log] = positionals;
    if (kind !== 'qemu-log' && kind !== 'mmio')
      throw usageError(`expected qemu-log or mmio first, found ${kind === undefined ? 'nothing' : `"${kind}"`}`);
    if (log === undefined || positionals.length > 2) throw usageError('expected one log');
    const { output } = values;
    if (output === undefined) throw usageError('expected --output TRACE');
    await refuseSameFile(log, output);
    const base = address(values.base);
    const found = await imported(kind, log, values.iommu, base);
    const machine = { cmdline: values.cmdline ?? '', base: base ?? BOARD_WINDOW[found.iommu] };
    await writeRecording(output, recordingLines(log === '-' ? 'standard input' : basename(log), found, machine));
    io.err(`${output}: ${found.events.length} events of ${found.iommu}`);
    for (const what of found.unknown) io.err(`  not in such a log: ${what}`);
    const passed = [...found.skipped].toSorted((a, b) => b[1] - a[1]).map(([name, count]) => `${name} x ${count}`);
    if (passed.length > 0) io.err(`  passed over: ${passed.join(', ')}`);
    return EXIT.OK;
  },
};
