import { connect, type Socket } from 'node:net';
import { ViommuError } from '../../src/core/errors.ts';

/** A connection to QEMU's monitor (QMP). */
export class Qmp {
  readonly #socket: Socket;
  #text = '';
  readonly #answers: { resolve(answer: unknown): void; reject(error: Error): void }[] = [];
  #closed = false;
  readonly #events: { event: string; data?: { device?: string } }[] = [];
  #wake: (() => void) | null = null;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding('utf8').on('data', (text: string) => this.#hear(text));
    socket.on('error', () => {});
    socket.on('close', () => this.#end());
  }

  /** @param path QEMU's `-qmp unix:PATH,server=on,wait=off`; it is tried until QEMU listens. */
  static async open(path: string): Promise<Qmp> {
    for (let tries = 0; ; tries++) {
      try {
        const socket = await new Promise<Socket>((resolve, reject) => {
          const s = connect(path, () => resolve(s));
          s.once('error', reject);
        });
        const qmp = new Qmp(socket);
        await qmp.run('qmp_capabilities');
        return qmp;
      } catch (e) {
        if (tries === 100) throw e;
        await new Promise((later) => setTimeout(later, 100));
      }
    }
  }

  #hear(text: string): void {
    this.#text += text;
    const lines = this.#text.split('\n');
    this.#text = lines.pop() ?? '';
    for (const line of lines) {
      const said = JSON.parse(line) as { return?: unknown; error?: { desc: string }; event?: string };
      if (said.event !== undefined) {
        this.#events.push(said as { event: string });
        this.#wake?.();
      } else if (said.return !== undefined || said.error !== undefined) this.#answers.shift()?.resolve(said);
    }
  }

  /** QEMU has ended, or was left: nobody answers any more. */
  #end(): void {
    this.#closed = true;
    for (const { reject } of this.#answers.splice(0)) reject(new ViommuError('EIO', 'caller', 'QEMU: it has ended'));
    this.#wake?.();
  }

  /** Runs a command. @throws ViommuError `EIO` what QEMU says against it, or that it has ended. */
  async run(execute: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    if (this.#closed) throw new ViommuError('EIO', 'caller', `QEMU: ${execute}: it has ended`);
    const answer = new Promise<unknown>((resolve, reject) => this.#answers.push({ resolve, reject }));
    this.#socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    const said = (await answer) as { return?: unknown; error?: { desc: string } };
    if (said.error !== undefined) throw new ViommuError('EIO', 'caller', `QEMU: ${execute}: ${said.error.desc}`);
    return said.return;
  }

  /**
   * Waits for an event that was not waited for before. @param device the id of a device, where the event has one.
   * @returns false: it did not come in time, or QEMU has ended.
   */
  async event(name: string, device: string | null = null, milliseconds = 30_000): Promise<boolean> {
    const end = Date.now() + milliseconds;
    for (;;) {
      const at = this.#events.findIndex((e) => e.event === name && (device === null || e.data?.device === device));
      if (at >= 0) {
        this.#events.splice(at, 1);
        return true;
      }
      if (this.#closed || Date.now() >= end) return false;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 200);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  close(): void {
    this.#socket.destroy();
  }
}
