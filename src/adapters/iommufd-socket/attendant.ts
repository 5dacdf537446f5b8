import { randomBytes } from 'node:crypto';
import type { EventSignal } from '../../host/ioctl/caller.ts';
import type { Afterwards } from './afterwards.ts';
import { FRAME, frame, SECRET_BYTES } from './frames.ts';
import { ProcessReach } from './process-reach.ts';
import type { ReachedFiles } from './reached-files.ts';

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
  /** How often the server holds each eventfd: a program may give one for several interrupts. */
  readonly #holds = new Map<number, number>();
  readonly #afterwards: Afterwards;
  #scheduled = false;

  constructor(connection: AttendantLine, pid: number, address: number, afterwards: Afterwards) {
    this.#afterwards = afterwards;
    this.#connection = connection;
    this.pid = pid;
    this.#address = address;
  }

  /** What the process has to write into its memory. */
  get secret(): Uint8Array {
    return this.#secret;
  }

  /** The process says that it has written the secret. @returns false: it is not there. */
  prove(files: ReachedFiles): boolean {
    this.reach ??= ProcessReach.prove(this.pid, this.#address, this.#secret, files);
    return this.reach !== null;
  }

  /** Whether the server holds an eventfd. */
  holds(handle: number): boolean {
    return this.#holds.has(handle);
  }

  /**
   * An eventfd that the process keeps under this number for the server, once more. The process is told to close it when the
   * last hold ends. @param kept asked then; false: whoever asked for the eventfd sees to it that it is closed.
   */
  eventFd(handle: number, kept: () => boolean): EventSignal {
    let held = true;
    this.#holds.set(handle, (this.#holds.get(handle) ?? 0) + 1);
    return {
      signal: () => {
        if (held) this.#signal(handle);
      },
      release: () => {
        if (!held) return;
        held = false;
        const left = this.#holds.get(handle)! - 1;
        if (left > 0) this.#holds.set(handle, left);
        else this.#holds.delete(handle);
        if (left > 0 || !kept()) return;
        this.#flush();
        if (this.#connection.alive) this.#connection.tell(frame(FRAME.DROP, word(handle)));
      },
    };
  }

  #signal(handle: number): void {
    this.#due.add(handle);
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#afterwards.soon(() => this.#turn());
  }

  #turn(): void {
    this.#scheduled = false;
    if (this.#connection.alive && this.#connection.unread > MOST_UNREAD) {
      this.#scheduled = true;
      this.#afterwards.after(1, () => this.#turn());
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
