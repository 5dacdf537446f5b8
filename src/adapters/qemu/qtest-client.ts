import { createServer, type Server, type Socket } from 'node:net';
import { ViommuError } from '../../core/errors.ts';
import { listenAt } from './listen.ts';

/**
 * The client side of QEMU's qtest socket beside a running guest (`-qtest unix:PATH` together with `-accel tcg`): bus writes
 * from outside, which is how interrupts reach the guest (a store to the interrupt controller's doorbell).
 */
export class QtestClient {
  readonly #server: Server;
  #socket: Socket | null = null;
  #waiting: ((line: string) => void)[] = [];
  #early: string[] = [];
  #text = '';

  constructor() {
    this.#server = createServer((s) => this.#accept(s));
  }

  /** Listens at `path`; resolves once QEMU may be started. */
  listen(path: string): Promise<void> {
    return listenAt(this.#server, path);
  }

  #accept(socket: Socket): void {
    this.#socket = socket;
    socket.on('data', (data) => {
      this.#text += data.toString('latin1');
      for (let end = this.#text.indexOf('\n'); end >= 0; end = this.#text.indexOf('\n')) {
        const line = this.#text.slice(0, end).trim();
        this.#text = this.#text.slice(end + 1);
        if (line !== '' && !line.startsWith('IRQ ')) this.#waiting.shift()?.(line);
      }
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#socket = null;
    });
    for (const line of this.#early) socket.write(line);
    this.#early = [];
  }

  /**
   * A 4-byte bus write; requests are sent in order, so callers need not wait.
   * @returns when QEMU has answered. @throws ViommuError `EIO` for an answer that is not OK.
   */
  writel(address: number, value: number): Promise<void> {
    const line = `writel 0x${address.toString(16)} 0x${(value >>> 0).toString(16)}\n`;
    if (this.#socket === null) this.#early.push(line);
    else this.#socket.write(line);
    return new Promise((resolve, reject) => {
      this.#waiting.push((answer) => {
        if (answer.startsWith('OK')) resolve();
        else reject(new ViommuError('EIO', 'host', `QEMU answered ${answer} to ${line.trim()}`));
      });
    });
  }

  /** Stops listening and disconnects. */
  close(): void {
    this.#socket?.destroy();
    this.#server.close();
  }
}
