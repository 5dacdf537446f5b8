import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseServerOptions } from '../../../src/adapters/qtest/options.ts';
import { Lines, serveLines } from '../../../src/adapters/qtest/server.ts';

const ROOT = join(import.meta.dirname, '../../..');

/** A client as libqtest is one: it listens, starts the server through a shell, and talks. */
class Client {
  readonly dir = mkdtempSync(join(tmpdir(), 'qt-'));
  readonly #servers: Server[] = [];
  readonly #accepted: Promise<Socket>[] = [];
  child: ChildProcess | null = null;
  #buffers = ['', ''];
  #waiting: ((line: string) => void)[][] = [[], []];
  sockets: Socket[] = [];
  errors = '';

  async start(name: string, args: string): Promise<void> {
    for (const n of ['qtest', 'qmp']) {
      this.#accepted.push(
        new Promise((resolve) => {
          const server = createServer(resolve).listen(join(this.dir, n));
          this.#servers.push(server);
        }),
      );
    }
    this.run(
      name,
      `-qtest unix:${this.dir}/qtest -qtest-log /dev/null -chardev socket,path=${this.dir}/qmp,id=char0 ` +
        `-mon chardev=char0,mode=control -display none -audio none -run-with exit-with-parent=on ${args} -accel qtest`,
    );
    this.sockets = await Promise.all(this.#accepted);
    this.sockets.forEach((s, i) => {
      s.setEncoding('utf8');
      s.on('error', () => {});
      s.on('data', (chunk: string) => {
        const parts = (this.#buffers[i]! + chunk).split('\n');
        this.#buffers[i] = parts.pop()!;
        for (const p of parts) this.#waiting[i]!.shift()?.(p);
      });
    });
  }

  run(name: string, args: string): void {
    this.child = spawn('/bin/sh', ['-c', `exec ${ROOT}/tools/bin/${name} ${args}`], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    this.child.stderr!.on('data', (d) => {
      this.errors += d;
    });
  }

  line(channel: number): Promise<string> {
    return new Promise((resolve) => this.#waiting[channel]!.push(resolve));
  }

  ask(request: string): Promise<string> {
    const reply = this.line(0);
    this.sockets[0]!.write(`${request}\n`);
    return reply;
  }

  ended(): Promise<number | string | null> {
    const child = this.child!;
    return new Promise((resolve) => {
      if (child.exitCode !== null) resolve(child.exitCode);
      else child.on('exit', (code, signal) => resolve(code ?? signal));
    });
  }

  close(): void {
    this.child?.kill('SIGKILL');
    for (const s of this.sockets) s.destroy();
    for (const s of this.#servers) s.close();
    rmSync(this.dir, { recursive: true, force: true });
  }
}

describe('the executables', () => {
  let client: Client;
  beforeEach(() => {
    client = new Client();
  });
  afterEach(() => client.close());

  test('a libqtest client talks on both sockets and ends the server with SIGTERM: status 0', async () => {
    const greeting = client.line(1);
    await client.start(
      'viommu-system-aarch64',
      '-machine virt,acpi=off,gic-version=3 -smp 1 -m 64 -net none  -device iommu-testdev',
    );
    expect(JSON.parse(await greeting)).toHaveProperty('QMP');
    const reply = client.line(1);
    client.sockets[1]!.write('{"execute":"qmp_capabilities"}\n');
    expect(JSON.parse(await reply)).toEqual({ return: {} });
    expect(await client.ask('endianness')).toBe('OK little');
    expect(await client.ask('read 0x4010008000 0x4')).toBe('OK 0x361b0500');
    client.child!.kill('SIGTERM');
    expect(await client.ended()).toBe(0);
    expect(client.errors).toBe('');
  });

  test.each([
    // IDR0: MSI, ATS, NS1ATS, PRI, ATSRECERR and a stall model, which QEMU's has not.
    [
      'viommu-system-aarch64',
      '-machine virt -device arm-smmuv3,primary-bus=pcie.0,x-profile=arch,stage=nested,ats=on,pri=on,stall=on',
      '0xc000000',
      0x0cc5_3c1bn,
    ],
    // CAP: eight fault records, five levels.
    [
      'viommu-system-x86_64',
      '-machine q35 -device intel-iommu,x-profile=arch,scalable-mode=on,aw-bits=57',
      '0xfed90008',
      0x2238_0e06n,
    ],
  ])('x-profile=arch on the command line of %s orders the architecture', async (name, args, at, value) => {
    await client.start(name, `${args} -net none`);
    expect(BigInt((await client.ask(`readl ${at}`)).slice(3))).toBe(value);
  });

  test('a client that sends garbage gets FAIL, one that goes away leaves nothing running', async () => {
    await client.start('viommu-system-x86_64', '-machine q35 -net none');
    expect(await client.ask('\u0001garbage \xff')).toMatch(/^FAIL Unknown command/);
    expect(await client.ask('readl 0xfed90000')).toMatch(/^OK 0x/);
    client.sockets[0]!.destroy();
    expect(await client.ended()).toBe(0);
  });

  test('a wrong command line is named and ends with status 1', async () => {
    client.run('viommu-system-x86_64', '-qtest unix:/nowhere/at/all -machine q35');
    expect(await client.ended()).toBe(1);
    expect(client.errors).toContain("-qtest: cannot connect to '/nowhere/at/all': ENOENT");
  });

  test('--limits sets what the guest may use, and a name that is none is refused with the names that are', async () => {
    await client.start('viommu-system-aarch64', '-machine virt,iommu=smmuv3 --limits tablePages=200,pasids=7');
    expect(await client.ask('readl 0x9050024')).toBe('OK 0x0000000000000000');
    for (const [wrong, says] of [
      ['nothing=3', /nothing/],
      ['pasids=0', /pasids/],
      // The limit is the machine's: with one page there is none.
      ['tablePages=1 -device iommu-testdev', /refuses iommu-testdev.*errno=0xc/],
      ['pasids', /--limits pasids: expected NAME=N/],
    ] as const) {
      const other = new Client();
      other.run(
        'viommu-system-x86_64',
        `-qtest unix:/nowhere/at/all -machine q35 -device intel-iommu --limits ${wrong}`,
      );
      await new Promise((resolve) => other.child!.once('close', resolve));
      expect([await other.ended(), other.errors]).toEqual([1, expect.stringMatching(says)]);
      other.close();
    }
  });

  test('--failures lets every fetch abort: a command queue of the client stops, and says why', async () => {
    await client.start('viommu-system-aarch64', '-machine virt,iommu=smmuv3 --failures seed=1,fetches=1');
    const exchange = async (text: string): Promise<string> => {
      client.sockets[0]!.write(`${text}\n`);
      return await client.line(0);
    };
    for (const [at, value] of [
      [0x90, 0x4000_0005],
      [0x94, 0],
      [0x20, 8],
      [0x98, 1],
    ] as const) {
      expect(await exchange(`writel 0x${(0x905_0000 + at).toString(16)} 0x${value.toString(16)}`)).toBe('OK');
    }
    // CERROR_ABT in CMDQ_CONS.ERR.
    expect(await exchange('readl 0x905009c')).toBe('OK 0x0000000002000000');
  });

  test('shares that are none are named, and end with status 1', async () => {
    client.run('viommu-system-x86_64', '-qtest unix:/nowhere/at/all -machine q35 --failures seed=1,fetches=2');
    expect(await client.ended()).toBe(1);
    expect(client.errors).toContain("'fetches' is a share between 0 and 1");
  });
});

describe('server options', () => {
  test('both spellings of the monitor name the same socket', () => {
    const chardev = ['-chardev', 'socket,path=/tmp/m,id=c0'];
    const old = parseServerOptions([...chardev, '-mon', 'chardev=c0,mode=control']);
    const now = parseServerOptions([...chardev, '-object', 'monitor-qmp,id=qmp0,chardev=c0']);
    expect(old.qmp).toEqual({ path: '/tmp/m', listen: false });
    expect(now.qmp).toEqual(old.qmp);
    expect(() => parseServerOptions(['-mon', 'chardev=c1'])).toThrow(/c1/);
    expect(() => parseServerOptions(['-qtest', 'tcp:1'])).toThrow(/only unix sockets/);
  });

  test('default devices go with -net none, -nodefaults and -vga none', () => {
    const of = (text: string) => {
      const { nic, vga } = parseServerOptions(text.split(' '));
      return [nic, vga];
    };
    expect(of('-machine q35')).toEqual([true, true]);
    expect(of('-net none')).toEqual([false, true]);
    expect(of('-nodefaults')).toEqual([false, false]);
    expect(of('-vga none')).toEqual([true, false]);
  });
});

describe('lines on a socket', () => {
  test('pieces of a line are one line, and several lines are answered in order', () => {
    const lines = new Lines();
    expect(lines.push('rea')).toEqual([]);
    expect(lines.push('dl 0\nx\ny')).toEqual(['readl 0', 'x']);
    expect(lines.push('\n')).toEqual(['y']);
    expect(typeof serveLines).toBe('function');
  });

  test('a line that comes in thousands of pieces costs its length, and one without an end is not waited for', () => {
    const lines = new Lines();
    const piece = 'a'.repeat(2 ** 16);
    for (let n = 0; n < 2 ** 11; n++) expect(lines.push(piece)).toEqual([]);
    expect(lines.push('\n')?.map((l) => l.length)).toEqual([2 ** 27]);
    let n = 0;
    while (n < 2 ** 14 && lines.push(piece) !== null) n++;
    expect(n).toBe(2 ** 12);
  });
});
