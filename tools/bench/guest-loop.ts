/**
 * The same bare-metal guest loop on this package's machine and on an installed QEMU, both spoken to by qtest: what the queue of
 * each does with a ring full of commands, in CPU time of the process that does it. `npm run bench:guest [-- --qemu COMMAND] [--only TEXT] [--rounds N]`
 *
 * A function is behind the IOMMU, and has a page cached when each round begins.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ViommuError } from '../../src/core/errors.ts';
import { LOOPS, type Loop } from './guests/qtest-loops.ts';
import { spread } from './measure.ts';

/** Doorbells in a round. */
const RINGS = 400;

/** CPU time the main thread of a process has used, ns: that is where both serve qtest. */
function cpu(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ')[0]);
}

class Qtest {
  readonly #socket: Socket;
  readonly #gone: Promise<never>;
  #rest = '';
  #answers: string[] = [];
  #waiting: { readonly count: number; readonly resolve: (answers: string[]) => void } | null = null;

  /** @param gone rejects when the program has ended, or no longer listens. */
  constructor(socket: Socket, gone: Promise<never>) {
    this.#socket = socket;
    this.#gone = gone;
    socket.setEncoding('utf8').on('data', (chunk: string) => {
      const lines = (this.#rest + chunk).split('\n');
      this.#rest = lines.pop()!;
      this.#answers.push(...lines.filter((line) => !line.startsWith('IRQ')));
      if (this.#waiting !== null && this.#answers.length >= this.#waiting.count) this.#waiting.resolve(this.#answers);
    });
  }

  /** Sends everything. @returns as many answers. @throws ViommuError `EIO` the program answers otherwise, or is gone. */
  async send(lines: readonly string[]): Promise<string[]> {
    this.#answers = [];
    const all = new Promise<string[]>((resolve) => {
      this.#waiting = { count: lines.length, resolve };
      this.#socket.write(lines.map((line) => `${line}\n`).join(''));
    });
    const answers = await Promise.race([all, this.#gone]);
    const bad = answers.find((line) => !line.startsWith('OK'));
    if (bad !== undefined) throw new ViommuError('EIO', 'host', `the qtest server answers "${bad}"`);
    return answers;
  }
}

/** A promise that only ever rejects, and may do so when nobody waits for it. */
function withReject(): { readonly promise: Promise<never>; readonly reject: (error: Error) => void } {
  let reject!: (error: Error) => void;
  const promise = new Promise<never>((_, no) => {
    reject = no;
  });
  promise.catch(() => {});
  return { promise, reject };
}

/** Nanoseconds per command of a loop on one program, every round. */
async function run(command: readonly string[], loop: Loop, count: number): Promise<number[]> {
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
  const { promise: gone, reject: end } = withReject();
  child.once('error', end);
  child.once('exit', (code, signal) =>
    end(new ViommuError('EIO', 'host', `${command[0]} ended with ${code ?? signal}`)),
  );
  try {
    const connected = new Promise<Socket>((resolve) => server.once('connection', resolve));
    const socket = await Promise.race([connected, gone]);
    // The status of a program that ends says more than its socket: it is given time to arrive.
    const closed = () => setTimeout(end, 1000, new ViommuError('EIO', 'host', `${command[0]} has hung up`)).unref();
    socket.on('error', () => {}).once('close', closed);
    const qtest = new Qtest(socket, gone);
    await qtest.send(loop.begin);
    const access = async () => {
      const last = (await qtest.send(loop.access)).slice(-loop.accessed.length);
      if (last.join() === loop.accessed.join()) return;
      throw new ViommuError(
        'EIO',
        'guest',
        `${command[0]}: the function cannot write in ${loop.name}: ${last.join(', ')}`,
      );
    };
    const rounds: number[] = [];
    const used = async (lines: readonly string[]) => {
      const before = cpu(child.pid!);
      await qtest.send(lines);
      return cpu(child.pid!) - before;
    };
    let n = 0;
    // The first round is for the compiler.
    for (let round = 0; round <= count; round++) {
      await access();
      // The same register written as often, with nothing to do: what qtest and the access take.
      const idle = await used(Array.from({ length: RINGS }, () => loop.ring(n)));
      const busy = await used(Array.from({ length: RINGS }, () => loop.ring(++n)));
      const [at] = await qtest.send([loop.consumed]);
      if (Number(at!.split(' ')[1]) !== loop.index(n)) {
        throw new ViommuError('EIO', 'guest', `${command[0]} has not done all of ${loop.name}: ${at}`);
      }
      rounds.push((busy - idle) / (RINGS * loop.commands));
    }
    await access();
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
    return existsSync(join(dir, command));
  });
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      qemu: { type: 'string', default: 'qemu-system-{arch}' },
      only: { type: 'string', default: '' },
      rounds: { type: 'string', default: '9' },
    },
  });
  const rounds = Number(values.rounds);
  if (!Number.isInteger(rounds) || rounds < 1)
    throw new ViommuError('E_USAGE', 'caller', '--rounds: expected 1 or more');
  const loops = LOOPS.filter((loop) => loop.name.includes(values.only));
  if (loops.length === 0) throw new ViommuError('E_USAGE', 'caller', `no loop has ${values.only} in its name`);
  const own = join(import.meta.dirname, '../../../tools/bin');
  for (const loop of loops) {
    const ours = spread(await run([process.execPath, join(own, `viommu-system-${loop.arch}`)], loop, rounds));
    const words = values.qemu.replaceAll('{arch}', loop.arch).split(/\s+/);
    const there = words[0]!.includes('/') || installed(words[0]!);
    if (!there) {
      console.log(
        `${loop.name}: viommu ${ours.value.toFixed(0)} ns; no ${words[0]} is installed: nothing to compare with`,
      );
      continue;
    }
    const theirs = spread(await run(words, loop, rounds));
    const ratio = (ours.value / theirs.value).toFixed(2);
    const between = (s: typeof ours) => `${s.value.toFixed(0)} ns (${s.low.toFixed(0)} - ${s.high.toFixed(0)})`;
    console.log(`${loop.name}: viommu ${between(ours)}, QEMU ${between(theirs)}: ${ratio}x`);
  }
}

await main();
