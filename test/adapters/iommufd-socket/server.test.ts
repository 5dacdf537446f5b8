import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FakeProgram, frame, T, Wire } from '../../../tools/fuzz/socket-client.ts';
import { Servers } from './servers.ts';

const PATIENCE = 1500;

const EINVAL = -22;
const EFAULT = -14;
const ENOENT = -2;
const ENOTTY = -25;
const E2BIG = -7;
const IOAS_ALLOC = 0x3b81;
const DESTROY = 0x3b80;
const IOAS_MAP = 0x3b85;
const MOCK_COMMAND = 0x3ba0;

let servers: Servers;
/** A server with the mock for every test that has iommufds of its own. */
let path = '';

async function ioasAlloc(p: FakeProgram): Promise<number> {
  const r = await p.ioctl(IOAS_ALLOC, p.put(0, 12, 0, 0));
  return r.result === 0 ? p.u32(8) : r.result;
}

beforeAll(async () => {
  servers = new Servers();
  path = await servers.serve('mock', '--patience', String(PATIENCE));
}, 120_000);
afterAll(() => servers.stop());

describe('one client', () => {
  test.each([0, 96])(
    'an ioctl is answered by the rules of the kernel (%i bytes of it come along)',
    async (prefetch) => {
      const p = await FakeProgram.open(path);
      p.prefetch = prefetch;
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
    },
  );

  test('what comes along with a request need not be asked for', async () => {
    const p = await FakeProgram.open(path);
    p.prefetch = 96;
    expect((await p.ioctl(IOAS_ALLOC, p.put(0, 12, 0, 0))).asked).toEqual([]);
    p.prefetch = 0;
    expect((await p.ioctl(IOAS_ALLOC, p.put(0, 12, 0, 0))).asked).toContain(T.COPY_IN);
  });

  test('memory is what the process says it has: that can be mapped, the rest cannot', async () => {
    const p = await FakeProgram.open(path);
    const io = await ioasAlloc(p);
    p.mappings.push(
      { start: 0x7000_0000n, end: 0x7000_4000n, flags: 3 },
      { start: 0x7000_4000n, end: 0x7000_5000n, flags: 1 },
    );
    expect((await p.ioctl(MOCK_COMMAND, p.put(0x100, 72, 2, io, 0, 0, 0, 0))).result).toBe(0);
    const map = async (va: bigint, iova: bigint, flags = 7) =>
      (await p.ioctl(IOAS_MAP, p.put(0x200, 40, flags, io, 0, va, 0x1000n, iova))).result;
    expect(await map(0x7000_3000n, 0x100_0000n)).toBe(0);
    expect(await map(0x7000_4000n, 0x110_0000n)).toBe(EFAULT);
    expect(await map(0x7000_4000n, 0x110_0000n, 5)).toBe(0);
    expect(await map(0x10_000n, 0x200_0000n)).toBe(EFAULT);
  });

  test('a mapping of a gigabyte in many pieces is one question', async () => {
    const p = await FakeProgram.open(path);
    p.prefetch = 96;
    const io = await ioasAlloc(p);
    for (let i = 0n; i < 64n; i++) {
      const start = 0x1_0000_0000n + (i << 24n);
      p.mappings.push({ start, end: start + (1n << 24n), flags: 3, inode: i % 2n });
    }
    await p.ioctl(MOCK_COMMAND, p.put(0x100, 72, 2, io, 0, 0, 0, 0));
    const r = await p.ioctl(IOAS_MAP, p.put(0x200, 40, 7, io, 0, 0x1_0000_0000n, 1n << 30n, 0x100_0000n));
    expect([r.result, r.asked]).toEqual([0, [T.MAPS]]);
  });

  test('event queues are files of their own: read, write, poll, close', async () => {
    const p = await FakeProgram.open(path);
    const r = await p.ioctl(0x3b8e, p.put(0, 16, 0, 0, 0));
    expect([r.result, p.u32(8), p.u32(12)]).toEqual([0, 1, 100]);
    expect(r.asked).toContain(T.NEWFD);
    const [queue] = p.extras as [Wire];
    const ask = async (type: number, payload?: Uint8Array) => (await queue.ask(type, payload)).result;
    expect(await ask(T.POLL)).toBe(4);
    expect(await ask(T.READ, Buffer.from([40, 0, 0, 0]))).toBe(0);
    expect(await ask(T.READ, Buffer.from([41, 0, 0, 0]))).toBe(-29);
    expect(await ask(T.WRITE, new Uint8Array(8))).toBe(EINVAL);
    expect((await p.ioctl(DESTROY, p.put(0, 8, 1))).result).toBe(-16);
    expect(await ask(T.CLOSE)).toBe(0);
    expect((await p.ioctl(DESTROY, p.put(0, 8, 1))).result).toBe(0);
  });

  test('a descriptor that was made for nothing is taken back', async () => {
    const p = await FakeProgram.open(path);
    p.prefetch = 96;
    // The answer cannot be written, so there is no queue and no descriptor.
    p.writable = 4;
    const r = await p.ioctl(0x3b8e, p.put(0, 16, 0, 0, 0));
    expect(r.result).toBe(EFAULT);
    const closes = r.actions.filter((a) => a.type === 3).map((a) => a.content.readInt32LE(0));
    expect(closes).toEqual(r.asked.includes(T.NEWFD) ? [100] : []);
    p.writable = p.memory.length;
    await p.ioctl(0x3b8e, p.put(0, 16, 0, 0, 0));
    expect(p.u32(8)).toBe(1);
  });

  test('VFIO devices are opened by name; a device that is not there is ENOENT', async () => {
    const open = async (node: string) => (await FakeProgram.silent(path)).openNode(node);
    expect(await open('/dev/vfio/devices/nothing')).toBe(ENOENT);
    expect(await open('/etc/passwd')).toBe(ENOENT);
    expect(await open('/dev/vfio/devices/vfio1')).toBe(0);
  });
});

