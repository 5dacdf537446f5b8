import { type ChildProcess, spawn } from 'node:child_process';
import { Console, type Guest } from './console.ts';

/** A guest under QEMU, driven over its serial console. */
export class QemuGuest implements Guest {
  readonly console = new Console();
  readonly #process: ChildProcess;
  readonly #exit: Promise<number>;

  /** @param environment variables besides those of this process. */
  constructor(command: string, args: readonly string[], environment: Readonly<Record<string, string>> = {}) {
    const env = { ...process.env, ...environment };
    this.#process = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], env });
    const hear = (data: Buffer) => this.console.feed(data.toString('latin1'));
    this.#process.stdout!.on('data', hear);
    this.#process.stderr!.on('data', hear);
    this.#exit = new Promise((resolve) => {
      this.#process.on('error', (e) => {
        this.console.end(e.message);
        resolve(-1);
      });
      this.#process.on('close', (code, signal) => {
        this.console.end(signal === null ? `exit status ${code}` : `signal ${signal}`);
        resolve(code ?? -1);
      });
    });
  }

  send(command: string): void {
    this.#process.stdin!.write(`${command}\n`);
  }

  /** Ends QEMU if it is still there. @returns its exit status. */
  async stop(): Promise<number> {
    if (!this.console.ended) this.#process.kill('SIGTERM');
    return this.#exit;
  }

  /** Waits for QEMU to end by itself. */
  ended(): Promise<number> {
    return this.#exit;
  }
}
