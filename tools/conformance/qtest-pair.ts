import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseServerOptions } from '../../src/adapters/qtest/options.ts';
import { QtestSession } from '../../src/adapters/qtest/session.ts';
import { parseTranscript, type Transcript } from '../../src/adapters/qtest/transcript.ts';
import { createQemuMachine } from '../../src/machine/qemu-machine.ts';
import { Smmuv3Unit } from '../../src/machine/smmuv3-unit.ts';
import { VtdUnit } from '../../src/machine/vtd-unit.ts';
import { HW_ERROR } from '../../src/ports/hw.ts';

/** From the source and from what is built of it. */
const CORPUS = ['../..', '../../..']
  .map((up) => join(import.meta.dirname, up, 'guest-fixtures/qtest'))
  .find((folder) => existsSync(folder))!;

/** What is changed: tables, queues and IOMMU registers; and a test device's address. */
const PLACES = {
  smmuv3: { memory: [0x4100_0000, 0x4400_0000], registers: [0x0905_0000, 0x0907_0000], device: 0x1000_0000 },
  vtd: { memory: [0x1000_0000, 0x1400_0000], registers: [0xfed9_0000, 0xfed9_1000], device: 0xe000_0000 },
} as const;
/** Which IOMMU a transcript is of. */
export type QtestKind = keyof typeof PLACES;

function within(at: number, [first, end]: readonly [number, number]): boolean {
  return at >= first && at < end;
}

/** Whether a request stores something that decides what the machine does. */
export function mutable(kind: QtestKind, request: string): boolean {
  const [command, address] = request.split(' ');
  const at = Number(address);
  const { memory, registers, device } = PLACES[kind];
  if (command === 'writel' || command === 'writeq') return within(at, memory) || within(at, registers);
  if (command !== 'write') return false;
  return within(at, memory) || at - device === 4 || at - device === 8;
}

/** One bit of the value flipped: bit `n` of all it has, counted around. */
export function flipped(request: string, n: number): string {
  const words = request.split(' ');
  if (words[0] === 'write') {
    const bytes = Buffer.from(words[3]!.slice(2), 'hex');
    bytes[(n >>> 3) % bytes.length]! ^= 1 << (n & 7);
    return `${words[0]} ${words[1]} ${words[2]} 0x${bytes.toString('hex')}`;
  }
  const bits = words[0] === 'writel' ? 32 : 64;
  const value = BigInt(words[2]!) ^ (1n << BigInt(n % bits));
  return `${words[0]} ${words[1]} 0x${value.toString(16)}`;
}

/** What the hardware does with what it has cached: as it is told, as if it were never told, or forgets it all between requests. */
export type QtestCaches = 'told' | 'keeping' | 'forgetting';

/** Opcodes of invalidations of translations: TLBI_… of an SMMUv3; IOTLB and PASID-based IOTLB of a VT-d. */
const TRANSLATIONS = {
  smmuv3: (op: number) => op >= 0x10 && op <= 0x30,
  vtd: (op: number) => (op & 0xf) === 2 || (op & 0xf) === 6,
} as const;
/** Configuration and translations of everybody, in words of each command: CFGI_ALL, TLBI_NSNH_ALL; global requests. */
const EVERYTHING = {
  smmuv3: [
    [0x04, 0, 31, 0],
    [0x30, 0, 0, 0],
  ],
  vtd: [[0x11], [0x37], [0x12]],
} as const;

/** Puts another hand on the caches of a unit's hardware. @returns forgets everything. */
function handOn(kind: QtestKind, hw: Smmuv3Unit['hardware'] | VtdUnit['hardware'], caches: QtestCaches): () => void {
  const submit = hw.submit.bind(hw);
  if (caches === 'keeping') {
    const step = kind === 'smmuv3' ? 4 : 8;
    hw.submit = (words, start, count) => {
      let pending = 0;
      for (let i = 0; i < count; i++) {
        const at = start + i * step;
        if (TRANSLATIONS[kind](words[at]! & 0xff)) continue;
        submit(words, at, 1);
        pending += hw.pending;
        if (hw.error === HW_ERROR.NONE) continue;
        [hw.done, hw.pending] = [i, pending];
        return;
      }
      [hw.done, hw.pending, hw.error] = [count, pending, HW_ERROR.NONE];
    };
  }
  if (caches !== 'forgetting') return () => {};
  return () => {
    for (const command of EVERYTHING[kind]) {
      const words = new Int32Array(8);
      words.set(command);
      submit(words, 0, 1);
    }
  };
}

/** The replies of our machine. */
export function ours(transcript: Transcript, requests: readonly string[], caches: QtestCaches = 'told'): string[] {
  const { machine, nic, vga } = parseServerOptions(transcript.args);
  const made = createQemuMachine(machine, { nic, vga });
  const session = new QtestSession(made);
  const forget = made.iommus.map((unit) =>
    unit instanceof VtdUnit
      ? handOn('vtd', unit.hardware, caches)
      : unit instanceof Smmuv3Unit
        ? handOn('smmuv3', unit.hardware, caches)
        : () => {},
  );
  return requests.map((r) => {
    for (const f of forget) f();
    return session.execute(r);
  });
}

/** The replies of QEMU; fewer than asked when it ended itself. */
export async function theirs(command: string, transcript: Transcript, requests: readonly string[]): Promise<string[]> {
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
    const end = () => {
      // Left running, it would keep the whole program for its 30 seconds.
      clearTimeout(timer);
      resolve(replies);
    };
    const timer = setTimeout(end, 30_000);
    socket.setEncoding('utf8');
    socket.on('error', end);
    socket.on('close', end);
    socket.on('data', (chunk: string) => {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop()!;
      for (const line of lines) if (!line.startsWith('IRQ')) replies.push(line.trim());
      if (replies.length >= requests.length) end();
    });
    socket.write(requests.map((r) => `${r}\n`).join(''));
  });
}

/** Names of the transcripts of a kind. */
export function transcripts(kind: QtestKind): readonly string[] {
  return readdirSync(join(CORPUS, kind));
}

export function transcript(kind: QtestKind, name: string): Transcript {
  return parseTranscript(name, readFileSync(join(CORPUS, kind, name), 'utf8'));
}
