import { randomBytes } from 'node:crypto';
import type { EventSignal } from '../../host/ioctl/caller.ts';
import { FRAME, frame, SECRET_BYTES } from './frames.ts';
import { ProcessReach } from './process-reach.ts';

/** The connection on which a process attends. */
export interface AttendantLine {
  readonly alive: boolean;
  /** Bytes that the client has not taken yet. */
  readonly unread: number;
  /** Sends something that is not an answer. */
  tell(bytes: Buffer): void;
}

/** Bytes of signals that may wait in a client's socket: while there are more, further ones are added up. */
const MOST_UNREAD = 4096;

/**
 * A process of a client that attends to its devices: a thread of it listens on this connection, adds to eventfds for the
 * server, and has shown that the process is the one it says it is. Signals of one turn go out as one frame, and those of one
 * eventfd that has not been told yet are one.
 */
export class Attendant {
  readonly pid: number;
  /** Its memory; null: not shown to be its own (yet). */
  reach: ProcessReach | null = null;
  readonly #connection: AttendantLine;
  readonly #address: number;
  readonly #secret = randomBytes(SECRET_BYTES);
  readonly #due = new Set<number>();
  #scheduled = false;

  constructor(connection: AttendantLine, pid: number, address: number) {
    this.#connection = connection;
    this.pid = pid;
    this.#address = address;
  }

  /** What the process has to write into its memory. */
  get secret(): Uint8Array {
    return this.#secret;
  }

  /** The process says that it has written the secret. @returns false: it is not there. */
  prove(): boolean {
    this.reach ??= ProcessReach.prove(this.pid, this.#address, this.#secret);
    return this.reach !== null;
  }

  /** An eventfd that the process keeps under this number for the server. */
  eventFd(handle: number): EventSignal {
    let held = true;
    return {
      signal: () => {
        if (held) this.#signal(handle);
      },
      release: () => {
        if (!held) return;
        held = false;
        this.#flush();
        if (this.#connection.alive) this.#connection.tell(frame(FRAME.DROP, word(handle)));
      },
    };
  }

  #signal(handle: number): void {
    this.#due.add(handle);
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => this.#turn());
  }

  #turn(): void {
    this.#scheduled = false;
    if (this.#connection.alive && this.#connection.unread > MOST_UNREAD) {
      this.#scheduled = true;
      setTimeout(() => this.#turn(), 1).unref();
      return;
    }
    this.#flush();
  }

  #flush(): void {
    if (this.#due.size === 0) return;
    const handles = [...this.#due];
    this.#due.clear();
    if (this.#connection.alive) this.#connection.tell(frame(FRAME.SIGNAL, ...handles.map(word)));
  }

  /** The connection is over. */
  close(): void {
    this.reach?.close();
    this.reach = null;
  }
}

function word(value: number): Buffer {
  const b = Buffer.alloc(4);
  b.writeInt32LE(value, 0);
  return b;
}
