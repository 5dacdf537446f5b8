import type { Socket } from 'node:net';
import type { Attendant } from './attendant.ts';
import { FRAME, type Frame, FrameReader, frame, IOCTL_HEAD, SECRET_BYTES } from './frames.ts';
import { MAX_PREFETCH, MAX_WRITE, type ServerLimits } from './limits.ts';
import type { OpenFile } from './open-files.ts';
import type { Session } from './session.ts';

/** Most bytes of the path in OPEN: PATH_MAX. */
const MAX_PATH = 4096;

/** Most bytes of each frame that may come first. */
const FIRST: Readonly<Record<number, number>> = {
  [FRAME.OPEN]: SECRET_BYTES + MAX_PATH,
  [FRAME.HELLO]: 2 * SECRET_BYTES,
  [FRAME.JOIN]: 2 * SECRET_BYTES,
  [FRAME.ATTEND]: SECRET_BYTES + 12,
};

/** Most bytes of each request. */
const REQUESTS: Readonly<Record<number, number>> = {
  [FRAME.IOCTL]: IOCTL_HEAD + MAX_PREFETCH,
  [FRAME.READ]: 4,
  [FRAME.WRITE]: MAX_WRITE,
  [FRAME.POLL]: 0,
  [FRAME.MMAP]: 24,
  [FRAME.MUNMAP]: 8,
  [FRAME.PREAD]: 12,
  [FRAME.PWRITE]: 8 + MAX_WRITE,
  [FRAME.ADOPT]: SECRET_BYTES,
  [FRAME.CLOSE]: 0,
  [FRAME.PROCESS]: 4,
  [FRAME.FAIL_NTH]: 8,
  [FRAME.GROUP]: 64,
  [FRAME.PROVE]: 0,
  [FRAME.SYSFS]: 0,
};

/** Bit of `KernelFile.poll`. */
const READABLE = 1;

/** What all connections share. */
export interface Together {
  readonly limits: ServerLimits;
  /** Bytes of frames that are not complete. */
  pendingBytes: number;
  /** Bytes have come that may be a frame. */
  readable(c: Connection): void;
  /** The client went away, or was sent away. Called once. */
  gone(c: Connection): void;
}

/** Bytes of whole frames that are read from a client before they are looked at. */
export const READ_AHEAD = 65_536;

/** Reads the answer to a question: its rc and data. */
export type Continuation = (rc: number, data: Buffer) => void;

/** A connection of a client. What it may send depends on what was sent before; whoever does otherwise is sent away. */
export class Connection {
  session: Session | null = null;
  /** By this WHICH, JOIN and HELLO name it. */
  token = '';
  open: OpenFile | null = null;
  /** Of a process that attends to its devices. */
  attendant: Attendant | null = null;
  /** Stops listening to the open file. */
  unlisten: (() => void) | null = null;
  readonly #socket: Socket;
  readonly #together: Together;
  readonly #reader = new FrameReader((type) => this.#limit(type));
  #introduced = false;
  #waits: Continuation | null = null;
  #replyBytes = 0;
  #timer: NodeJS.Timeout | null = null;
  #alive = true;
  /** A request takes several turns: what comes meanwhile waits. */
  #busy = false;
  #announced = false;

  constructor(socket: Socket, together: Together) {
    this.#socket = socket;
    this.#together = together;
    socket.on('data', (chunk) => this.#data(chunk));
    // A broken pipe is a client that went away; the end of the stream is its last close.
    socket.on('error', () => this.destroy());
    socket.on('end', () => this.destroy());
    socket.on('close', () => this.destroy());
    this.#watch();
  }

  get alive(): boolean {
    return this.#alive;
  }

  /** Something has come that has not been looked at. */
  get holdsBytes(): boolean {
    return this.#reader.held > 0;
  }

  #limit(type: number): number {
    if (this.#waits !== null) return type === FRAME.REPLY ? 4 + this.#replyBytes : -1;
    return (this.#introduced ? REQUESTS : FIRST)[type] ?? -1;
  }

  #data(chunk: Buffer): void {
    if (!this.#alive) return;
    this.#reader.push(chunk);
    this.#together.pendingBytes += chunk.length;
    if (this.#together.pendingBytes > this.#together.limits.pendingBytes) {
      this.destroy();
      return;
    }
    // Whoever sends faster than it is served waits in its own socket.
    if (this.#reader.held > READ_AHEAD && this.#reader.ready) this.#socket.pause();
    this.#together.readable(this);
  }

  /** The next frame; null: it has not come yet. Breaking the rules ends the connection. */
  next(): Frame | null {
    if (!this.#alive || this.#busy) return null;
    const held = this.#reader.held;
    const f = this.#reader.next();
    this.#together.pendingBytes -= held - this.#reader.held;
    if (f === 'broken') {
      this.destroy();
      return null;
    }
    if (this.#socket.isPaused() && !this.#reader.ready) this.#socket.resume();
    this.#watch();
    return f;
  }

  /** Patience begins anew whenever something comes; a client that owes nothing may take its time. */
  #watch(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#introduced && this.#waits === null && this.#reader.held === 0) return;
    this.#timer = setTimeout(() => this.destroy(), this.#together.limits.patience);
  }

  /** Asks a question. @param bytes the most the answer's data may have. */
  ask(question: Buffer, bytes: number, answer: Continuation): void {
    this.#waits = answer;
    this.#replyBytes = bytes;
    this.#watch();
    this.#write(question);
  }

  /** A REPLY has come. @returns what waits for it; null: nobody does. */
  takeContinuation(): Continuation | null {
    const waits = this.#waits;
    this.#waits = null;
    this.#watch();
    return waits;
  }

  /** The request goes on later: until its answer no other is looked at. */
  goesOn(): void {
    this.#busy = true;
  }

  /** Ends a request. */
  answer(ret: Buffer): void {
    if (this.#busy) {
      this.#busy = false;
      if (this.holdsBytes) this.#together.readable(this);
    }
    this.#introduced = true;
    this.#watch();
    this.#write(ret);
    this.#announced = false;
    this.announce();
  }

  /**
   * Says on an event queue's connection that there is something to read, once until the next answer: so the descriptor is
   * readable for whoever polls it. Every answer takes the word back, and it is said again if it still holds.
   */
  announce(): void {
    const file = this.open?.file;
    if (this.#announced || this.#waits !== null || file?.onReadable === undefined) return;
    if (((file.poll?.() ?? 0) & READABLE) === 0) return;
    this.#announced = true;
    this.#write(frame(FRAME.READY));
  }

  /** The file is this connection's from now on. */
  listenTo(file: OpenFile): void {
    this.unlisten?.();
    this.open = file;
    this.unlisten = file.listen(() => this.announce());
  }

  /** Something that is not an answer. */
  tell(bytes: Buffer): void {
    this.#write(bytes);
  }
  /** Bytes that the client has not taken yet. */
  get unread(): number {
    return this.#socket.writableLength;
  }

  #write(bytes: Buffer): void {
    if (!this.#alive) return;
    this.#socket.write(bytes);
    if (this.#socket.writableLength > this.#together.limits.unreadBytes) this.destroy();
  }

  destroy(): void {
    if (!this.#alive) return;
    this.#alive = false;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#together.pendingBytes -= this.#reader.held;
    this.#waits = null;
    this.#socket.destroy();
    this.#together.gone(this);
  }
}
