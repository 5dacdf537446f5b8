import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

const PROGRAM = resolve('dist/tools/viommu.js');

/** Servers of a test file, in a directory of their own. */
export class Servers {
  readonly dir: string;
  readonly #running: ChildProcess[] = [];

  constructor() {
    if (!existsSync(PROGRAM)) throw new Error('the program is not built: npm run build');
    this.dir = mkdtempSync(join(tmpdir(), 'viommu-iommufd-'));
  }

  /** Starts the program with these arguments. */
  run(...args: readonly string[]): { readonly child: ChildProcess; readonly said: () => string } {
    const child = spawn(process.execPath, [PROGRAM, 'iommufd', ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
    this.#running.push(child);
    let text = '';
    child.stderr?.setEncoding('utf8').on('data', (t: string) => {
      text += t;
    });
    return { child, said: () => text };
  }

  /** A server that listens. @returns its socket. */
  async serve(name: string, ...args: readonly string[]): Promise<string> {
    const path = join(this.dir, `${name}.sock`);
    const { child, said } = this.run('--socket', path, ...args);
    await new Promise<void>((ready, fail) => {
      child.stderr?.on('data', () => (said().includes(' on ') ? ready() : undefined));
      child.once('exit', (code) => fail(new Error(`the server ended with ${code}: ${said()}`)));
    });
    return path;
  }

  stop(): void {
    for (const child of this.#running) child.kill();
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** How a process ended: its status, or the signal. */
export function ended(child: ChildProcess): Promise<number | string> {
  if (child.exitCode !== null) return Promise.resolve(child.exitCode);
  return new Promise((done) => child.once('exit', (code, signal) => done(code ?? signal ?? '')));
}
