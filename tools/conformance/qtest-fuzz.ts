/**
 * Differences between our machines and a real QEMU, found by chance: recorded transcripts with a few bits changed are sent
 * to both. `node dist/tools/conformance/qtest-fuzz.js --qemu 'qemu-system-{arch}' --kind smmuv3 --runs 100 --seed 1`
 *
 * QEMU stops itself on some of these (assertions on values no driver writes); such runs are skipped. Replies behind a
 * withheld invalidation may differ rightfully: look at each difference before believing it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { parseServerOptions } from '../../src/adapters/qtest/options.ts';
import { QtestSession } from '../../src/adapters/qtest/session.ts';
import { parseTranscript, type Transcript } from '../../src/adapters/qtest/transcript.ts';
import { createQemuMachine } from '../../src/machine/qemu-machine.ts';

const CORPUS = join(import.meta.dirname, '../../../guest-fixtures/qtest');

/** What is changed: tables, queues and IOMMU registers; and a test device's address. */
const PLACES = {
  smmuv3: { memory: [0x4100_0000, 0x4400_0000], registers: [0x0905_0000, 0x0907_0000], device: 0x1000_0000 },
  vtd: { memory: [0x1000_0000, 0x1400_0000], registers: [0xfed9_0000, 0xfed9_1000], device: 0xe000_0000 },
} as const;
type Kind = keyof typeof PLACES;

/** The same sequence for the same seed. */
class Chance {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 1;
  }

  below(n: number): number {
    let s = this.#state;
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    this.#state = s;
    return (s >>> 0) % n;
  }
}

function within(at: number, [first, end]: readonly [number, number]): boolean {
  return at >= first && at < end;
}

function mutable(kind: Kind, request: string): boolean {
  const [command, address] = request.split(' ');
  const at = Number(address);
  const { memory, registers, device } = PLACES[kind];
  if (command === 'writel' || command === 'writeq') return within(at, memory) || within(at, registers);
  if (command !== 'write') return false;
  return within(at, memory) || at - device === 4 || at - device === 8;
}

/** One bit of the value flipped. */
function mutate(request: string, chance: Chance): string {
  const words = request.split(' ');
  if (words[0] === 'write') {
    const bytes = Buffer.from(words[3]!.slice(2), 'hex');
    const at = chance.below(bytes.length);
    bytes[at]! ^= 1 << chance.below(8);
    return `${words[0]} ${words[1]} ${words[2]} 0x${bytes.toString('hex')}`;
  }
  const bits = words[0] === 'writel' ? 32 : 64;
  const value = BigInt(words[2]!) ^ (1n << BigInt(chance.below(bits)));
  return `${words[0]} ${words[1]} 0x${value.toString(16)}`;
}

function ours(transcript: Transcript, requests: readonly string[]): string[] {
  const { machine, nic, vga } = parseServerOptions(transcript.args);
  const session = new QtestSession(createQemuMachine(machine, { nic, vga }));
  return requests.map((r) => session.execute(r));
}

/** @returns the replies, fewer than asked when QEMU ended itself. */
async function theirs(command: string, transcript: Transcript, requests: readonly string[]): Promise<string[]> {
  const dir = mkdtempSync(join(tmpdir(), 'qt-fuzz-'));
  const path = join(dir, 'qtest');
  const arch = transcript.args.some((a) => a.startsWith('virt')) ? 'aarch64' : 'x86_64';
  const words = command.replaceAll('{arch}', arch).split(/\s+/);
  const fixed = [
    '-qtest',
    `unix:${path}`,
    '-qtest-log',
    '/dev/null',
    '-display',
    'none',
    '-audio',
    'none',
    '-accel',
    'qtest',
  ];
  let child: ChildProcess | null = null;
  try {
    const socket = await new Promise<Socket>((resolve, reject) => {
      const server = createServer((s) => {
        server.close();
        resolve(s);
      });
      server.listen(path, () => {
        child = spawn(words[0]!, [...words.slice(1), ...fixed, '-monitor', 'none', ...transcript.args], {
          stdio: ['ignore', 'ignore', 'pipe'],
        });
        let said = '';
        child.stderr!.setEncoding('utf8').on('data', (text: string) => {
          said += text;
        });
        child.on('error', (e) => reject(new Error(`${words[0]} does not start: ${e.message}`)));
        child.on('close', () => reject(new Error(`${words[0]} ended before it connected: ${said.trim()}`)));
      });
    });
    return await converse(socket, requests);
  } finally {
    (child as ChildProcess | null)?.kill('SIGKILL');
    rmSync(dir, { recursive: true, force: true });
  }
}

function converse(socket: Socket, requests: readonly string[]): Promise<string[]> {
  return new Promise((resolve) => {
    const replies: string[] = [];
    let rest = '';
    const end = () => resolve(replies);
    const timer = setTimeout(end, 30_000);
    socket.setEncoding('utf8');
    socket.on('error', end);
    socket.on('close', end);
    socket.on('data', (chunk: string) => {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop()!;
      for (const line of lines) if (!line.startsWith('IRQ')) replies.push(line.trim());
      if (replies.length < requests.length) return;
      clearTimeout(timer);
      end();
    });
    socket.write(requests.map((r) => `${r}\n`).join(''));
  });
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      qemu: { type: 'string', default: 'qemu-system-{arch}' },
      kind: { type: 'string', default: 'smmuv3' },
      only: { type: 'string', default: '' },
      runs: { type: 'string', default: '100' },
      seed: { type: 'string', default: '1' },
      // In the place of what the transcripts ask for, e.g. intel-iommu,caching-mode=on,aw-bits=39.
      iommu: { type: 'string', default: '' },
    },
  });
  const kind: Kind = values.kind === 'vtd' ? 'vtd' : 'smmuv3';
  const chance = new Chance(Number(values.seed) * 7919);
  const names = readdirSync(join(CORPUS, kind)).filter((n) => n.includes(values.only));
  let different = 0;
  let skipped = 0;
  for (let run = 0; run < Number(values.runs); run++) {
    const name = names[chance.below(names.length)]!;
    const recorded = parseTranscript(name, readFileSync(join(CORPUS, kind, name), 'utf8'));
    const args = recorded.args.map((a) => (values.iommu !== '' && a.startsWith('intel-iommu') ? values.iommu : a));
    const transcript = { ...recorded, args };
    const requests = transcript.exchanges.map((x) => x.request);
    const places = requests.flatMap((r, i) => (mutable(kind, r) ? [i] : []));
    if (places.length === 0) continue;
    const changed: number[] = [];
    for (let n = 0; n <= chance.below(4) >> 1; n++) {
      const at = places[chance.below(places.length)]!;
      requests[at] = mutate(requests[at]!, chance);
      changed.push(at);
    }
    const want = await theirs(values.qemu, transcript, requests);
    if (want.length < requests.length) {
      skipped++;
      continue;
    }
    const got = ours(transcript, requests);
    const at = requests.flatMap((_, i) => (got[i] !== want[i] && !transcript.exchanges[i]!.stale ? [i] : []));
    if (at.length === 0) continue;
    different++;
    console.log(
      `run ${run} ${name}: ${changed.map((i) => `[${i}] ${transcript.exchanges[i]!.request} => ${requests[i]}`).join('; ')}`,
    );
    for (const i of at.slice(0, 3)) console.log(`    [${i}] ${requests[i]}: QEMU ${want[i]}, ours ${got[i]}`);
  }
  console.log(`${values.runs} runs, ${different} different, ${skipped} skipped`);
}

await main();
