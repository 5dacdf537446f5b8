import { appendFileSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { smmuv3Help } from '../devices/smmuv3/property-help.ts';
import { vtdHelp } from '../devices/vtd/property-help.ts';
import { parseServerOptions, type ServerOptions } from '../src/adapters/qtest/options.ts';
import { QmpSession } from '../src/adapters/qtest/qmp.ts';
import { type SanitizedPlace, SanitizedTarget } from '../src/adapters/qtest/sanitized.ts';
import { open, serveLines } from '../src/adapters/qtest/server.ts';
import { QtestSession } from '../src/adapters/qtest/session.ts';
import { ViommuError } from '../src/core/errors.ts';
import { type FailureOptions, parseFailureOptions } from '../src/lib/inject/failure-options.ts';
import type { MachineLimits } from '../src/lib/limits/machine-limits.ts';
import { Q35, q35Ram } from '../src/machine/q35.ts';
import { createQemuMachine, type QemuMachine } from '../src/machine/qemu-machine.ts';
import { VIRT, virtRam } from '../src/machine/virt.ts';
import { TraceRecorder } from '../src/trace/index.ts';

const HELP = `A qtest and QMP server around the viommu models, in the place of QEMU (QTEST_QEMU_BINARY).

usage: viommu-system-aarch64|viommu-system-x86_64 -qtest unix:PATH -machine virt|q35|none [options]

  -qtest unix:PATH[,server=on]   where the client listens (server=on: where we do)
  -qtest-log PATH                log of requests and replies (/dev/fd/2: standard error)
  -chardev socket,path=PATH,id=ID -mon chardev=ID,mode=control
  -chardev socket,path=PATH,id=ID -object monitor-qmp,id=X,chardev=ID
  -qmp unix:PATH[,server=on]     the QMP channel
  -machine virt,iommu=smmuv3     -device arm-smmuv3,primary-bus=pcie.0[,stage=..][,ril=..][,ats=..]...
  -machine q35                   -device intel-iommu[,scalable-mode=on][,fsts=on][,aw-bits=39|48]...
  -device arm-smmuv3,help        every property, with its default (-device intel-iommu,help); x-profile=arch: the architecture's
                                 answers instead of QEMU's
  -device iommu-testdev[,addr=N.F]     -m MEGABYTES     -net none     -nodefaults
  --limits NAME=N[,…]            how much of its host the guest may use (docs/limits.md): pasids=64,tablePages=4096
  --failures SHARES              lets internal steps fail, by chance from a seed: seed=1,memory=0.01,ids=0.01,commands=0.01,
                                 fetches=0.01,queues=0.01,lostCompletions=0.1,lateCompletions=0.1,doubledCompletions=0.1,
                                 delay=NANOSECONDS; nth=N instead of shares: exactly the N-th step
  --sanitize                     judge the client as a driver of the IOMMU; findings on standard error at the end
Other options of QEMU are accepted and ignored.
`;

function logger(path: string | null): ((line: string) => void) | null {
  if (path === null) return null;
  if (path === '/dev/fd/2' || path === '/dev/stderr') return (line) => void process.stderr.write(`${line}\n`);
  return (line) => appendFileSync(path, `${line}\n`);
}

interface Watched {
  readonly target: SanitizedTarget;
  readonly place: SanitizedPlace;
}

/** Whether `viommu record qtest` wants a recording. */
const recording = process.env.VIOMMU_RECORD !== undefined;

/** What goes into the machine to be told of its DMA: keeps it for a recording, or tells it to the judge only; else none. */
function recorderOf({ machine }: ServerOptions, sanitize: boolean): TraceRecorder | undefined {
  if (!recording && !sanitize) return undefined;
  return new TraceRecorder(/^(pc-)?q35/.test(machine.machine.kind) ? 'vtd' : 'smmuv3', recording);
}

/** Writes what was recorded. @param words of the command line. */
function keep(record: TraceRecorder, place: SanitizedPlace, words: readonly string[], sids: ReadonlySet<number>): void {
  const text = record.text({
    cmdline: words.map((w) => w.replaceAll(/\s+/g, '_')).join(' '),
    guestKernel: '',
    scenario: 'qtest',
    mmio: { base: place.base, size: place.bytes },
    ram: place.ram,
    devices: [...sids].map((sid) => ({ name: `function ${sid.toString(16)}`, sid })),
  });
  writeFileSync(join(process.env.VIOMMU_RECORD ?? '.', `${process.hrtime.bigint()}.ndjson`), text);
}

/** The machine with its client judged; null: it has no IOMMU. */
function sanitized(
  machine: QemuMachine,
  { machine: args, vga }: ServerOptions,
  record: TraceRecorder | undefined,
): Watched | null {
  const { map } = machine;
  // The two boards have other things at the other's address: only an IOMMU itself says which board it is.
  const virt = map?.device(VIRT.SMMU)?.name.startsWith('smmuv3') === true;
  if (map === null || (!virt && map.device(Q35.VTD)?.name !== 'vtd')) return null;
  const ram = (virt ? virtRam(args.memory) : q35Ram(args.memory, vga)).map((r) => ({ gpa: r.base, size: r.bytes }));
  const place = virt
    ? { iommu: 'smmuv3' as const, base: VIRT.SMMU, bytes: 0x2_0000, ram }
    : { iommu: 'vtd' as const, base: Q35.VTD, bytes: 0x1000, ram };
  return { place, target: new SanitizedTarget(machine, map, place, record) };
}

/** Runs until a signal, `quit`, or the end of a channel: all of them end the process with status 0. */
async function serve(
  options: ServerOptions,
  sanitize: boolean,
  failures: FailureOptions | null,
  limits: Partial<MachineLimits>,
  words: readonly string[],
): Promise<void> {
  const record = recorderOf(options, sanitize);
  const chance = { limits, ...(failures === null ? {} : { failures }), ...(record === undefined ? {} : { record }) };
  const machine = createQemuMachine(options.machine, { nic: options.nic, vga: options.vga, ...chance });
  const sockets: Socket[] = [];
  const watched = record !== undefined ? sanitized(machine, options, record) : null;
  const target = watched?.target ?? null;
  const sids = new Set<number>();
  record?.listen((e) => typeof e.sid === 'number' && sids.add(e.sid));
  const exit = () => {
    if (recording && record !== undefined && watched !== null) keep(record, watched.place, words, sids);
    for (const f of (sanitize ? target : null)?.judge.findings() ?? [])
      process.stderr.write(`${f.severity} ${f.rule}: ${f.message}\n`);
    for (const [why, rules] of (sanitize ? target : null)?.judge.unjudged() ?? [])
      process.stderr.write(`not judged (${why}): ${[...rules].join(', ')}\n`);
    for (const s of sockets) s.destroy();
    process.exit(0);
  };
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, exit);

  const log = logger(options.log);
  const session = new QtestSession(target ?? machine);
  // Both sockets are opened before either is served: a client accepts them in any order.
  const [qtest, qmp] = await Promise.all([
    options.qtest === null ? null : open(options.qtest, '-qtest'),
    options.qmp === null ? null : open(options.qmp, '-chardev'),
  ]);
  if (qtest !== null) {
    sockets.push(qtest);
    const line = (text: string) => {
      const reply = session.execute(text);
      if (log !== null && reply !== '') {
        log(`[R] ${text}`);
        log(`[S] ${reply}`);
      }
      return reply === '' ? [] : [reply];
    };
    serveLines(qtest, { line, closed: exit }, '\n');
  }
  if (qmp !== null) {
    sockets.push(qmp);
    const control = new QmpSession({ reset: () => machine.reset(), quit: () => setImmediate(exit) });
    qmp.write(`${control.greeting()}\r\n`);
    serveLines(qmp, { line: (text) => control.execute(text), closed: exit }, '\r\n');
  }
}

