import { type ChildProcessWithoutNullStreams, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, openSync, readdirSync, readFileSync, readSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { ProcessReach } from '../../../src/adapters/iommufd-socket/process-reach.ts';
import { ReachedFiles } from '../../../src/adapters/iommufd-socket/reached-files.ts';
import { ended } from './servers.ts';

const SHIM = resolve('tools/iommufd-preload');
const LAST_PID = '/proc/sys/kernel/ns_last_pid';

interface Held {
  readonly fd: number;
  readonly identity: string;
}
/** What the program says of itself. */
interface Facts {
  readonly pid: number;
  readonly own: number;
  readonly shared: number;
  readonly copied: number;
  readonly both: Held;
  readonly only: Held;
  readonly leased: Held;
  readonly lease: number;
}

const works = (...probe: readonly (() => unknown)[]) => {
  try {
    for (const p of probe) p();
    return true;
  } catch {
    return false;
  }
};
const compiler = works(() => execFileSync('cc', ['--version'], { stdio: 'ignore' }));
/** Whether a process can be given a number that another one had. */
const numbers = works(() => closeSync(openSync(LAST_PID, 'r+')));

const children: ChildProcessWithoutNullStreams[] = [];
afterEach(() => {
  for (const c of children.splice(0)) c.kill('SIGKILL');
});

async function program(): Promise<{ child: ChildProcessWithoutNullStreams; facts: Facts }> {
  const child = spawn(join(SHIM, 'reach-client'));
  children.push(child);
  return { child, facts: JSON.parse(String((await once(child.stdout, 'data'))[0])) as Facts };
}

/** A program that has written a secret to all places. */
async function shown() {
  const { child, facts } = await program();
  const secret = randomBytes(16);
  child.stdin.write(secret);
  await once(child.stdout, 'data');
  const files = new ReachedFiles();
  const prove = (at: number) => ProcessReach.prove(facts.pid, at, secret, files);
  return { child, facts, secret, files, prove };
}

const text = (bytes: Uint8Array) => Buffer.from(bytes).toString('latin1');
const opened = () => readdirSync('/proc/self/fd').length;

describe.runIf(compiler)('a process that devices reach', () => {
  beforeAll(() => void execFileSync('make', ['-s', '-C', SHIM, 'reach-client']), 120_000);

  test('shows itself in memory that nobody else can write, and nowhere else', async () => {
    const { facts, prove, secret } = await shown();
    const before = opened();
    expect(prove(facts.shared)).toBeNull();
    expect(prove(facts.copied)).toBeNull();
    for (const at of [0, 4096, 2 ** 47, 2 ** 63, 2 ** 64]) expect(prove(at)).toBeNull();
    expect(opened()).toBe(before);
    const reach = prove(facts.own);
    const read = new Uint8Array(16);
    expect(reach?.read(facts.own, read, 0, 16)).toBe(true);
    expect([...read]).toEqual([...secret]);
    reach?.close();
    expect(opened()).toBe(before);
  });

  test('is never the server itself', () => {
    // A buffer of this process that is large enough to have a mapping, full of the secret.
    const secret = randomBytes(16);
    const bytes = 64 << 20;
    const mine = Buffer.alloc(bytes, secret);
    const mem = openSync('/proc/self/mem', 'r');
    const found: number[] = [];
    for (const line of readFileSync('/proc/self/maps', 'latin1').split('\n')) {
      const m = /^([0-9a-f]+)-([0-9a-f]+) rw-p/.exec(line);
      const [from, to] = m === null ? [0, 0] : [Number.parseInt(m[1]!, 16), Number.parseInt(m[2]!, 16)];
      for (let at = from + (bytes >>> 1); at < to; at += bytes >>> 1) {
        const there = Buffer.alloc(16);
        readSync(mem, there, 0, 16, at);
        if (there.equals(secret)) found.push(at);
      }
    }
    closeSync(mem);
    expect(found.length).toBeGreaterThan(0);
    expect(ProcessReach.prove(process.pid, found[0]!, secret, new ReachedFiles())).toBeNull();
    expect(mine[0]).toBe(secret[0]);
  });

  test('gives the files that it told of, as far as it may use them itself', async () => {
    const { facts, prove, files } = await shown();
    const { both, only } = facts;
    const reach = prove(facts.own)!;
    const into = new Uint8Array(13);
    const from = Buffer.from('OVERWRITTEN');
    expect(reach.writeFile(both.fd, both.identity, 100, from, 0, 11)).toBe(true);
    expect(reach.readFile(both.fd, both.identity, 100, into, 0, 11)).toBe(true);
    expect(text(into.subarray(0, 11))).toBe('OVERWRITTEN');
    expect(reach.readFile(only.fd, only.identity, 0, into, 0, 10)).toBe(true);
    expect(text(into.subarray(0, 10))).toBe('to be read');
    expect(reach.writeFile(only.fd, only.identity, 0, from, 0, 11)).toBe(false);
    // Another file under a number that is known, another device, and no file at all.
    const inode = both.identity.split(':')[1]!;
    for (const other of [only.identity, `0:${inode}`, `${2 ** 20}:${inode}`, `1${both.identity}`, inode]) {
      expect(reach.readFile(both.fd, other, 0, into, 0, 4)).toBe(false);
      expect(reach.writeFile(both.fd, other, 0, from, 0, 4)).toBe(false);
    }
    expect(reach.readFile(0, both.identity, 0, into, 0, 4)).toBe(false);
    expect(reach.readFile(77, both.identity, 0, into, 0, 4)).toBe(false);
    // What failed is tried again.
    expect(reach.readFile(both.fd, both.identity, 100, into, 0, 11)).toBe(true);
    reach.close();
    expect(files.size).toBe(0);
    expect(reach.readFile(both.fd, both.identity, 100, into, 0, 11)).toBe(false);
  });

  test('does not make the server wait for a lease', async () => {
    const { facts, prove } = await shown();
    expect(facts.lease).toBe(0);
    const reach = prove(facts.own)!;
    const began = performance.now();
    const { fd, identity } = facts.leased;
    expect(reach.readFile(fd, identity, 0, new Uint8Array(4), 0, 4)).toBe(false);
    expect(performance.now() - began).toBeLessThan(1000);
    reach.close();
  });

  test('has as many files open as there may be, whoever holds them', async () => {
    const { facts, secret } = await shown();
    const files = new ReachedFiles(2);
    const into = new Uint8Array(4);
    const before = opened();
    const reaches = [1, 2, 3].map(() => ProcessReach.prove(facts.pid, facts.own, secret, files)!);
    for (let i = 0; i < 12; i++) {
      const { fd, identity } = i % 2 === 0 ? facts.both : facts.only;
      expect(reaches[i % 3]!.readFile(fd, identity, 0, into, 0, 4)).toBe(true);
      expect(files.size).toBeLessThanOrEqual(2);
    }
    for (const r of reaches) r.close();
    expect([files.size, opened()]).toEqual([0, before]);
  });

  test.runIf(numbers)('is not another process that has got its number', async () => {
    const { child, facts, prove } = await shown();
    const reach = prove(facts.own)!;
    child.kill('SIGKILL');
    await ended(child);
    let next: Facts | null = null;
    for (let i = 0; i < 200 && next?.pid !== facts.pid; i++) {
      writeFileSync(LAST_PID, String(facts.pid - 1));
      next = (await program()).facts;
    }
    expect(next?.pid).toBe(facts.pid);
    const { fd, identity } = next!.both;
    const into = new Uint8Array(4);
    expect(reach.readFile(fd, identity, 0, into, 0, 4)).toBe(false);
    expect(reach.writeFile(fd, identity, 0, into, 0, 4)).toBe(false);
    expect(reach.read(next!.own, into, 0, 4)).toBe(false);
    reach.close();
  });
});
