import { existsSync } from 'node:fs';
import { ViommuError } from '../../src/core/errors.ts';
import type { MakeReplayTarget } from '../../src/trace/index.ts';
import { atLeast, oneOf } from '../cli/parser.ts';
import type { Session } from '../cli/session.ts';
import { type Command, EXIT, usageError } from '../cli/verb.ts';
import { buildPlugin, qemuVersion } from '../record/qemu/build.ts';
import { qemuCommand } from '../record/qemu/command-line.ts';
import { convertLog, type Recorded, runQemu, workFolder } from '../record/qemu/run.ts';
import { recordClient } from '../record/qtest.ts';
import { differences, summary, toJson } from '../replay/report.ts';
import type { Replayed } from '../replay/run.ts';
import { replayOne } from './replay.ts';

interface Values {
  readonly output?: string;
  readonly seconds?: number;
  readonly all?: boolean;
  readonly verify?: boolean;
  readonly arch?: string;
}

/** What a recording does not have, in sentences. */
function lostWords({ lost, cut, beyond }: Recorded): string[] {
  const words: string[] = [];
  if (lost.unwatchedReads + lost.unwatchedWrites > 0)
    words.push(
      `${lost.unwatchedWrites} register writes were made by code that is not watched (they are there, their stores before may not be), ` +
        `and ${lost.unwatchedReads} reads: --all watches everything, more slowly`,
    );
  if (lost.compared > 0)
    words.push(`${lost.compared} words of memory were seen changed, and not by which store or when`);
  if (lost.unpaired > 0) words.push(`${lost.unpaired} fault records and faults have no other half`);
  if (lost.unreadable > 0)
    words.push(`${lost.unreadable} lines of QEMU have a form that is not known; the first: ${lost.firstUnreadable}`);
  if (cut) words.push('QEMU did not end in order: its last access may be missing');
  if (beyond > 0) words.push(`${beyond} events at the end did not fit: a recording has at most 256 MiB of text`);
  return words;
}

async function recordQemu(
  words: readonly string[],
  values: Values,
  make: MakeReplayTarget,
  io: Session,
): Promise<number> {
  const { output } = values;
  if (output === undefined) throw usageError('expected --output TRACE');
  const machine = qemuCommand(words);
  const version = qemuVersion(machine.qemu);
  const folder = workFolder();
  const plugin = buildPlugin(machine.qemu, folder);
  io.note(`recording ${machine.iommu} of QEMU ${version}; end it in the guest, with Ctrl-C or SIGTERM`);
  const ran = await runQemu(machine, folder, plugin, { all: values.all ?? false, seconds: values.seconds ?? null });
  const recorded = await convertLog(machine, folder, output, ran, version, (n) =>
    io.progress(`${output}: ${n} events`),
  );
  const accesses = (recorded.byKind.get('r') ?? 0) + (recorded.byKind.get('w') ?? 0);
  if (accesses === 0 && ran.status !== 0 && ran.status !== null)
    throw new ViommuError('EIO', 'caller', `QEMU ended with status ${ran.status}: its own message is above`);
  if (accesses === 0)
    throw new ViommuError(
      'E_MISSING',
      'guest',
      `${output}: the guest never touched the ${machine.iommu}: its kernel has no driver for it or did not get that far`,
    );
  const lost = lostWords(recorded);
  io.note(`${output}: ${recorded.events} events`);
  for (const [kind, count] of [...recorded.byKind].toSorted()) io.note(`  ${kind.padEnd(6)} ${count}`);
  io.note(lost.length === 0 ? 'nothing was lost' : 'lost:');
  for (const what of lost) io.note(`  ${what}`);
  if (values.verify === false) return EXIT.OK;
  const replayed = await replayOne(output, make, {}, io);
  if (io.json)
    io.out(
      JSON.stringify({
        output,
        events: recorded.events,
        lost: recorded.lost,
        cut: recorded.cut,
        replay: toJson(replayed),
      }),
    );
  else for (const line of summary([replayed], io.paint)) io.out(line);
  for (const line of differences(replayed)) (io.json ? io.err : io.out)(line);
  return replayed.ok ? EXIT.OK : EXIT.DIFFERS;
}

