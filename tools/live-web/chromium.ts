import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { ViommuError } from '../../src/core/errors.ts';

const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-background-timer-throttling',
  '--disable-component-update',
  '--disable-sync',
  '--remote-debugging-pipe',
] as const;
const PLACES = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'] as const;

interface Message {
  readonly id?: number;
  readonly method?: string;
  readonly params?: { readonly [name: string]: unknown };
  readonly result?: { readonly [name: string]: unknown };
  readonly error?: { readonly message: string };
}

/** @throws ViommuError `E_MISSING` names the command that installs a Chromium. */
export function chromiumPath(places: readonly string[] = PLACES): string {
  const own = process.env.CHROMIUM;
  const found = [...(own === undefined ? [] : [own]), ...places].find((p) => existsSync(p));
  if (found !== undefined) return found;
  throw new ViommuError(
    'E_MISSING',
    'caller',
    'no Chromium: apt-get install chromium (or set CHROMIUM to one that is installed elsewhere)',
  );
}

/** A headless Chromium with one page, driven through the DevTools protocol over a pipe. */
export class Chromium {
  /** What the page's console and its uncaught errors said. */
  readonly said: string[] = [];
  readonly #process: ChildProcess;
  readonly #folder: string;
  readonly #out: Writable;
  readonly #waiting = new Map<number, { done: (m: Message) => void; failed: (e: Error) => void }>();
  #rest = Buffer.alloc(0);
  #next = 1;
  #session = '';

  private constructor(path: string) {
    this.#folder = mkdtempSync(join(tmpdir(), 'viommu-chromium-'));
    this.#process = spawn(path, [...FLAGS, `--user-data-dir=${this.#folder}`, 'about:blank'], {
      stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
      detached: true,
    });
    this.#out = this.#process.stdio[3] as Writable;
    (this.#process.stdio[4] as Readable).on('data', (data: Buffer) => this.#hear(data));
    this.#out.on('error', () => {});
    const gone = (why: string) => {
      for (const w of this.#waiting.values()) w.failed(new ViommuError('EIO', 'host', `Chromium ended: ${why}`));
      this.#waiting.clear();
    };
    this.#process.on('error', (e) => gone(e.message));
    this.#process.on('exit', (code, signal) => gone(`${signal ?? code}`));
  }

  /** Starts one and opens `address`. @throws ViommuError `E_MISSING`, `EIO`. */
  static async open(address: string): Promise<Chromium> {
    const c = new Chromium(chromiumPath());
    try {
      const { targetId } = (await c.#call('Target.createTarget', { url: 'about:blank' })) as { targetId: string };
      const attached = (await c.#call('Target.attachToTarget', { targetId, flatten: true })) as { sessionId: string };
      c.#session = attached.sessionId;
      await c.#call('Runtime.enable');
      await c.#call('Log.enable');
      await c.#call('Page.enable');
      await c.#call('Page.navigate', { url: address });
      return c;
    } catch (e) {
      await c.close();
      throw e;
    }
  }

  #hear(data: Buffer): void {
    this.#rest = Buffer.concat([this.#rest, data]);
    for (let end = this.#rest.indexOf(0); end >= 0; end = this.#rest.indexOf(0)) {
      const m = JSON.parse(this.#rest.subarray(0, end).toString()) as Message;
      this.#rest = this.#rest.subarray(end + 1);
      if (m.id !== undefined) {
        const w = this.#waiting.get(m.id);
        this.#waiting.delete(m.id);
        if (m.error !== undefined) w?.failed(new ViommuError('EIO', 'host', m.error.message));
        else w?.done(m);
      } else if (m.method === 'Runtime.exceptionThrown' || m.method === 'Log.entryAdded') {
        this.said.push(JSON.stringify(m.params));
      }
    }
  }

  #call(method: string, params: object = {}): Promise<Readonly<Record<string, unknown>>> {
    const id = this.#next++;
    const session = this.#session === '' ? {} : { sessionId: this.#session };
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { done: (m) => resolve(m.result ?? {}), failed: reject });
      this.#out.write(`${JSON.stringify({ id, method, params, ...session })}\0`);
    });
  }

  /** The value of an expression in the page, promises awaited. @throws ViommuError `EIO` when it throws there. */
  async evaluate<T>(expression: string): Promise<T> {
    const answer = (await this.#call('Runtime.evaluate', {
      expression,
      awaitPromise: true,
      returnByValue: true,
    })) as { result?: { value?: T }; exceptionDetails?: { exception?: { description?: string } } };
    if (answer.exceptionDetails !== undefined) {
      throw new ViommuError('EIO', 'guest', answer.exceptionDetails.exception?.description ?? 'the page threw');
    }
    return answer.result?.value as T;
  }

  /** Any command of the DevTools protocol for this page. @throws ViommuError `EIO` what the browser refuses. */
  send(method: string, params: object = {}): Promise<Readonly<Record<string, unknown>>> {
    return this.#call(method, params);
  }

  /** Process ids of the browser, of its helpers by type (`renderer`, `gpu-process`, …). */
  async processes(): Promise<readonly { readonly type: string; readonly id: number }[]> {
    const session = this.#session;
    this.#session = '';
    const asked = this.#call('SystemInfo.getProcessInfo');
    this.#session = session;
    return (await asked).processInfo as readonly { type: string; id: number }[];
  }

  /** A picture of the page, PNG. */
  async picture(): Promise<Uint8Array> {
    const { data } = (await this.#call('Page.captureScreenshot')) as { data: string };
    return Buffer.from(data, 'base64');
  }

  async close(): Promise<void> {
    const gone = new Promise<void>((resolve) => {
      if (this.#process.exitCode !== null || this.#process.signalCode !== null) resolve();
      else this.#process.once('exit', () => resolve());
    });
    this.#session = '';
    this.#call('Browser.close').catch(() => {});
    const timer = setTimeout(() => this.#process.kill('SIGKILL'), 5000);
    await gone;
    clearTimeout(timer);
    this.#endHelpers();
    // Helpers that are just ending may still write their last files.
    for (let i = 0; i < 50; i++) {
      try {
        rmSync(this.#folder, { recursive: true, force: true });
        return;
      } catch {
        await new Promise((r) => setTimeout(r, 100));
      }
    }
  }

  /** The browser's own processes are in one group with it. */
  #endHelpers(): void {
    const { pid } = this.#process;
    if (pid === undefined) return;
    try {
      process.kill(-pid, 'SIGKILL');
    } catch {
      // All of them ended by themselves.
    }
  }
}
