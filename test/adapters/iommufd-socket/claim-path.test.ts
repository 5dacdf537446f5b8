import { execFileSync } from 'node:child_process';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { listenOn } from '../../../src/adapters/iommufd-socket/claim-path.ts';
import { FakeProgram } from '../../../tools/fuzz/socket-client.ts';
import { ended, Servers } from './servers.ts';

let servers: Servers;
beforeAll(() => {
  servers = new Servers();
});
afterAll(() => servers.stop());

const at = (name: string) => join(servers.dir, name);

/** A socket that nobody listens on any more. */
function stale(path: string): void {
  const program = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
  try {
    execFileSync(process.execPath, ['-e', program], { stdio: 'ignore' });
  } catch {
    // It was killed.
  }
  if (!lstatSync(path).isSocket()) throw new Error('no socket');
}

async function refused(...args: readonly string[]): Promise<string> {
  const { child, said } = servers.run(...args);
  expect(await ended(child)).toBe(2);
  return said();
}

describe('a server takes only a path that is free', () => {
  test('a stale socket of its own user is replaced; the new one is private to the user', async () => {
    const path = at('stale.sock');
    stale(path);
    expect(await servers.serve('stale')).toBe(path);
    expect(lstatSync(path).mode & 0o777).toBe(0o600);
    expect((await FakeProgram.open(path)).token.some((b) => b !== 0)).toBe(true);
  });

  test('a file, a directory and a link stay what they are: status 2', async () => {
    writeFileSync(at('file'), 'precious');
    expect(await refused('--socket', at('file'))).toMatch(/is there already and is not a socket/);
    expect(readFileSync(at('file'), 'utf8')).toBe('precious');
    mkdirSync(at('folder'));
    expect(await refused('--socket', at('folder'))).toMatch(/is not a socket/);
    symlinkSync(at('file'), at('link'));
    expect(await refused('--socket', at('link'))).toMatch(/is not a socket/);
    expect(lstatSync(at('link')).isSymbolicLink()).toBe(true);
  });

  test('a path that is served is refused, and the server there goes on', async () => {
    const path = await servers.serve('live');
    expect(await refused('--socket', path)).toMatch(/is served by a running process/);
    expect((await FakeProgram.open(path)).token.length).toBe(16);
  });

  test.each([
    ['a directory that is not there', () => at('none/x.sock'), /cannot listen/],
    ['a directory that is a file', () => at('file/x.sock'), /cannot listen/],
    ['108 bytes', () => `${'/'.repeat(108 - at('y').length)}${at('y')}`, /107 bytes, this one 108/],
    ['a path of many bytes in few letters', () => at('ü'.repeat(50)), /1 to 107 bytes/],
  ])('%s: one line and status 2', async (_what, path, message) => {
    writeFileSync(at('file'), 'precious');
    const said = await refused('--socket', path());
    expect(said).toMatch(message);
    expect(said.trim().split('\n')).toHaveLength(1);
  });

  test('107 bytes are enough for everybody', async () => {
    const name = 'z'.repeat(107 - at('.sock').length);
    const path = await servers.serve(name);
    expect(Buffer.byteLength(path)).toBe(107);
    expect((await FakeProgram.open(path)).token.length).toBe(16);
  });

  test('of servers that start at the same time one listens, the others are refused', async () => {
    const path = at('race.sock');
    stale(path);
    const started = Array.from({ length: 4 }, () => servers.run('--socket', path));
    const statuses = await Promise.all(
      started.map(
        ({ child }) =>
          new Promise((done) => {
            child.stderr?.on('data', (t: string) => (t.includes(' on ') ? done('listens') : undefined));
            child.once('exit', done);
          }),
      ),
    );
    expect(statuses.sort()).toEqual([2, 2, 2, 'listens']);
    expect((await FakeProgram.open(path)).token.length).toBe(16);
  });
});

describe('a server that ends', () => {
  test.each(['SIGTERM', 'SIGINT', 'SIGHUP'] as const)('by %s takes its socket away: status 0', async (signal) => {
    const path = at(`${signal}.sock`);
    const { child, said } = servers.run('--socket', path);
    while (!said().includes(' on ')) await new Promise((r) => setTimeout(r, 20));
    await FakeProgram.open(path);
    child.kill(signal);
    expect(await ended(child)).toBe(0);
    expect(existsSync(path)).toBe(false);
  });

  test('leaves a socket alone that has taken its place', async () => {
    const path = at('swapped.sock');
    const first = createServer();
    const mine = await listenOn(first, path);
    renameSync(path, at('aside.sock'));
    const second = createServer();
    const theirs = await listenOn(second, path);
    mine.release();
    await new Promise((r) => first.close(r));
    expect(lstatSync(path).isSocket()).toBe(true);
    theirs.release();
    expect(existsSync(path)).toBe(false);
    await new Promise((r) => second.close(r));
    unlinkSync(at('aside.sock'));
  });
});
