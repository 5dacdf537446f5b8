import { connect, type Socket } from 'node:net';

/** Frame types, as the protocol's description numbers them. */
export const T = {
  IOCTL: 1,
  REPLY: 2,
  HELLO: 3,
  READ: 4,
  WRITE: 5,
  POLL: 6,
  MMAP: 7,
  MUNMAP: 8,
  OPEN: 9,
  RET: 10,
  COPY_IN: 11,
  COPY_OUT: 12,
  NEWFD: 13,
  WHICH: 14,
} as const;

export interface Frame {
  readonly type: number;
  readonly payload: Buffer;
}

export function frame(type: number, payload: Uint8Array = new Uint8Array(0)): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32LE(1 + payload.length, 0);
  head[4] = type;
  return Buffer.concat([head, payload]);
}

/** One connection, frame by frame. `raw` bytes (the welcome of an extra connection) come through `byte`. */
export class Wire {
  readonly socket: Socket;
  #buffer = Buffer.alloc(0);
  #wake: (() => void) | null = null;
  closed = false;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (b: Buffer) => {
      this.#buffer = Buffer.concat([this.#buffer, b]);
      this.#wake?.();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.closed = true;
      this.#wake?.();
    });
  }

  static dial(path: string): Promise<Wire> {
    return new Promise((resolve, reject) => {
      const socket = connect(path);
      socket.once('error', reject);
      socket.once('connect', () => resolve(new Wire(socket)));
    });
  }

  async #until(bytes: number): Promise<boolean> {
    while (this.#buffer.length < bytes && !this.closed) {
      await new Promise<void>((r) => {
        this.#wake = r;
      });
    }
    return this.#buffer.length >= bytes;
  }

  send(type: number, payload?: Uint8Array): void {
    this.socket.write(frame(type, payload));
  }

  /** null: the server hung up. */
  async next(): Promise<Frame | null> {
    if (!(await this.#until(4))) return null;
    const n = this.#buffer.readUInt32LE(0);
    if (!(await this.#until(4 + n))) return null;
    const payload = Buffer.from(this.#buffer.subarray(5, 4 + n));
    const type = this.#buffer[4]!;
    this.#buffer = this.#buffer.subarray(4 + n);
    return { type, payload };
  }

  async byte(): Promise<number> {
    if (!(await this.#until(1))) return -1;
    const b = this.#buffer[0]!;
    this.#buffer = this.#buffer.subarray(1);
    return b;
  }

  async hungUp(): Promise<boolean> {
    while (!this.closed) {
      await new Promise<void>((r) => {
        this.#wake = r;
      });
    }
    return true;
  }
}

/** What a request came to: the result, the data behind it, and what the server asked on the way. */
export interface Answer {
  readonly result: number;
  readonly data: Buffer;
  readonly asked: readonly number[];
}

/** A program: memory the test makes up, and descriptors. It answers the server as the preload library does. */
export class FakeProgram {
  readonly path: string;
  readonly wire: Wire;
  readonly memory = new Uint8Array(0x4000);
  readonly base = 0x4000_0000n;
  writable = this.memory.length;
  readonly extras: Wire[] = [];

  private constructor(path: string, wire: Wire) {
    this.path = path;
    this.wire = wire;
  }

  static async open(path: string): Promise<FakeProgram> {
    return new FakeProgram(path, await Wire.dial(path));
  }

  /** Opens with the OPEN frame. */
  async device(name: string): Promise<Answer> {
    this.wire.send(T.OPEN, Buffer.from(name));
    return this.serve();
  }

  put(at: number, ...words: readonly (number | bigint)[]): bigint {
    const view = new DataView(this.memory.buffer);
    let o = at;
    for (const w of words) {
      if (typeof w === 'bigint') view.setBigUint64(o, w, true);
      else view.setUint32(o, w, true);
      o += typeof w === 'bigint' ? 8 : 4;
    }
    return this.base + BigInt(at);
  }
  u32(at: number): number {
    return new DataView(this.memory.buffer).getUint32(at, true);
  }

  sendIoctl(request: number, arg: bigint, pid = process.pid): void {
    const p = Buffer.alloc(16);
    p.writeUInt32LE(pid, 0);
    p.writeUInt32LE(request, 4);
    p.writeBigUInt64LE(arg, 8);
    this.wire.send(T.IOCTL, p);
  }

  async ioctl(request: number, arg: bigint): Promise<Answer> {
    this.sendIoctl(request, arg);
    return this.serve();
  }

  /** Answers until RET. @param refuse says which question is not answered: the function returns there. */
  async serve(refuse: (f: Frame) => boolean = () => false): Promise<Answer> {
    const asked: number[] = [];
    for (;;) {
      const f = await this.wire.next();
      if (f === null) return { result: Number.NaN, data: Buffer.alloc(0), asked };
      if (f.type === T.RET) {
        return { result: Number(f.payload.readBigInt64LE(0)), data: f.payload.subarray(8), asked };
      }
      asked.push(f.type);
      if (refuse(f)) return { result: Number.NaN, data: f.payload, asked };
      await this.#answer(f);
    }
  }

  async #answer(f: Frame): Promise<void> {
    const rc = Buffer.alloc(4);
    let data: Uint8Array = new Uint8Array(0);
    if (f.type === T.COPY_IN) {
      const at = Number(f.payload.readBigUInt64LE(4) - this.base);
      const n = f.payload.readUInt32LE(12);
      if (at < 0 || at + n > this.memory.length) rc.writeInt32LE(-14);
      else data = this.memory.slice(at, at + n);
    } else if (f.type === T.COPY_OUT) {
      const at = Number(f.payload.readBigUInt64LE(4) - this.base);
      const bytes = f.payload.subarray(12);
      if (at < 0 || at + bytes.length > this.writable) rc.writeInt32LE(-14);
      else this.memory.set(bytes, at);
    } else if (f.type === T.NEWFD) {
      const w = await Wire.dial(this.path);
      w.send(T.HELLO, f.payload.subarray(0, 4));
      if ((await w.byte()) < 0) throw new Error('not welcome');
      rc.writeInt32LE(100 + this.extras.push(w) - 1);
    }
    this.wire.send(T.REPLY, Buffer.concat([rc, data]));
  }
}
