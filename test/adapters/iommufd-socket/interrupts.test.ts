import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Shell } from '../../../devices/endpoints/shell.ts';
import { IommufdServer } from '../../../src/adapters/iommufd-socket/server.ts';
import { FakeProgram, parseRet, SECRET, T, Wire } from '../../../tools/fuzz/socket-client.ts';

const IOAS_ALLOC = 0x3b81;
const BIND = 0x3b00 + 118;
const ATTACH = 0x3b00 + 119;
const SET_IRQS = 0x3b00 + 110;
const CONFIG = 7n << 40n;
const NO_PASID = -1;

/** Registers of the function: a word for the doorbell at BYTES bytes, where it is written to, and what makes it throw. */
const POKE = { PLACE: 0, BYTES: 4, WRITE: 8, VECTOR: 12, BREAK: 16, COSTLY: 20, COUNT: 24 } as const;

/** A function that writes any word anywhere, as a ring of descriptors can make a DMA engine do. */
function poker(): Shell {
  const fn = new Shell({
    name: 'poker',
    identity: { vendor: 1, device: 2, classCode: 0xff0000, pin: 1 },
    bars: [{ index: 0, bytes: 4096, kind: 'mem32' }],
    msix: { vectors: 4, bar: 0, table: 0x800, pending: 0xc00 },
    ats: null,
    pri: null,
    pasid: null,
  });
  const regs = new Map<number, number>();
  const accessed = () => {
    registerAccesses++;
    if ((regs.get(POKE.COSTLY) ?? 0) !== 0) fn.upstream?.work?.spend(2048);
  };
  fn.behave({
    barRead: (_, offset) => {
      accessed();
      return offset === POKE.COUNT ? registerAccesses : (regs.get(offset) ?? 0);
    },
    barWrite: (_, offset, _size, value) => {
      accessed();
      regs.set(offset, value);
      if (offset === POKE.VECTOR) fn.interrupts.raise(value);
      if (offset === POKE.BREAK)
        fn.upstream?.work?.later(() => {
          throw new Error('put off and broken');
        });
      if (offset !== POKE.WRITE) return;
      const bytes = new Uint8Array(Uint32Array.of(value).buffer);
      fn.memory.write(NO_PASID, regs.get(POKE.PLACE)! | 0, 0, bytes, 0, regs.get(POKE.BYTES) ?? 4);
    },
    reset: () => regs.clear(),
  });
  return fn;
}

