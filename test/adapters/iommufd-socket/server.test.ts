import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FakeProgram, T, Wire } from './client.ts';

const PROGRAM = resolve('dist/tools/viommu.js');
const SHIM = resolve('tools/iommufd-preload');
const PATIENCE = 1500;

const EINVAL = -22;
const EFAULT = -14;
const ENOENT = -2;
const ENOTTY = -25;
const E2BIG = -7;
const IOAS_ALLOC = 0x3b81;
const DESTROY = 0x3b80;
const IOAS_MAP = 0x3b85;

let dir = '';
/** A server with the mock for every test that has iommufds of its own. */
let path = '';
const running: (() => void)[] = [];

/** A server of its own. @returns its socket. */
async function serve(name: string, ...args: readonly string[]): Promise<string> {
  const socket = join(dir, `${name}.sock`);
  const child = spawn(process.execPath, [PROGRAM, 'iommufd', '--socket', socket, ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  running.push(() => child.kill());
  await new Promise<void>((ready, fail) => {
    child.stderr.setEncoding('utf8').on('data', (t: string) => (t.includes(' on ') ? ready() : fail(new Error(t))));
    child.once('exit', (code) => fail(new Error(`the server ended with ${code}`)));
  });
  return socket;
}

async function ioasAlloc(p: FakeProgram): Promise<number> {
  const r = await p.ioctl(IOAS_ALLOC, p.put(0, 12, 0, 0));
  return r.result === 0 ? p.u32(8) : r.result;
}

beforeAll(async () => {
  if (!existsSync(PROGRAM)) throw new Error('the program is not built: npm run build');
  dir = mkdtempSync(join(tmpdir(), 'viommu-iommufd-'));
  path = await serve('mock', '--patience', String(PATIENCE));
});
afterAll(() => {
  for (const stop of running) stop();
  rmSync(dir, { recursive: true, force: true });
});

describe('one client', () => {
  test('an ioctl is answered by the rules of the kernel, through copies the client makes', async () => {
    const p = await FakeProgram.open(path);
    expect(await ioasAlloc(p)).toBe(1);
    expect(await ioasAlloc(p)).toBe(2);
    expect((await p.ioctl(IOAS_ALLOC, p.put(0, 8, 0, 0))).result).toBe(EINVAL);
    expect((await p.ioctl(IOAS_ALLOC, p.put(0, 16, 0, 0, 1))).result).toBe(E2BIG);
    expect((await p.ioctl(IOAS_ALLOC, 0n)).result).toBe(EFAULT);
    expect((await p.ioctl(0x3b95, p.put(0, 8, 0))).result).toBe(ENOTTY);
    expect((await p.ioctl(DESTROY, p.put(0, 8, 1))).result).toBe(0);
    // The answer cannot be written: EFAULT, and the id stays free.
    p.writable = 4;
    expect((await p.ioctl(IOAS_ALLOC, p.put(0, 12, 0, 0))).result).toBe(EFAULT);
    p.writable = p.memory.length;
    expect(await ioasAlloc(p)).toBe(1);
    // Two iommufds are two id spaces.
    expect(await ioasAlloc(await FakeProgram.open(path))).toBe(1);
  });

  test('memory is that of the process: what it has can be mapped, what it has not cannot', async () => {
    const p = await FakeProgram.open(path);
    const io = await ioasAlloc(p);
    const mock = await p.ioctl(0x3ba0, p.put(0x100, 72, 2, io, 0, 0, 0, 0));
    expect(mock.result).toBe(0);
    // The process of the fake client is this one.
    const maps = readFileSync('/proc/self/maps', 'latin1').split('\n');
    const own = maps.map((l) => /^([0-9a-f]+)-[0-9a-f]+ rw-p/.exec(l)?.[1]).find((a) => a !== undefined);
    const map = (va: bigint, iova: bigint) => p.ioctl(IOAS_MAP, p.put(0x200, 40, 7, io, 0, va, 0x1000n, iova));
    expect((await map(BigInt(`0x${own}`), 0x100_0000n)).result).toBe(0);
    expect((await map(0x10_000n, 0x200_0000n)).result).toBe(EFAULT);
  });

  test('event queues are files of their own: read, write, poll, close', async () => {
    const p = await FakeProgram.open(path);
    const r = await p.ioctl(0x3b8e, p.put(0, 16, 0, 0, 0));
    expect([r.result, p.u32(8), p.u32(12)]).toEqual([0, 1, 100]);
    expect(r.asked).toContain(T.NEWFD);
    const [queue] = p.extras as [Wire];
    const ask = async (type: number, payload: Uint8Array = new Uint8Array(0)) => {
      queue.send(type, payload);
      return Number((await queue.next())!.payload.readBigInt64LE(0));
    };
    expect(await ask(T.POLL)).toBe(4);
    expect(await ask(T.READ, Buffer.from([40, 0, 0, 0]))).toBe(0);
    expect(await ask(T.READ, Buffer.from([41, 0, 0, 0]))).toBe(-29);
    expect(await ask(T.WRITE, new Uint8Array(8))).toBe(EINVAL);
    expect((await p.ioctl(DESTROY, p.put(0, 8, 1))).result).toBe(-16);
    expect(await ask(T.MUNMAP, new Uint8Array(4))).toBe(0);
    expect((await p.ioctl(DESTROY, p.put(0, 8, 1))).result).toBe(0);
  });

  test('VFIO devices are opened by name; a device that is not there is ENOENT', async () => {
    expect((await (await FakeProgram.open(path)).device('/dev/vfio/devices/nothing')).result).toBe(ENOENT);
    expect((await (await FakeProgram.open(path)).device('/etc/passwd')).result).toBe(ENOENT);
    expect((await (await FakeProgram.open(path)).device('/dev/vfio/devices/vfio1')).result).toBe(0);
  });
});

describe('clients that misbehave leave nothing behind and disturb nobody', () => {
  test.each([
    ['a frame without a type', Buffer.from([0, 0, 0, 0])],
    ['a frame of 4 GiB', Buffer.from([0xff, 0xff, 0xff, 0xff, 1])],
    ['an unknown type', Buffer.from([1, 0, 0, 0, 99])],
    ['an IOCTL that is too short', Buffer.from([5, 0, 0, 0, T.IOCTL, 1, 2, 3, 4])],
    ['a REPLY nobody asked for', Buffer.from([5, 0, 0, 0, T.REPLY, 0, 0, 0, 0])],
    ['a HELLO with an unknown token', Buffer.from([5, 0, 0, 0, T.HELLO, 77, 0, 0, 0])],
    ['a READ on a main connection', Buffer.from([5, 0, 0, 0, T.READ, 1, 0, 0, 0])],
    ['random bytes', Buffer.from(Array.from({ length: 999 }, (_, i) => (i * 7919) & 0xff))],
  ])('%s', async (_name, bytes) => {
    const good = await FakeProgram.open(path);
    expect(await ioasAlloc(good)).toBe(1);
    const bad = await Wire.dial(path);
    bad.socket.write(bytes);
    expect(await bad.hungUp()).toBe(true);
    expect(await ioasAlloc(good)).toBe(2);
  });

  test('a client killed in the middle of an ioctl: its object never was, the next client is served', async () => {
    const victim = await FakeProgram.open(path);
    const good = await FakeProgram.open(path);
    // A device of ours is bound to the victim and must come free.
    for (const when of [T.COPY_IN, T.COPY_OUT]) {
      const v = await FakeProgram.open(path);
      v.sendIoctl(IOAS_ALLOC, v.put(0, 12, 0, 0));
      await v.serve((f) => f.type === when);
      v.wire.socket.destroy();
      expect(await ioasAlloc(good)).toBeGreaterThan(0);
    }
    expect(await ioasAlloc(victim)).toBe(1);
  });

  test('two questions at once are a broken protocol', async () => {
    const bad = await FakeProgram.open(path);
    bad.sendIoctl(IOAS_ALLOC, bad.put(0, 12, 0, 0));
    bad.sendIoctl(IOAS_ALLOC, bad.put(0, 12, 0, 0));
    expect(await bad.wire.hungUp()).toBe(true);
    expect(await ioasAlloc(await FakeProgram.open(path))).toBe(1);
  });

  test('a client that falls silent inside an ioctl is given up, and those who waited go on', async () => {
    const silent = await FakeProgram.open(path);
    const good = await FakeProgram.open(path);
    silent.sendIoctl(IOAS_ALLOC, silent.put(0, 12, 0, 0));
    await silent.serve((f) => f.type === T.COPY_IN);
    expect(await ioasAlloc(good)).toBe(1);
    expect(await silent.wire.hungUp()).toBe(true);
  });

  test('an answer of the wrong length is EFAULT, and a lie about a copy does no harm', async () => {
    const p = await FakeProgram.open(path);
    p.sendIoctl(IOAS_ALLOC, p.put(0, 12, 0, 0));
    await p.serve((f) => f.type === T.COPY_IN);
    p.wire.send(T.REPLY, new Uint8Array(4 + 9999));
    const r = await p.serve();
    expect(r.result).toBe(EFAULT);
    expect(await ioasAlloc(p)).toBe(1);
  });

  test('a device bound by a client that dies can be bound again at once', async () => {
    const bindBy = async () => {
      const main = await FakeProgram.open(path);
      const token = (await main.device('/dev/iommu')).data.readUInt32LE(0);
      const vfio = await FakeProgram.open(path);
      expect((await vfio.device('/dev/vfio/devices/vfio2')).result).toBe(0);
      vfio.sendIoctl(0x3b00 + 118, vfio.put(0, 24, 0, 3, 0, 0n));
      let r = await vfio.serve((f) => f.type === T.WHICH);
      const reply = Buffer.alloc(8);
      reply.writeUInt32LE(token, 4);
      vfio.wire.send(T.REPLY, reply);
      r = await vfio.serve();
      return { r, main, vfio };
    };
    const first = await bindBy();
    expect(first.r.result).toBe(0);
    expect((await bindBy()).r.result).toBe(-1);
    first.main.wire.socket.destroy();
    first.vfio.wire.socket.destroy();
    await first.vfio.wire.hungUp();
    // The server learns of it as soon as the system tells.
    let again = Number.NaN;
    for (let i = 0; i < 50 && again !== 0; i++) again = (await bindBy()).r.result;
    expect(again).toBe(0);
  });
});

describe('unmodified C programs', () => {
  const compiler = (() => {
    try {
      execFileSync('cc', ['--version'], { stdio: 'ignore' });
      return true;
    } catch {
      return false;
    }
  })();

  test.runIf(compiler).each(['mock', 'smmuv3', 'vtd'])('the VFIO client against %s', async (backend) => {
    execFileSync('make', ['-s', '-C', SHIM], { stdio: 'pipe' });
    const socket = backend === 'mock' ? path : await serve(backend, '--backend', backend);
    const out = await new Promise<string>((done, fail) => {
      const child = spawn(join(SHIM, 'vfio-client'), [backend], {
        env: { ...process.env, LD_PRELOAD: join(SHIM, 'libiommufd-preload.so'), IOMMUFD_SOCK: socket },
      });
      let text = '';
      child.stdout.setEncoding('utf8').on('data', (t: string) => {
        text += t;
      });
      child.once('error', fail);
      child.once('close', () => done(text));
    });
    expect(out.split('\n').filter((l) => l.startsWith('NOT OK'))).toEqual([]);
    expect(out).toContain(`${backend}: 0 failures`);
  });
});
