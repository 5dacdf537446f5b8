import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { ClientMemory } from '../../../src/adapters/iommufd-socket/client-memory.ts';
import { DEFAULT_LIMITS, type ServerLimits } from '../../../src/adapters/iommufd-socket/limits.ts';
import { PinCounts } from '../../../src/adapters/iommufd-socket/pin-counts.ts';
import { IommufdServer } from '../../../src/adapters/iommufd-socket/server.ts';
import type { Session } from '../../../src/adapters/iommufd-socket/session.ts';
import { FakeProgram, frame, SECRET, T, Wire } from '../../../tools/fuzz/socket-client.ts';

const IOAS_ALLOC = 0x3b81;
const IOAS_MAP = 0x3b85;
const FAULT_ALLOC = 0x3b8e;
const ALLOW_IOVAS = 0x3b82;
const MOCK_COMMAND = 0x3ba0;
const ENOMEM = -12;
const EMFILE = -24;
const EFAULT = -14;

let dir = '';
let count = 0;
const running: IommufdServer[] = [];
const failures: Error[] = [];
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'viommu-limits-'));
});
afterEach(async () => {
  for (const s of running.splice(0)) await s.close();
  expect(failures.splice(0)).toEqual([]);
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

async function serve(limits: Partial<ServerLimits>): Promise<string> {
  const path = join(dir, `s${count++}`);
  const server = new IommufdServer({ path, backend: 'mock', limits });
  server.onFailure = (e) => failures.push(e);
  await server.listen();
  running.push(server);
  return path;
}

async function ioas(p: FakeProgram): Promise<number> {
  const r = await p.ioctl(IOAS_ALLOC, p.put(0, 12, 0, 0));
  return r.result === 0 ? p.u32(8) : r.result;
}

/** Milliseconds a well-behaved client needs to open, to make an object and to be told so. */
async function latency(path: string): Promise<number> {
  const before = performance.now();
  expect(await ioas(await FakeProgram.open(path))).toBe(1);
  return performance.now() - before;
}

test('hundreds of clients that come at once are let in, however long the server is busy', async () => {
  const path = await serve({});
  const most = Number(readFileSync('/proc/sys/net/core/somaxconn', 'utf8'));
  const refused: string[] = [];
  const clients: Socket[] = [];
  // Nobody is accepted before this loop is over.
  for (let i = 0; i < Math.min(900, most); i++) {
    const socket = connect(path);
    socket.on('error', (e) => refused.push(e.message));
    clients.push(socket);
  }
  await latency(path);
  expect(refused).toEqual([]);
  for (const c of clients) c.destroy();
});

describe('silent clients cost nobody else anything', () => {
  test.each([
    ['inside an ioctl', T.IOCTL],
    ['before their first frame', 0],
    ['in the middle of a frame', T.OPEN],
    ['while a descriptor is made', T.NEWFD],
  ])('%s: sixty of them, and the next one is served at once', async (_when, where) => {
    const path = await serve({ patience: 60_000 });
    for (let i = 0; i < 60; i++) {
      if (where === 0 || where === T.OPEN) {
        const w = await Wire.dial(path);
        if (where === T.OPEN) w.socket.write(frame(T.OPEN, new Uint8Array(4000)).subarray(0, 900));
        continue;
      }
      const p = await FakeProgram.open(path);
      p.prefetch = 96;
      if (where === T.NEWFD) {
        p.sendIoctl(FAULT_ALLOC, p.put(0, 16, 0, 0, 0));
        await p.serve((f) => f.type === T.NEWFD);
      } else {
        p.prefetch = 0;
        p.sendIoctl(IOAS_ALLOC, p.put(0, 12, 0, 0));
        await p.serve(() => true);
      }
    }
    // One after the other they would cost an hour.
    expect(await latency(path)).toBeLessThan(5000);
  });

  test('they are sent away when the patience is over; who owes nothing may be silent for ever', async () => {
    const path = await serve({ patience: 300 });
    const idle = await FakeProgram.open(path);
    const first = await Wire.dial(path);
    const half = await Wire.dial(path);
    half.socket.write(frame(T.OPEN, new Uint8Array(100)).subarray(0, 50));
    const inside = await FakeProgram.open(path);
    inside.sendIoctl(IOAS_ALLOC, inside.put(0, 12, 0, 0));
    await inside.serve(() => true);
    expect(await Promise.all([first.hungUp(), half.hungUp(), inside.wire.hungUp()])).toEqual([true, true, true]);
    expect(await ioas(idle)).toBe(1);
  });

  test('a client that answers slowly is served as well, in its own time', async () => {
    const path = await serve({ patience: 5000 });
    const slow = await FakeProgram.open(path);
    slow.sendIoctl(IOAS_ALLOC, slow.put(0, 12, 0, 0));
    for (let asked = 0; ; asked++) {
      const f = (await slow.wire.next())!;
      if (f.type === T.RET) {
        expect([f.payload.readInt32LE(0), asked > 0]).toEqual([0, true]);
        return;
      }
      // Others are served while it makes up its mind.
      for (let i = 0; i < 20; i++) expect(await latency(path)).toBeLessThan(5000);
      await slow.reply(f);
    }
  });
});

describe('what a client may take', () => {
  test('connections: of all together, and of one session', async () => {
    const path = await serve({ connections: 6, connectionsPerSession: 3 });
    const p = await FakeProgram.open(path);
    const more = [
      await FakeProgram.open(path, '/dev/iommu', p.session),
      await FakeProgram.open(path, '/dev/iommu', p.session),
    ];
    const fourth = await FakeProgram.silent(path);
    fourth.session = p.session;
    expect(await fourth.openNode('/dev/iommu')).toBe(EMFILE);
    fourth.wire.socket.destroy();
    await fourth.wire.hungUp();
    const others = [await FakeProgram.open(path), await FakeProgram.open(path), await FakeProgram.open(path)];
    expect(await (await Wire.dial(path)).hungUp()).toBe(true);
    others[0]!.wire.socket.destroy();
    await others[0]!.wire.hungUp();
    expect(await ioas(await FakeProgram.open(path))).toBe(1);
    expect(await ioas(more[0]!)).toBe(1);
  });

  test('bytes of frames that are not complete, of all together', async () => {
    const path = await serve({ pendingBytes: 1 << 20 });
    const good = await FakeProgram.open(path);
    const bad = await Promise.all(Array.from({ length: 4 }, () => FakeProgram.open(path)));
    for (const b of bad) b.wire.socket.write(frame(T.WRITE, new Uint8Array(1 << 20)).subarray(0, 900_000));
    // Two are too many: whoever brings it over the limit goes.
    const gone = Promise.all(
      bad.map((b) => Promise.race([b.wire.hungUp(), new Promise((r) => setTimeout(r, 1500, false))])),
    );
    expect(await ioas(good)).toBe(1);
    expect((await gone).filter((x) => x).length).toBe(3);
    expect(await ioas(good)).toBe(2);
  });

  test('answers it does not read', async () => {
    const path = await serve({ unreadBytes: 1 << 16 });
    const deaf = await FakeProgram.open(path);
    deaf.wire.socket.pause();
    const ask = frame(T.PREAD, Buffer.concat([Buffer.alloc(8), Buffer.from([0, 0, 16, 0])]));
    for (let i = 0; i < 20_000 && !deaf.wire.closed; i++) deaf.wire.socket.write(ask);
    deaf.wire.socket.resume();
    expect(await ioas(await FakeProgram.open(path))).toBe(1);
  });

  test('objects, areas and pinned pages of a session: ENOMEM, and what goes makes room', async () => {
    const path = await serve({ objectsPerSession: 5, areasPerSession: 4, pinnedPerSession: 8 });
    const p = await FakeProgram.open(path);
    p.mappings.push({ start: 0x7000_0000n, end: 0x8000_0000n, flags: 3 });
    const first = await ioas(p);
    for (let i = 0; i < 4; i++) expect(await ioas(p)).toBeGreaterThan(0);
    expect(await ioas(p)).toBe(ENOMEM);
    // A second iommufd of the session has no room of its own; another client has.
    const second = await FakeProgram.open(path, '/dev/iommu', p.session);
    expect(await ioas(second)).toBe(ENOMEM);
    expect(await ioas(await FakeProgram.open(path))).toBe(1);
    for (let id = 2; id <= 5; id++) expect((await p.ioctl(0x3b80, p.put(0, 8, id))).result).toBe(0);
    expect(await ioas(second)).toBe(1);

    const map = async (i: bigint, pages = 1n) =>
      (await p.ioctl(IOAS_MAP, p.put(0x200, 40, 7, first, 0, 0x7000_0000n, pages << 12n, 0x100_0000n + (i << 20n))))
        .result;
    for (let i = 0n; i < 4n; i++) expect(await map(i)).toBe(0);
    expect(await map(5n)).toBe(ENOMEM);
    const unmap = async (i: bigint) =>
      (await p.ioctl(0x3b86, p.put(0x200, 24, first, 0x100_0000n + (i << 20n), 0x1000n))).result;
    expect([await unmap(0n), await unmap(1n), await map(0n, 5n)]).toEqual([0, 0, 0]);
    // Two pages and five: nine are too many when a device is attached.
    expect((await p.ioctl(MOCK_COMMAND, p.put(0x100, 72, 2, first, 0, 0, 0, 0))).result).toBe(0);
    expect(await map(6n, 2n)).toBe(ENOMEM);
    expect(await unmap(2n)).toBe(0);
    expect(await map(6n, 2n)).toBe(0);
  });

  test('gigabytes in which something is pinned: ENOMEM, others have their own, and what goes makes room', async () => {
    const path = await serve({ windowsPerSession: 4, windows: 6 });
    const wide = async () => {
      const p = await FakeProgram.open(path);
      p.mappings.push({ start: 0x1_0000_0000n, end: 0x100_0000_0000n, flags: 3 });
      const id = await ioas(p);
      expect((await p.ioctl(MOCK_COMMAND, p.put(0x100, 72, 2, id, 0, 0, 0, 0))).result).toBe(0);
      const map = async (n: bigint) =>
        (await p.ioctl(IOAS_MAP, p.put(0x200, 40, 7, id, 0, (8n + n) << 30n, 0x1000n, 0x100_0000n + (n << 20n))))
          .result;
      const unmap = async (n: bigint) =>
        (await p.ioctl(0x3b86, p.put(0x200, 24, id, 0x100_0000n + (n << 20n), 0x1000n))).result;
      return { map, unmap };
    };
    const [first, second] = [await wide(), await wide()];
    const results: number[] = [];
    for (let n = 0n; n < 5n; n++) results.push(await first.map(n));
    expect(results).toEqual([0, 0, 0, 0, ENOMEM]);
    expect([await second.map(0n), await second.map(1n), await second.map(2n)]).toEqual([0, 0, ENOMEM]);
    expect([await first.unmap(1n), await first.map(4n), await first.map(5n)]).toEqual([0, 0, ENOMEM]);
    expect([await first.unmap(0n), await first.map(4n + 8n)]).toEqual([0, 0]);
  });

  test('windows in their tens of thousands are forgotten at once when their session goes', () => {
    const memory = new ClientMemory(DEFAULT_LIMITS);
    const sessions = Array.from({ length: 64 }, (_, i) => ({ number: i, pinned: 0 }) as unknown as Session);
    for (const s of sessions)
      for (let n = 0n; n < 1024n; n++) expect(memory.pin(memory.address(s, { pid: 1 }, n << 30n), 4096)).toBe(true);
    expect([memory.windows, memory.address(sessions[0]!, { pid: 2 }, 0n)]).toEqual([65_536, -1]);
    const before = performance.now();
    for (const s of sessions) {
      for (let n = 0n; n < 1024n; n++) memory.unpin(memory.address(s, { pid: 1 }, n << 30n), 4096);
      memory.sweep(s);
    }
    // Quadratic in the number of windows it took half a minute.
    expect(performance.now() - before).toBeLessThan(3000);
    expect([memory.windows, memory.pinned]).toEqual([0, 0]);
  });

  test('memory one ioctl may look at, and questions it may need', async () => {
    const path = await serve({ bytesPerRequest: 4096, questionsPerRequest: 3 });
    const p = await FakeProgram.open(path);
    p.prefetch = 96;
    const io = await ioas(p);
    const allow = async (ranges: number) =>
      (await p.ioctl(ALLOW_IOVAS, p.put(0, 24, io, ranges, 0, p.base + 0x1000n))).result;
    for (let i = 0; i < 512; i++) p.put(0x1000 + 16 * i, BigInt(2 * i) << 20n, (BigInt(2 * i) << 20n) + 99n);
    expect(await allow(200)).toBe(0);
    expect(await allow(512)).toBe(EFAULT);
    expect(await ioas(p)).toBe(2);
  });

  test('an array of 131,072 entries is asked for in pieces of a megabyte, not entry by entry', async () => {
    const path = await serve({});
    const p = await FakeProgram.open(path);
    p.prefetch = 96;
    const io = await ioas(p);
    p.sendIoctl(ALLOW_IOVAS, p.put(0, 24, io, 1 << 17, 0, 0x7000_0000n));
    for (let questions = 0; ; questions++) {
      const f = (await p.wire.next())!;
      if (f.type === T.RET) {
        expect([f.payload.readInt32LE(0), questions]).toEqual([0, 2]);
        return;
      }
      expect([f.type, f.payload.readUInt32LE(12)]).toEqual([T.COPY_IN, 1 << 20]);
      const from = Number(f.payload.readBigUInt64LE(4) - 0x7000_0000n) / 16;
      const data = Buffer.alloc(4 + (1 << 20));
      for (let i = 0; i < 1 << 16; i++) {
        data.writeBigUInt64LE(BigInt(from + i) * 4096n, 4 + 16 * i);
        data.writeBigUInt64LE(BigInt(from + i) * 4096n + 99n, 12 + 16 * i);
      }
      p.wire.send(T.REPLY, data);
    }
  });
});

describe('a crowd', () => {
  test('two hundred clients that come, work and break off at any moment leave an empty server', async () => {
    const path = await serve({ patience: 5000 });
    const good = await FakeProgram.open(path);
    let seed = 7;
    const random = (n: number) => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
      return (seed >>> 8) % n;
    };
    const one = async () => {
      const p = await FakeProgram.open(path);
      p.prefetch = random(2) * 96;
      for (let i = random(6); i > 0; i--) {
        if ((await ioas(p)) < 0) return;
      }
      if (random(3) === 0) p.wire.socket.write(Buffer.from(Array.from({ length: 1 + random(60) }, () => random(256))));
      if (random(3) === 0) p.sendIoctl(FAULT_ALLOC, p.put(0, 16, 0, 0, 0));
      p.wire.socket.destroy();
    };
    for (let round = 0; round < 10; round++) {
      await Promise.all(Array.from({ length: 20 }, one));
      expect(await ioas(good)).toBe(round + 1);
    }
    const [server] = running;
    good.wire.socket.destroy();
    for (let i = 0; i < 100 && server!.clients > 0; i++) await new Promise((r) => setTimeout(r, 20));
    expect([server!.clients, server!.pendingBytes, server!.usage]).toEqual([
      0,
      0,
      { sessions: 0, windows: 0, pinned: 0 },
    ]);
  });
});

describe('counts of pinned pages', () => {
  test('are those of an array of counters', () => {
    const step = fc.tuple(fc.nat(40), fc.nat(12));
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), fc.infiniteStream(fc.nat()), (steps, choices) => {
        const runs = new PinCounts();
        const plain = new Array<number>(64).fill(0);
        const held: [number, number][] = [];
        for (const [first, n] of steps) {
          const drop = held.length > 0 && choices.next().value! % 3 === 0;
          const [from, to] = drop ? held.splice(choices.next().value! % held.length, 1)[0]! : [first, first + n];
          if (!drop) held.push([from, to]);
          runs.add(from, to, drop ? -1 : 1);
          for (let p = from; p <= to; p++) plain[p]! += drop ? -1 : 1;
          expect(plain.map((_, p) => runs.of(p))).toEqual(plain);
          expect(runs.empty).toBe(plain.every((c) => c === 0));
        }
      }),
    );
  });
});

test('a secret is of the stated length', () => expect(SECRET).toBe(16));
