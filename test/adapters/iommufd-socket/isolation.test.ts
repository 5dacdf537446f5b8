import { type ChildProcess, spawn } from 'node:child_process';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FakeProgram, SECRET, T, Wire } from '../../../tools/fuzz/socket-client.ts';
import { Servers } from './servers.ts';

const IOAS_ALLOC = 0x3b81;
const IOAS_MAP = 0x3b85;
const FAULT_ALLOC = 0x3b8e;
const BIND = 0x3b00 + 118;
const MOCK_COMMAND = 0x3ba0;
const EBADFD = -77;
const EFAULT = -14;

let servers: Servers;
let path = '';
beforeAll(async () => {
  servers = new Servers();
  path = await servers.serve('mock');
}, 120_000);
afterAll(() => servers.stop());

async function ioas(p: FakeProgram): Promise<number> {
  expect((await p.ioctl(IOAS_ALLOC, p.put(0, 12, 0, 0))).result).toBe(0);
  return p.u32(8);
}

const secrets = (session: Uint8Array, token: Uint8Array) => Buffer.concat([session, token]);

describe('a client cannot reach what another has open', () => {
  test('secrets are long and random', async () => {
    const seen = new Set<string>();
    for (let i = 0; i < 20; i++) {
      const p = await FakeProgram.open(path);
      for (const s of [p.session, p.token]) {
        expect(s.length).toBe(SECRET);
        seen.add(s.toString('hex'));
      }
    }
    expect(seen.size).toBe(40);
    // No two share their first bytes, as numbers that count up would.
    expect(new Set([...seen].map((s) => s.slice(0, 8))).size).toBe(40);
  });

  test('a device is not bound into the iommufd of another client, whatever token it names', async () => {
    const victim = await FakeProgram.open(path);
    await ioas(victim);
    const thief = await FakeProgram.open(path, '/dev/vfio/devices/vfio0');
    const small = Buffer.alloc(SECRET);
    small.writeUInt32LE(1, 0);
    for (const token of [victim.token, small, victim.session, new Uint8Array(0), new Uint8Array(4)]) {
      thief.descriptors.set(3, token);
      expect((await thief.ioctl(BIND, thief.put(0, 24, 0, 3, 0, 0n))).result).toBe(EBADFD);
    }
    // It is bound into an iommufd of its own.
    const own = await FakeProgram.open(path, '/dev/iommu', thief.session);
    thief.descriptors.set(3, own.token);
    expect((await thief.ioctl(BIND, thief.put(0, 24, 0, 3, 0, 0n))).result).toBe(0);
    thief.wire.socket.destroy();
  });

  test('a fault queue goes to the client that asked for it, also when its token is known elsewhere', async () => {
    const victim = await FakeProgram.open(path);
    victim.sendIoctl(FAULT_ALLOC, victim.put(0, 16, 0, 0, 0));
    const asked = await victim.serve((f) => f.type === T.NEWFD);
    const token = asked.data;
    const thief = await FakeProgram.open(path);
    for (const session of [thief.session, Buffer.alloc(SECRET), victim.token]) {
      const w = await Wire.dial(path);
      w.send(T.HELLO, secrets(session, token));
      expect(await w.hungUp()).toBe(true);
    }
    // The victim itself is welcome, once.
    const w = await Wire.dial(path);
    expect((await w.ask(T.HELLO, secrets(victim.session, token))).result).toBe(0);
    const again = await Wire.dial(path);
    again.send(T.HELLO, secrets(victim.session, token));
    expect(await again.hungUp()).toBe(true);
    victim.wire.send(T.REPLY, new Uint8Array(Int32Array.of(0, 7).buffer));
    expect((await victim.serve()).result).toBe(0);
    expect(victim.u32(12)).toBe(7);
    expect((await w.ask(T.POLL)).result).toBe(4);
  });

  test('an open file is joined from its own session only', async () => {
    const victim = await FakeProgram.open(path);
    await ioas(victim);
    const thief = await FakeProgram.open(path);
    for (const session of [thief.session, Buffer.alloc(SECRET)]) {
      const w = await Wire.dial(path);
      w.send(T.JOIN, secrets(session, victim.token));
      expect(await w.hungUp()).toBe(true);
    }
    const other = await FakeProgram.silent(path);
    other.session = victim.session;
    expect((await other.wire.ask(T.JOIN, secrets(victim.session, victim.token))).result).toBe(0);
    expect(await ioas(other)).toBe(2);
    // The first connection goes, the file stays open.
    victim.wire.socket.destroy();
    await victim.wire.hungUp();
    expect(await ioas(other)).toBe(3);
  });

  test('a connection that was handed over belongs to whoever holds it, and not to its old session any more', async () => {
    const giver = await FakeProgram.open(path);
    const taker = await FakeProgram.open(path);
    const old = giver.token;
    const r = await giver.wire.ask(T.ADOPT, taker.session);
    expect(r.result).toBe(0);
    expect(r.data.subarray(0, SECRET).equals(taker.session)).toBe(true);
    const token = r.data.subarray(SECRET);
    expect(token.equals(old)).toBe(false);
    const vfio = await FakeProgram.open(path, '/dev/vfio/devices/vfio1', taker.session);
    vfio.descriptors.set(3, old);
    expect((await vfio.ioctl(BIND, vfio.put(0, 24, 0, 3, 0, 0n))).result).toBe(EBADFD);
    vfio.descriptors.set(3, token);
    expect((await vfio.ioctl(BIND, vfio.put(0, 24, 0, 3, 0, 0n))).result).toBe(0);
    vfio.wire.socket.destroy();
  });
});

