import { type ChildProcess, spawn } from 'node:child_process';
import { ViommuError } from '../../src/core/errors.ts';

/** A guest under QEMU, driven over its serial console: lines out, commands in. */
export class LiveGuest {
  /** Everything the console said. */
  readonly lines: string[] = [];
  /** Hears every console line. */
  onLine: ((line: string) => void) | null = null;
  readonly #process: ChildProcess;
  #rest = '';
  #seen = 0;
  #wake: (() => void) | null = null;
  #ended: string | null = null;
  readonly #exit: Promise<number>;

  constructor(command: string, args: readonly string[]) {
    this.#process = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    const hear = (data: Buffer) => {
      this.#rest += data.toString('latin1');
      const parts = this.#rest.split(/\r*\n/);
      this.#rest = parts.pop() ?? '';
      for (const line of parts) {
        this.lines.push(line);
        this.onLine?.(line);
      }
      this.#wake?.();
    };
    this.#process.stdout!.on('data', hear);
    this.#process.stderr!.on('data', hear);
    this.#exit = new Promise((resolve) => {
      this.#process.on('error', (e) => {
        this.#ended = e.message;
        this.#wake?.();
        resolve(-1);
      });
      this.#process.on('close', (code, signal) => {
        this.#ended = signal === null ? `exit status ${code}` : `signal ${signal}`;
        this.#wake?.();
        resolve(code ?? -1);
      });
    });
  }

  send(command: string): void {
    this.#process.stdin!.write(`${command}\n`);
  }

  /**
   * Waits for a line that was not waited for before.
   * @throws ViommuError `EIO` when it does not come in time, or QEMU ends first; the last lines are in the message.
   */
  async expect(pattern: RegExp, milliseconds = 30_000): Promise<string> {
    const end = Date.now() + milliseconds;
    for (;;) {
      while (this.#seen < this.lines.length) {
        const line = this.lines[this.#seen++]!;
        if (pattern.test(line)) return line;
      }
      const left = end - Date.now();
      if (this.#ended !== null || left <= 0) {
        const why = this.#ended === null ? `nothing in ${milliseconds} ms` : `QEMU ended (${this.#ended})`;
        throw new ViommuError(
          'EIO',
          'guest',
          `waited for ${pattern}: ${why}; last lines:\n${this.lines.slice(-12).join('\n')}`,
        );
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, Math.min(left, 1000));
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.#wake = null;
    }
  }

  /** Sends a command of the guest's init and waits for its answer. */
  ask(command: string, answer: RegExp, milliseconds?: number): Promise<string> {
    this.send(command);
    return this.expect(answer, milliseconds);
  }

  /** Ends QEMU if it is still there. @returns its exit status. */
  async stop(): Promise<number> {
    if (this.#ended === null) this.#process.kill('SIGTERM');
    return this.#exit;
  }

  /** Waits for QEMU to end by itself. */
  ended(): Promise<number> {
    return this.#exit;
  }
}
