import { type ChildProcessWithoutNullStreams, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ended, Servers } from './servers.ts';

const SHIM = resolve('tools/iommufd-preload');

const compiler = (() => {
  try {
    execFileSync('cc', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
})();

/** Starts a program with the preload library. */
function start(socket: string, program: string, ...args: readonly string[]): ChildProcessWithoutNullStreams {
  const preload = { LD_PRELOAD: join(SHIM, 'libiommufd-preload.so'), IOMMUFD_SOCK: socket };
  return spawn(join(SHIM, program), args, { env: { ...process.env, ...preload } });
}

/** @returns what a program said until it ended. */
function saying(child: ChildProcessWithoutNullStreams): Promise<string> {
  return new Promise((done, fail) => {
    let text = '';
    child.stdout.setEncoding('utf8').on('data', (t: string) => {
      text += t;
    });
    child.once('error', fail);
    child.once('close', () => done(text));
  });
}

describe.runIf(compiler)('unmodified C programs', () => {
  let servers: Servers;
  const sockets = new Map<string, string>();
  beforeAll(async () => {
    execFileSync('make', ['-s', '-C', SHIM], { stdio: 'pipe' });
    servers = new Servers();
    for (const b of ['mock', 'smmuv3', 'vtd']) sockets.set(b, await servers.serve(b, '--backend', b));
    const engines = ['--device', 'dma-engine', '--device', 'dma-engine'];
    for (const b of ['smmuv3', 'vtd'])
      sockets.set(`${b} engines`, await servers.serve(`${b}e`, '--backend', b, ...engines));
  }, 120_000);
  afterAll(() => servers.stop());

  test.each([
    ['vfio-client', 'mock', ['mock'], 'mock: 0 failures'],
    ['vfio-client', 'smmuv3', ['smmuv3'], 'smmuv3: 0 failures'],
    ['vfio-client', 'vtd', ['vtd'], 'vtd: 0 failures'],
    ['vfio-group-client', 'mock', [], 'group: 0 failures'],
    ['vfio-group-client', 'smmuv3', ['0000:01:02.0', '0000:01:03.0'], 'group: 0 failures'],
    ['vfio-group-client', 'vtd', ['0000:01:03.0', '0000:01:00.0'], 'group: 0 failures'],
    ['fork-client', 'mock', ['150'], 'fork: 0 failures'],
    ['fork-client', 'vtd', ['30'], 'fork: 0 failures'],
    ['handover-client', 'mock', [], 'handover: 0 failures'],
    ['dma-client', 'smmuv3 engines', ['anonymous', 'smmuv3'], 'dma anonymous: 0 failures'],
    ['dma-client', 'smmuv3 engines', ['memfd', 'smmuv3', 'device-last'], 'dma memfd: 0 failures'],
    ['dma-client', 'vtd engines', ['anonymous', 'vtd', 'device-last'], 'dma anonymous: 0 failures'],
    ['dma-client', 'vtd engines', ['memfd', 'vtd'], 'dma memfd: 0 failures'],
    ['dma-client', 'vtd engines', ['shared', 'vtd'], 'dma shared: 0 failures'],
    ['attend-client', 'smmuv3 engines', ['child'], 'attend child: 0 failures'],
    ['attend-client', 'vtd engines', ['close'], 'attend close: 0 failures'],
    ['attend-client', 'smmuv3 engines', ['full'], 'attend full: 0 failures'],
    ['attend-client', 'vtd engines', ['file'], 'attend file: 0 failures'],
  ])('%s against %s', async (program, backend, args, last) => {
    const said = await saying(start(sockets.get(backend)!, program, ...args));
    expect(said.split('\n').filter((l) => l.startsWith('NOT OK'))).toEqual([]);
    expect(said).toContain(last);
  });

  test('a program goes on with a server that came in the place of another', async () => {
    const path = join(servers.dir, 'restarted.sock');
    const serve = async () => {
      const { child, said } = servers.run('--socket', path, '--backend', 'vtd', '--device', 'dma-engine');
      while (!said().includes(' on ')) await once(child.stderr!, 'data');
      return child;
    };
    const first = await serve();
    const program = start(path, 'attend-client', 'restart');
    const said = saying(program);
    let heard = '';
    program.stdout.on('data', (text: string) => {
      heard += text;
    });
    while (!heard.includes('ready')) await once(program.stdout, 'data');
    first.kill();
    await ended(first);
    await serve();
    program.stdin.write('go on\n');
    expect((await said).split('\n').filter((l) => l.startsWith('NOT OK'))).toEqual([]);
    expect(await said).toContain('attend restart: 0 failures');
  });
});