/** Takes an option of ours and its value out of the words of a command line. @returns null: it is not there. @throws ViommuError `E_USAGE`. */
function taken(words: string[], option: string, needs: string): string | null {
  const at = words.indexOf(option);
  if (at < 0) return null;
  const [, text] = words.splice(at, 2);
  if (text === undefined) throw new ViommuError('E_USAGE', 'caller', `${option} needs ${needs} (see -help)`);
  return text;
}

/** Takes `--failures SHARES` out. @throws ViommuError `EINVAL`, `E_USAGE`. */
function failuresOf(words: string[]): FailureOptions | null {
  const text = taken(words, '--failures', 'seed=N and shares');
  return text === null ? null : parseFailureOptions(text);
}

/** Takes `--limits NAME=N,…` out. @throws ViommuError `E_USAGE`; `EINVAL` when the machine is made: no such limit, or none. */
function limitsOf(words: string[]): Partial<MachineLimits> {
  const text = taken(words, '--limits', 'NAME=N');
  const pairs = (text ?? '').split(',').filter((pair) => pair !== '');
  return Object.fromEntries(
    pairs.map((pair) => {
      const [name, value] = pair.split('=');
      if (value === undefined || !/^\d+$/.test(value)) {
        throw new ViommuError('E_USAGE', 'caller', `--limits ${pair}: expected NAME=N`);
      }
      return [name, Number(value)];
    }),
  );
}

/** What `-device KIND,help` prints. @throws ViommuError `E_USAGE`: the machine of this name has no such device. */
function helpOf(name: string, kind: string): string {
  const [device, help] = name.endsWith('x86_64') ? ['intel-iommu', vtdHelp()] : ['arm-smmuv3', smmuv3Help()];
  if (kind === device) return help;
  if (kind === 'help' || kind === '?')
    return `Misc devices:\nname "${device}", bus System\nname "iommu-testdev", bus PCI\n`;
  throw new ViommuError('E_USAGE', 'caller', `'${kind}' has no help here: ${device} has`);
}

/** Entry of the executables. Wrong usage ends with status 1 and a message, as QEMU does. */
export async function main(name: string, args: readonly string[]): Promise<void> {
  try {
    const sanitize = args.includes('--sanitize');
    const words = args.filter((a) => a !== '--sanitize');
    const failures = failuresOf(words);
    const limits = limitsOf(words);
    const options = parseServerOptions(words);
    if (options.help) process.stdout.write(HELP);
    else if (options.deviceHelp !== null) process.stdout.write(helpOf(name, options.deviceHelp));
    else if (options.version) process.stdout.write(`${name} (viommu)\n`);
    else if (options.qtest === null && options.qmp === null) {
      throw new ViommuError('E_USAGE', 'caller', 'nobody to talk to: give -qtest unix:PATH (see -help)');
    } else await serve(options, sanitize, failures, limits, [name, ...words]);
  } catch (e) {
    if (!(e instanceof ViommuError)) throw e;
    process.stderr.write(`${name}: ${e.message}\n`);
    process.exit(1);
  }
}
