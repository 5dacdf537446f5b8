import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readlinkSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FakeProgram, SECRET, T, Wire } from '../../../tools/fuzz/socket-client.ts';
import { Servers } from './servers.ts';

const BIND = 0x3b00 + 118;
const SET_IRQS = 0x3b00 + 110;
const EPERM = -1;
const ENODEV = -19;

let servers: Servers;
let path = '';
let still = '';
let bystander: ChildProcess;
beforeAll(async () => {
  servers = new Servers();
  path = await servers.serve('engines', '--backend', 'vtd', '--device', 'dma-engine', '--device', 'dma-engine');
  still = await servers.serve('still', '--backend', 'vtd');
  bystander = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' });
}, 120_000);
afterAll(() => {
  servers.stop();
  bystander.kill();
});

/** ATTEND's payload. */
function attending(session: Uint8Array, pid: number, address: bigint): Buffer {
  const b = Buffer.alloc(12);
  b.writeUInt32LE(pid, 0);
  b.writeBigUInt64LE(address, 4);
  return Buffer.concat([session, b]);
}

/** A program with a bound device and an attendant of that process. */
async function bound(node: string) {
  const iommufd = await FakeProgram.open(path);
  const device = await FakeProgram.open(path, node, iommufd.session);
  device.descriptors.set(3, iommufd.token);
  const attendant = await Wire.dial(path);
  const met = await attendant.ask(T.ATTEND, attending(device.session, device.pid, 0x1000n));
  expect([met.result, met.data.length]).toEqual([0, SECRET]);
  expect((await attendant.ask(T.PROVE)).result).toBe(EPERM);
  expect((await device.ioctl(BIND, device.put(0, 24, 0, 3, 0, 0n))).result).toBe(0);
  const irqs = (flags: number, start: number, count: number, ...fds: readonly number[]) =>
    device.ioctl(SET_IRQS, device.put(0x100, 20 + 4 * fds.length, flags, 2, start, count, ...fds));
  const close = async () => {
    for (const w of [device.wire, iommufd.wire, attendant]) {
      w.socket.destroy();
      await w.hungUp();
    }
  };
  return { iommufd, device, attendant, irqs, close };
}

describe('whose memory devices reach', () => {
  test('a client that names another process has to write into it, and cannot', async () => {
    const p = await FakeProgram.open(path);
    // Addresses that are mapped in every process, and ones that are in none.
    for (const address of [0x40_0000n, 0x7fff_0000_0000n, 0n, 2n ** 63n, 2n ** 64n - 1n]) {
      const w = await Wire.dial(path);
      const met = await w.ask(T.ATTEND, attending(p.session, bystander.pid!, address));
      expect(met.data.length).toBe(SECRET);
      expect((await w.ask(T.PROVE)).result).toBe(EPERM);
      expect((await w.ask(T.PROVE)).result).toBe(EPERM);
      w.socket.destroy();
    }
  });

  test('each time it is another secret, and a process that is not there is none', async () => {
    const p = await FakeProgram.open(path);
    const seen = new Set<string>();
    for (const pid of [0, 1, 2 ** 22 + 1, 2 ** 32 - 1]) {
      const w = await Wire.dial(path);
      seen.add((await w.ask(T.ATTEND, attending(p.session, pid, 0n))).data.toString('hex'));
      expect((await w.ask(T.PROVE)).result).toBe(EPERM);
      w.socket.destroy();
    }
    expect(seen.size).toBe(4);
  });

  test('an unknown session, a short frame and a proof without attending end the connection', async () => {
    const p = await FakeProgram.open(path);
    for (const payload of [attending(Buffer.alloc(SECRET), 1, 0n), attending(p.session, 1, 0n).subarray(1)]) {
      const w = await Wire.dial(path);
      w.send(T.ATTEND, payload);
      expect(await w.hungUp()).toBe(true);
    }
    p.wire.send(T.PROVE);
    expect(await p.wire.hungUp()).toBe(true);
  });

  test('a server whose functions do nothing reaches nobody, and says so', async () => {
    const p = await FakeProgram.open(still);
    const w = await Wire.dial(still);
    expect((await w.ask(T.ATTEND, attending(p.session, process.pid, 0n))).result).toBe(ENODEV);
    w.send(T.PROVE);
    expect(await w.hungUp()).toBe(true);
  });
});