describe("a client's memory is reached through that client only", () => {
  let bystander: ChildProcess;
  beforeAll(() => {
    bystander = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' });
  });
  afterAll(() => void bystander.kill());

  test('a client that names another process is asked for it, and nothing is known of that process but what it says', async () => {
    const p = await FakeProgram.open(path);
    const io = await ioas(p);
    expect((await p.ioctl(MOCK_COMMAND, p.put(0x100, 72, 2, io, 0, 0, 0, 0))).result).toBe(0);
    const pid = bystander.pid!;
    // The bystander certainly has memory around its stack and heap; this client says that there is none.
    const maps: bigint[] = [0x5555_5555_4000n, 0x7fff_ffff_d000n, 0x40_0000n];
    for (const va of maps) {
      const r = await p.ioctl(IOAS_MAP, p.put(0x200, 40, 7, io, 0, va, 0x1000n, 0x100_0000n), pid);
      expect(r.result).toBe(EFAULT);
      expect(r.asked).toContain(T.MAPS);
    }
    // Bytes of the argument as well come from the client, whatever process it names.
    const r = await p.ioctl(IOAS_ALLOC, p.put(0, 12, 0, 0), pid);
    expect([r.result, r.asked.includes(T.COPY_IN)]).toEqual([0, true]);
  });

  test('memory that two clients say is one page is two pages: each has its own pins and its own bytes', async () => {
    const mapping = { start: 0x7000_0000n, end: 0x7000_1000n, flags: 11, inode: 99n };
    const programs = await Promise.all([FakeProgram.open(path), FakeProgram.open(path)]);
    for (const p of programs) {
      p.mappings.push(mapping);
      const io = await ioas(p);
      await p.ioctl(MOCK_COMMAND, p.put(0x100, 72, 2, io, 0, 0, 0, 0));
      expect((await p.ioctl(IOAS_MAP, p.put(0x200, 40, 7, io, 0, mapping.start, 0x1000n, 0x100_0000n))).result).toBe(0);
    }
    const [a, b] = programs as [FakeProgram, FakeProgram];
    // MD_CHECK_REFS: {length, address, refs}.
    const refs = async (p: FakeProgram, want: number) =>
      (await p.ioctl(MOCK_COMMAND, p.put(0x100, 72, 4, 0, 0, 0x1000n, mapping.start, want, 0))).result;
    expect([await refs(a, 1), await refs(b, 1)]).toEqual([0, 0]);
    a.wire.socket.destroy();
    await a.wire.hungUp();
    expect(await refs(b, 1)).toBe(0);
    // Within one client it is one page.
    const second = await FakeProgram.open(path, '/dev/iommu', b.session);
    second.mappings.push(mapping);
    expect(await refs(second, 1)).toBe(0);
  });

  test('a descriptor is looked at by the client: a number is no way into another process', async () => {
    const p = await FakeProgram.open(path);
    const io = await ioas(p);
    // MAP_FILE of descriptor 1, which the server and the test certainly have open: this client says it has not.
    const r = await p.ioctl(0x3b8f, p.put(0, 40, 7, io, 1, 0n, 0x1000n, 0n), process.pid);
    expect(r.result).toBe(-9);
    expect(r.asked).toContain(T.WHICH);
  });
});
