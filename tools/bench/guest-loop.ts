/**
 * The same bare-metal guest loop on this package's machine and on an installed QEMU, both spoken to by qtest: what the queue of
 * each does with a ring full of commands, in CPU time of the process that does it. `npm run bench:guest [-- --qemu COMMAND]`
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ViommuError } from '../../src/core/errors.ts';
import { LOOPS, type Loop } from './guests/qtest-loops.ts';
import { spread } from './measure.ts';

const ROUNDS = 9;
/** Doorbells in a round. */
const RINGS = 400;

/** CPU time the main thread of a process has used, ns: that is where both serve qtest. */
function cpu(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ')[0]);
}

class Qtest {
  readonly #socket: Socket;
  #rest = '';
  #answers: string[] = [];
  #waiting: { readonly count: number; readonly resolve: (answers: string[]) => void } | null = null;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding('utf8').on('data', (chunk: string) => {
      const lines = (this.#rest + chunk).split('\n');
      this.#rest = lines.pop()!;
      this.#answers.push(...lines.filter((line) => !line.startsWith('IRQ')));
      if (this.#waiting !== null && this.#answers.length >= this.#waiting.count) this.#waiting.resolve(this.#answers);
    });
  }

  /** Sends everything. @returns as many answers. */
  async send(lines: readonly string[]): Promise<string[]> {
    this.#answers = [];
    const answers = await new Promise<string[]>((resolve) => {
      this.#waiting = { count: lines.length, resolve };
      this.#socket.write(lines.map((line) => `${line}\n`).join(''));
    });
    const bad = answers.find((line) => !line.startsWith('OK'));
    if (bad !== undefined) throw new ViommuError('EIO', 'host', `the qtest server answers "${bad}"`);
    return answers;
  }
}

/** Nanoseconds per command of a loop on one program, every round. */
async function run(command: readonly string[], loop: Loop): Promise<number[]> {
  const dir = mkdtempSync(join(tmpdir(), 'viommu-loop-'));
  const path = join(dir, 'qtest');
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(path, resolve));
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
  const child = spawn(command[0]!, [...command.slice(1), ...fixed, '-monitor', 'none', ...loop.args], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  try {
    const socket = await new Promise<Socket>((resolve, reject) => {
      server.once('connection', resolve);
      child.once('error', reject);
      child.once('exit', (code) => reject(new ViommuError('EIO', 'host', `${command[0]} ended with ${code}`)));
    });
    const qtest = new Qtest(socket);
    await qtest.send(loop.begin);
    const rounds: number[] = [];
    const used = async (lines: readonly string[]) => {
      const before = cpu(child.pid!);
      await qtest.send(lines);
      return cpu(child.pid!) - before;
    };
    let n = 0;
    // The first round is for the compiler.
    for (let round = 0; round <= ROUNDS; round++) {
      // The same register written as often, with nothing to do: what qtest and the access take.
      const idle = await used(Array.from({ length: RINGS }, () => loop.ring(n)));
      const busy = await used(Array.from({ length: RINGS }, () => loop.ring(++n)));
      const [at] = await qtest.send([loop.consumed]);
      if (Number(at!.split(' ')[1]) !== loop.index(n)) {
        throw new ViommuError('EIO', 'guest', `${command[0]} has not done all of ${loop.name}: ${at}`);
      }
      rounds.push((busy - idle) / (RINGS * loop.commands));
    }
    return rounds.slice(1);
  } finally {
    child.kill('SIGKILL');
    server.close();
    rmSync(dir, { recursive: true, force: true });
  }
}

function installed(command: string): boolean {
  const dirs = (process.env.PATH ?? '').split(':');
  return dirs.some((dir) => {
    try {
      return readFileSync(join(dir, command)).length > 0;
    } catch {
      return false;
    }
  });
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { qemu: { type: 'string', default: 'qemu-system-{arch}' } } });
  const own = join(import.meta.dirname, '../../../tools/bin');
  for (const loop of LOOPS) {
    const ours = spread(await run([process.execPath, join(own, `viommu-system-${loop.arch}`)], loop));
    const words = values.qemu.replaceAll('{arch}', loop.arch).split(/\s+/);
    const there = words[0]!.includes('/') || installed(words[0]!);
    if (!there) {
      console.log(
        `${loop.name}: viommu ${ours.value.toFixed(0)} ns; no ${words[0]} is installed: nothing to compare with`,
      );
      continue;
    }
    const theirs = spread(await run(words, loop));
    const ratio = (ours.value / theirs.value).toFixed(2);
    const between = (s: typeof ours) => `${s.value.toFixed(0)} ns (${s.low.toFixed(0)} - ${s.high.toFixed(0)})`;
    console.log(`${loop.name}: viommu ${between(ours)}, QEMU ${between(theirs)}: ${ratio}x`);
  }
}

await main();