describe('clients that misbehave leave nothing behind and disturb nobody', () => {
  const short = (type: number, ...bytes: readonly number[]) => frame(type, Uint8Array.from(bytes));
  test.each([
    ['a frame without a type', Buffer.from([0, 0, 0, 0, 0])],
    ['a frame of 4 GiB', Buffer.from([0xff, 0xff, 0xff, 0xff, 1])],
    ['an unknown type', short(99)],
    ['an IOCTL before anything is open', frame(T.IOCTL, new Uint8Array(40))],
    ['a REPLY nobody asked for', short(T.REPLY, 0, 0, 0, 0)],
    ['a HELLO with an unknown token', frame(T.HELLO, new Uint8Array(32).fill(7))],
    ['a JOIN with an unknown token', frame(T.JOIN, new Uint8Array(32).fill(7))],
    ['a READ before anything is open', short(T.READ, 1, 0, 0, 0)],
    ['an OPEN without a path', frame(T.OPEN, new Uint8Array(16))],
    ['random bytes', Buffer.from(Array.from({ length: 999 }, (_, i) => (i * 7919) & 0xff))],
  ])('%s', async (_name, bytes) => {
    const good = await FakeProgram.open(path);
    expect(await ioasAlloc(good)).toBe(1);
    const bad = await Wire.dial(path);
    bad.socket.write(bytes);
    expect(await bad.hungUp()).toBe(true);
    expect(await ioasAlloc(good)).toBe(2);
  });

  test.each([
    ['an IOCTL that is too short', T.IOCTL, 39],
    ['an IOCTL that is too long', T.IOCTL, 40 + 4097],
    ['a WRITE of more than a megabyte', T.WRITE, (1 << 20) + 1],
    ['a second OPEN', T.OPEN, 20],
    ['an MMAP of the wrong length', T.MMAP, 23],
  ])('%s on an open file', async (_name, type, bytes) => {
    const good = await FakeProgram.open(path);
    const bad = await FakeProgram.open(path);
    bad.wire.send(type, new Uint8Array(bytes));
    expect(await bad.wire.hungUp()).toBe(true);
    expect(await ioasAlloc(good)).toBe(1);
  });

  test('a client killed in the middle of an ioctl: its object never was, the next client is served', async () => {
    const good = await FakeProgram.open(path);
    for (const when of [T.COPY_IN, T.MAPS]) {
      const v = await FakeProgram.open(path);
      v.sendIoctl(IOAS_ALLOC, v.put(0, 12, 0, 0));
      await v.serve((f) => f.type === when);
      v.wire.socket.destroy();
      expect(await ioasAlloc(good)).toBeGreaterThan(0);
    }
    expect(await ioasAlloc(await FakeProgram.open(path))).toBe(1);
  });

  test('two questions at once are a broken protocol', async () => {
    const bad = await FakeProgram.open(path);
    bad.sendIoctl(IOAS_ALLOC, bad.put(0, 12, 0, 0));
    bad.sendIoctl(IOAS_ALLOC, bad.put(0, 12, 0, 0));
    expect(await bad.wire.hungUp()).toBe(true);
    expect(await ioasAlloc(await FakeProgram.open(path))).toBe(1);
  });

  test('a client that falls silent inside an ioctl is given up, and nobody waits for it', async () => {
    const silent = await FakeProgram.open(path);
    const good = await FakeProgram.open(path);
    silent.sendIoctl(IOAS_ALLOC, silent.put(0, 12, 0, 0));
    await silent.serve((f) => f.type === T.COPY_IN);
    for (let i = 1; i < 50; i++) expect(await ioasAlloc(good)).toBe(i);
    expect(await silent.wire.hungUp()).toBe(true);
    expect(await ioasAlloc(good)).toBe(50);
  });

  test('an answer that is longer than what was asked for ends the connection; a short one is the end of the memory', async () => {
    const p = await FakeProgram.open(path);
    p.sendIoctl(IOAS_ALLOC, p.put(0, 12, 0, 0));
    let f = await p.serve((q) => q.type === T.COPY_IN || q.type === T.MAPS);
    while (f.asked[0] !== T.COPY_IN) {
      p.wire.send(T.REPLY, new Uint8Array(4));
      f = await p.serve((q) => q.type === T.COPY_IN);
    }
    p.wire.send(T.REPLY, new Uint8Array(4 + 2));
    expect((await p.serve()).result).toBe(EFAULT);
    expect(await ioasAlloc(p)).toBe(1);
    p.sendIoctl(IOAS_ALLOC, p.put(0, 12, 0, 0));
    await p.serve((q) => q.type === T.COPY_IN);
    p.wire.send(T.REPLY, new Uint8Array(4 + 9999));
    expect(await p.wire.hungUp()).toBe(true);
  });

  test('a device bound by a client that dies can be bound again at once', async () => {
    const bindBy = async () => {
      const main = await FakeProgram.open(path);
      const vfio = await FakeProgram.open(path, '/dev/vfio/devices/vfio2', main.session);
      vfio.descriptors.set(3, main.token);
      const r = await vfio.ioctl(0x3b00 + 118, vfio.put(0, 24, 0, 3, 0, 0n));
      return { r, main, vfio };
    };
    const first = await bindBy();
    expect(first.r.result).toBe(0);
    expect((await bindBy()).r.result).toBe(-1);
    first.main.wire.socket.destroy();
    first.vfio.wire.socket.destroy();
    await first.vfio.wire.hungUp();
    await first.main.wire.hungUp();
    expect((await bindBy()).r.result).toBe(0);
  });
});