/** A client of qtest, our machines in the place of QEMU. */
async function recordQtest(
  words: readonly string[],
  values: Values,
  make: MakeReplayTarget,
  io: Session,
): Promise<number> {
  const { output } = values;
  if (output === undefined) throw usageError('expected --output TRACE');
  if (words.length === 0) throw usageError("expected the client's command line after --");
  const { outputs, status } = await recordClient(words, values.arch ?? 'x86_64', output);
  if (status !== 0) io.note(`${words[0]} ended with ${status === null ? 'a signal' : `status ${status}`}`);
  if (values.verify === false) return EXIT.OK;
  const done: Replayed[] = [];
  for (const path of outputs) done.push(await replayOne(path, make, {}, io));
  if (io.json) for (const r of done) io.out(JSON.stringify({ output, status, replay: toJson(r) }));
  else for (const line of summary(done, io.paint)) io.out(line);
  for (const r of done) for (const line of differences(r)) (io.json ? io.err : io.out)(line);
  return done.every((r) => r.ok) ? EXIT.OK : EXIT.DIFFERS;
}

/** `viommu record`; recordings are replayed on machines made by `make`. */
export function recordCommand(make: MakeReplayTarget): Command {
  return {
    name: 'record',
    summary: "a guest's IOMMU traffic while it runs on QEMU, as a recording that is replayed at once",
    about: `Runs the QEMU command line after --, watches the guest's SMMUv3 (-M virt,iommu=smmuv3) or VT-d unit (-M q35 -device
intel-iommu) through a TCG plugin that is built for that QEMU, and writes a recording. QEMU's console stays where it is; the
recording is there when QEMU has ended, by itself, by Ctrl-C or SIGTERM, and is then replayed.

Added to the command line: -accel tcg,thread=single (processors take turns, so that their stores have an order), a file that
holds guest RAM, the plugin, -trace of the IOMMU, a QMP socket. Needs QEMU 9.2 or newer with plugins, and a C compiler.

viommu record qtest runs a client of QEMU's qtest protocol (QTEST_QEMU_BINARY) on a machine of ours instead, and records that.`,
    notes:
      'Exit status: 0 recorded and replayed alike, 1 the replay differs, 2 it cannot be recorded (the message says what would do).',
    examples: [
      'viommu record qemu --output boot.ndjson.gz -- qemu-system-aarch64 -M virt,iommu=smmuv3 -cpu cortex-a76 -m 1G -nographic -kernel vmlinuz -initrd initrd.img -drive if=none,id=d,file=disk.img,format=raw -device nvme,serial=1,drive=d',
      'viommu record qtest --output qtest.ndjson.gz -- ./intel-iommu-test',
    ],
    declare(parser) {
      const kind = parser.createArgument('<what>', 'qemu or qtest');
      kind.argChoices = ['qemu', 'qtest'];
      parser
        .usage('qemu|qtest --output TRACE [options] -- COMMAND-LINE')
        .addArgument(kind)
        .argument('[command...]', "QEMU's command line, or that of a client of qtest, after --")
        .option('--output <trace>', 'where to write; packed when the name ends in .gz')
        .option('--seconds <n>', 'end QEMU after so long', atLeast(1, false))
        .option(
          '--all',
          'watch all code, not only that of a kernel in the upper half of addresses (firmware, hypervisors)',
        )
        .addOption(
          oneOf('--arch <name>', 'qtest: which QEMU the client takes us for, x86_64 (default) or aarch64', [
            'x86_64',
            'aarch64',
          ]),
        )
        .option('--no-verify', 'do not replay the recording');
    },
    async run([what, ...words], values: Values, io) {
      if (what !== 'qemu' && what !== 'qtest') throw usageError(`expected qemu or qtest, found "${what}"`);
      if (values.output !== undefined && existsSync(values.output) && words.includes(values.output))
        throw usageError(`${values.output} is part of QEMU's command line: say another file`);
      return await (what === 'qemu' ? recordQemu : recordQtest)(words, values, make, io);
    },
  };
}