/** Accesses to registers of all functions. */
let registerAccesses = 0;
let dir = '';
let count = 0;
const running: IommufdServer[] = [];
const failures: Error[] = [];
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'viommu-interrupts-'));
});
afterEach(async () => {
  for (const s of running.splice(0)) await s.close();
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

async function serve(backend: string): Promise<string> {
  const path = join(dir, `s${count++}`);
  const server = new IommufdServer({ path, backend, functions: [poker(), poker()] });
  server.onFailure = (e) => failures.push(e);
  await server.listen();
  running.push(server);
  return path;
}

/** A program that has a device, and hears of its interrupts. */
class User {
  readonly device: FakeProgram;
  readonly #attendant: Wire;
  #told: number[] = [];
  #dropped: number[] = [];

  private constructor(device: FakeProgram, attendant: Wire) {
    this.device = device;
    this.#attendant = attendant;
  }

  static async of(path: string, node: string): Promise<User> {
    const iommufd = await FakeProgram.open(path);
    const device = await FakeProgram.open(path, `/dev/vfio/devices/${node}`, iommufd.session);
    device.descriptors.set(3, iommufd.token);
    const attendant = await Wire.dial(path);
    const who = Buffer.alloc(12);
    who.writeUInt32LE(device.pid, 0);
    expect((await attendant.ask(T.ATTEND, Buffer.concat([device.session, who]))).data.length).toBe(SECRET);
    await attendant.ask(T.PROVE);
    expect((await device.ioctl(BIND, device.put(0, 24, 0, 3, 0, 0n))).result).toBe(0);
    expect((await iommufd.ioctl(IOAS_ALLOC, iommufd.put(0, 12, 0, 0))).result).toBe(0);
    expect((await device.ioctl(ATTACH, device.put(0, 12, 0, iommufd.u32(8)))).result).toBe(0);
    const user = new User(device, attendant);
    await user.write(CONFIG + 4n, 6);
    return user;
  }

  async write(offset: bigint, value: number): Promise<void> {
    const b = Buffer.alloc(12);
    b.writeBigUInt64LE(offset, 0);
    b.writeUInt32LE(value >>> 0, 8);
    expect((await this.device.wire.ask(T.PWRITE, b)).result).toBe(4);
  }
  async poke(place: number, value: number, bytes = 4): Promise<void> {
    await this.write(BigInt(POKE.PLACE), place);
    await this.write(BigInt(POKE.BYTES), bytes);
    await this.write(BigInt(POKE.WRITE), value);
  }

  async irqs(index: number, flags: number, start: number, n: number, ...fds: readonly number[]): Promise<number> {
    const at = this.device.put(0x100, 20 + 4 * fds.length, flags, index, start, n, ...fds);
    return (await this.device.ioctl(SET_IRQS, at)).result;
  }

  /** The eventfds it was told of, and those it was told to close, since it was asked last. */
  async heard(): Promise<{ told: number[]; dropped: number[] }> {
    // REQ's eventfd is told by hand: whatever came before it has arrived.
    expect(await this.irqs(4, 0x24, 0, 1, 99)).toBe(0);
    expect(await this.irqs(4, 0x21, 0, 1)).toBe(0);
    while (!this.#told.includes(699)) {
      const f = (await this.#attendant.next())!;
      const into = f.type === T.SIGNAL ? this.#told : this.#dropped;
      for (let at = 0; at < f.payload.length; at += 4) into.push(f.payload.readInt32LE(at));
    }
    const now = { told: this.#told.filter((h) => h !== 699), dropped: this.#dropped.filter((h) => h !== 699) };
    this.#told = [];
    this.#dropped = [];
    return now;
  }
}

describe.each([
  ['vtd', 0xfee0_0000],
  ['smmuv3', 0x0800_0040],
])('messages on %s', (backend, door) => {
  test('whatever a function writes to the doorbell, only vectors of its own come of it', async () => {
    const path = await serve(backend);
    const [attacker, victim] = [await User.of(path, 'vfio0'), await User.of(path, 'vfio1')];
    expect(await attacker.irqs(2, 0x24, 0, 2, 1, 2)).toBe(0);
    expect(await victim.irqs(2, 0x24, 0, 2, 3, 4)).toBe(0);
    for (let vector = 0; vector < 4; vector++) await attacker.poke(door, 2048 + vector);
    await attacker.poke(door, 0xffff_ffff);
    expect(await victim.heard()).toEqual({ told: [], dropped: [] });
    expect(await attacker.heard()).toEqual({ told: [], dropped: [] });
    // Its own are written as MSI-X would write them; a vector without an eventfd is nobody's.
    await attacker.poke(door, 1);
    await attacker.poke(door, 3);
    expect(await attacker.heard()).toEqual({ told: [602], dropped: [] });
    // Elsewhere, or of another size, a write is no message.
    await attacker.poke(door + 4, 0);
    await attacker.poke(door, 0, 2);
    expect(await attacker.heard()).toEqual({ told: [], dropped: [] });
    await victim.write(BigInt(POKE.VECTOR), 1);
    expect(await victim.heard()).toEqual({ told: [604], dropped: [] });
    expect(failures).toEqual([]);
  });
});

describe('an eventfd', () => {
  test('that was given for several interrupts is closed when the last of them has let go of it', async () => {
    const user = await User.of(await serve('vtd'), 'vfio0');
    expect(await user.irqs(2, 0x24, 0, 3, 7, 7, 8)).toBe(0);
    expect(await user.irqs(2, 0x24, 0, 1, 9)).toBe(0);
    expect(await user.heard()).toEqual({ told: [], dropped: [] });
    await user.write(BigInt(POKE.VECTOR), 1);
    expect(await user.heard()).toEqual({ told: [607], dropped: [] });
    expect(await user.irqs(2, 0x24, 1, 1, -1)).toBe(0);
    expect(await user.heard()).toEqual({ told: [], dropped: [607] });
    expect(await user.irqs(2, 0x21, 0, 0)).toBe(0);
    expect((await user.heard()).dropped.sort()).toEqual([608, 609]);
  });
});

describe('a long read or write of registers', () => {
  test('is done in turns with what others want, and answered as one', async () => {
    const path = await serve('vtd');
    const user = await User.of(path, 'vfio0');
    const bystander = await FakeProgram.open(path);
    const bytes = Buffer.alloc(12);
    bytes.writeUInt32LE(1024, 8);
    // Every access to these costs as much as an access may.
    await user.write(BigInt(POKE.COSTLY), 1);
    bytes.writeBigUInt64LE(0n, 0);
    user.device.wire.send(T.PREAD, bytes);
    // What comes behind it waits for it.
    user.device.wire.send(T.PREAD, Buffer.from([POKE.COUNT, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0]));
    const accesses = () => registerAccesses;
    const before = accesses();
    for (let i = 0; i < 5; i++) {
      expect((await bystander.ioctl(IOAS_ALLOC, bystander.put(0, 12, 0, 0))).result).toBe(0);
    }
    expect(accesses() - before).toBeLessThan(256);
    const read = parseRet((await user.device.wire.next())!.payload);
    expect([read.result, read.data.length, read.data.readUInt32LE(POKE.COSTLY)]).toEqual([1024, 1024, 1]);
    const second = parseRet((await user.device.wire.next())!.payload);
    expect([second.result, second.data.readUInt32LE(0)]).toEqual([4, before + 257]);
    const wrote = user.device.wire.ask(
      T.PWRITE,
      Buffer.concat([Buffer.from([0, 2, 0, 0, 0, 0, 0, 0]), Buffer.alloc(512, 7)]),
    );
    expect((await bystander.ioctl(IOAS_ALLOC, bystander.put(0, 12, 0, 0))).result).toBe(0);
    expect(accesses() - before).toBeLessThan(257 + 128);
    expect((await wrote).result).toBe(512);
    expect(accesses() - before).toBe(257 + 128);
    expect(failures).toEqual([]);
  });
});

describe('what functions put off', () => {
  test('is told to the owner of the server when it throws, and the server goes on', async () => {
    const path = await serve('vtd');
    const user = await User.of(path, 'vfio0');
    await user.write(BigInt(POKE.BREAK), 1);
    expect(await user.heard()).toEqual({ told: [], dropped: [] });
    expect(failures.splice(0).map((e) => e.message)).toEqual(['put off and broken']);
    await User.of(path, 'vfio1');
  });
});
