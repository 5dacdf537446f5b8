import { unlinkSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { MessageChannel, Worker } from 'node:worker_threads';
import type { Release } from './backend.ts';
import { FRAME, FrameReader } from './frames.ts';
import type { KernelThreadData, ReplyMessage, ToKernel, ToSocket } from './messages.ts';

/** What an iommufd server runs and where it listens. */
export interface IommufdServerOptions {
  /** Path of the Unix socket; a stale one is replaced. */
  readonly path: string;
  /** One of BACKENDS. */
  readonly backend: string;
  /** Whose test driver the mock is (default 7.2). */
  readonly release?: Release;
  /** Milliseconds a client may take to answer while its ioctl runs (default 10,000). Others wait meanwhile. */
  readonly patience?: number;
}

interface Peer {
  readonly socket: Socket;
  readonly reader: FrameReader;
  /** A request is being worked on: nothing but REPLY may come. */
  busy: boolean;
}

const PATIENCE = 10_000;

/**
 * Serves /dev/iommu (and VFIO cdevs) over a Unix socket. This thread moves frames; the kernel runs in a worker, which sleeps
 * while it waits for a client's memory, so that the kernel itself stays synchronous. A client that breaks the protocol, goes
 * away or falls silent loses its connection, and with it everything it made; the others do not notice.
 */
export class IommufdServer {
  readonly #server: Server;
  readonly #worker: Worker;
  readonly #replies: MessageChannel;
  readonly #signal = new Int32Array(new SharedArrayBuffer(4));
  readonly #peers = new Map<number, Peer>();
  readonly #expected = new Set<number>();
  readonly #path: string;
  #next = 1;
  /** The kernel thread died: why. It is a bug; the owner of the server decides what becomes of it. */
  onFailure: ((error: Error) => void) | null = null;

  constructor(options: IommufdServerOptions) {
    this.#path = options.path;
    this.#replies = new MessageChannel();
    const data: KernelThreadData = {
      backend: options.backend,
      release: options.release ?? '7.2',
      replies: this.#replies.port2,
      signal: this.#signal.buffer as SharedArrayBuffer,
      patience: options.patience ?? PATIENCE,
    };
    this.#worker = new Worker(new URL('./kernel-thread.js', import.meta.url), {
      workerData: data,
      transferList: [this.#replies.port2],
    });
    this.#worker.on('message', (m: ToSocket) => this.#fromKernel(m));
    this.#worker.on('error', (e) => this.onFailure?.(e));
    this.#server = createServer((socket) => this.#accept(socket));
  }

  /** Starts listening. @throws the system's error (EADDRINUSE: somebody serves there). */
  async listen(): Promise<void> {
    try {
      unlinkSync(this.#path);
    } catch {
      // Nothing was there.
    }
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(this.#path, () => resolve());
    });
  }

  /** Stops listening and disconnects every client; resolves when the socket is gone. */
  async close(): Promise<void> {
    for (const p of this.#peers.values()) p.socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#replies.port1.close();
    await this.#worker.terminate();
  }

  #post(m: ToKernel): void {
    this.#worker.postMessage(m);
  }

  #reply(m: ReplyMessage): void {
    this.#replies.port1.postMessage(m);
    Atomics.add(this.#signal, 0, 1);
    Atomics.notify(this.#signal, 0);
  }

  #accept(socket: Socket): void {
    const connection = this.#next++;
    const peer: Peer = { socket, reader: new FrameReader(), busy: false };
    this.#peers.set(connection, peer);
    socket.on('data', (chunk) => this.#data(connection, peer, chunk));
    // A broken pipe is a client that went away; `close` follows.
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.#closed(connection, peer));
  }

  #closed(connection: number, peer: Peer): void {
    this.#peers.delete(connection);
    if (peer.busy) this.#reply({ connection, payload: null });
    this.#post({ what: 'closed', connection });
  }

  #data(connection: number, peer: Peer, chunk: Buffer): void {
    const frames = peer.reader.take(chunk);
    if (frames === null) {
      peer.socket.destroy();
      return;
    }
    for (const { type, payload } of frames) {
      if (peer.busy !== (type === FRAME.REPLY)) {
        peer.socket.destroy();
        return;
      }
      if (type === FRAME.REPLY) {
        this.#reply({ connection, payload: new Uint8Array(payload) });
      } else if (type === FRAME.HELLO) {
        if (!this.#hello(connection, peer, payload)) return;
      } else {
        peer.busy = true;
        this.#post({ what: 'request', connection, type, payload: new Uint8Array(payload) });
      }
    }
  }

  /** The kernel thread sleeps while its client dials, so the welcome comes from here. */
  #hello(connection: number, peer: Peer, payload: Buffer): boolean {
    const token = payload.length === 4 ? payload.readUInt32LE(0) : 0;
    if (!this.#expected.delete(token)) {
      peer.socket.destroy();
      return false;
    }
    this.#post({ what: 'hello', connection, token });
    peer.socket.write(Buffer.of(1));
    return true;
  }

  #fromKernel(m: ToSocket): void {
    if (m.what === 'expect') {
      this.#expected.add(m.token);
      return;
    }
    const peer = this.#peers.get(m.connection);
    if (peer === undefined) {
      // A question to a client that is gone: the kernel thread must not wait for it.
      if (m.what === 'send' && m.bytes[4] !== FRAME.RET) this.#reply({ connection: m.connection, payload: null });
      return;
    }
    if (m.what === 'drop') {
      peer.socket.destroy();
      return;
    }
    if (m.bytes[4] === FRAME.RET) peer.busy = false;
    peer.socket.write(m.bytes);
  }
}