const SHIM = resolve('tools/iommufd-preload');
const compiler = (() => {
  try {
    execFileSync('cc', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
})();

/** How often a server has a process's memory open. */
function memories(server: number, pid: number): number {
  let n = 0;
  for (const fd of readdirSync(`/proc/${server}/fd`)) {
    try {
      if (readlinkSync(`/proc/${server}/fd/${fd}`) === `/proc/${pid}/mem`) n++;
    } catch {
      // Closed meanwhile.
    }
  }
  return n;
}

describe.runIf(compiler)('a process that shows itself', () => {
  beforeAll(() => void execFileSync('make', ['-s', '-C', SHIM, 'reach-client']), 120_000);

  test('does so in memory of its own, and is reached through the attendant that came last', async () => {
    const target = spawn(join(SHIM, 'reach-client'));
    const where = JSON.parse(String((await once(target.stdout, 'data'))[0])) as Record<
      'pid' | 'own' | 'shared',
      number
    >;
    const { child: server, said } = servers.run('--socket', `${path}.2`, '--backend', 'vtd', '--device', 'dma-engine');
    while (!said().includes(' on ')) await once(server.stderr!, 'data');
    const p = await FakeProgram.open(`${path}.2`);
    const attend = async (address: number) => {
      const w = await Wire.dial(`${path}.2`);
      const { data } = await w.ask(T.ATTEND, attending(p.session, where.pid, BigInt(address)));
      target.stdin.write(data);
      await once(target.stdout, 'data');
      return { wire: w, result: (await w.ask(T.PROVE)).result };
    };
    const shared = await attend(where.shared);
    expect([shared.result, memories(server.pid!, where.pid)]).toEqual([EPERM, 0]);
    const first = await attend(where.own);
    expect([first.result, memories(server.pid!, where.pid)]).toEqual([0, 1]);
    const second = await attend(where.own);
    expect([second.result, memories(server.pid!, where.pid)]).toEqual([0, 1]);
    for (const { wire } of [first, shared]) {
      wire.socket.destroy();
      await wire.hungUp();
    }
    // A request later the server knows that they are gone.
    await p.ioctl(BIND, p.put(0, 24, 0, 3, 0, 0n));
    expect(memories(server.pid!, where.pid)).toBe(1);
    target.kill();
  });
});

describe('eventfds', () => {
  test('are asked for once, told of by their handle, and dropped with the device', async () => {
    const { device, attendant, irqs, close } = await bound('/dev/vfio/devices/vfio0');
    const r = await irqs(0x24, 0, 2, 7, 8);
    expect([r.result, r.asked.filter((a) => a === T.EVENTFD).length, r.actions.length]).toEqual([0, 2, 0]);
    expect((await irqs(0x21, 1, 1)).result).toBe(0);
    const told = await attendant.next();
    expect([told?.type, told?.payload.readInt32LE(0)]).toEqual([T.SIGNAL, 608]);
    device.wire.socket.destroy();
    const dropped = [await attendant.next(), await attendant.next()];
    expect(dropped.map((f) => [f?.type, f?.payload.readInt32LE(0)])).toEqual([
      [T.DROP, 607],
      [T.DROP, 608],
    ]);
    await close();
  });

  test('that a call asked for and did not take are closed with its answer', async () => {
    const { irqs, close } = await bound('/dev/vfio/devices/vfio0');
    const only = (r: Awaited<ReturnType<typeof irqs>>) => r.actions.map((a) => [a.type, a.content.readInt32LE(0)]);
    // Three vectors of two: no descriptor is even looked at.
    const early = await irqs(0x24, 0, 3, 1, 2, 3);
    expect([early.result, early.asked.includes(T.EVENTFD), only(early)]).toEqual([-22, false, []]);
    // The second is no eventfd: the copy of the first is not needed.
    const late = await irqs(0x24, 0, 2, 7, 900);
    expect([late.result, only(late)]).toEqual([-22, [[3, 607]]]);
    await close();
  });

  test('a client that reads nothing for a while hears of each eventfd, and the server keeps no more than one word for it', async () => {
    const { attendant, irqs, close } = await bound('/dev/vfio/devices/vfio1');
    expect((await irqs(0x24, 0, 2, 7, 8)).result).toBe(0);
    attendant.socket.pause();
    for (let i = 0; i < 300; i++) expect((await irqs(0x21, i % 2, 1)).result).toBe(0);
    attendant.socket.resume();
    const heard = new Set<number>();
    while (heard.size < 2) {
      const f = (await attendant.next())!;
      for (let at = 0; at < f.payload.length; at += 4) heard.add(f.payload.readInt32LE(at));
    }
    expect([...heard].sort()).toEqual([607, 608]);
    await close();
  });
});
