import { createServer, type Server, type Socket } from 'node:net';
import { listenAt } from './listen.ts';

/** One store of a vCPU into the window; the vCPU waits until the handler has returned. */
export type StoreHandler = (offset: number, size: number, lo: number, hi: number) => void;

const STORE_BYTES = 24;
const ACK = Uint8Array.of(1);

/** The other end of the trap plugin's socket: stores come in one at a time, each is answered with one byte. */
export class TrapServer {
  /** Stores seen. */
  count = 0;
  readonly #server: Server;
  readonly #handler: StoreHandler;
  #sockets = new Set<Socket>();

  constructor(handler: StoreHandler) {
    this.#handler = handler;
    this.#server = createServer((s) => this.#accept(s));
  }

  /** Listens at `path`; a stale socket file there is replaced. */
  listen(path: string): Promise<void> {
    return listenAt(this.#server, path);
  }

  #accept(socket: Socket): void {
    this.#sockets.add(socket);
    let rest: Buffer = Buffer.alloc(0);
    socket.on('data', (data) => {
      rest = rest.length === 0 ? data : Buffer.concat([rest, data]);
      let at = 0;
      for (; at + STORE_BYTES <= rest.length; at += STORE_BYTES) {
        this.count++;
        // The offset is inside a window below 4 GiB: its high half is zero.
        this.#handler(
          rest.readUInt32LE(at),
          rest.readUInt32LE(at + 16),
          rest.readInt32LE(at + 8),
          rest.readInt32LE(at + 12),
        );
        socket.write(ACK);
      }
      rest = rest.subarray(at);
    });
    const gone = () => this.#sockets.delete(socket);
    socket.on('close', gone);
    socket.on('error', gone);
  }

  /** Stops listening and disconnects. */
  close(): void {
    for (const s of this.#sockets) s.destroy();
    this.#server.close();
  }
}
