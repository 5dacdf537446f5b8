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
  MAPS: 12,
  NEWFD: 13,
  WHICH: 14,
  JOIN: 15,
  ADOPT: 16,
  CLOSE: 17,
  FILE: 18,
  COPY_FILE: 19,
  PREAD: 20,
  PWRITE: 21,
  PROCESS: 22,
  FAIL_NTH: 23,
  GROUP: 24,
  EVENTFD: 25,
  ATTEND: 26,
  PROVE: 27,
  SIGNAL: 28,
  DROP: 29,
  READY: 30,
  SYSFS: 31,
} as const;

export const SECRET = 16;
const NO_SESSION: Buffer = Buffer.alloc(SECRET);

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

/** One connection, frame by frame. */
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

  async hungUp(): Promise<boolean> {
    while (!this.closed) {
      await new Promise<void>((r) => {
        this.#wake = r;
      });
    }
    return true;
  }

  /** Sends a request that needs no questions. @returns its answer; result NaN: the server hung up. */
  async ask(type: number, payload?: Uint8Array): Promise<Answer> {
    this.send(type, payload);
    let f = await this.next();
    while (f?.type === T.READY) f = await this.next();
    return f === null || f.type !== T.RET ? LOST : parseRet(f.payload);
  }
}

/** What a request came to: the result, the data behind it, and what the server asked on the way. */
export interface Answer {
  readonly result: number;
  readonly data: Buffer;
  readonly asked: readonly number[];
  readonly actions: readonly { readonly type: number; readonly content: Buffer }[];
}

const LOST: Answer = { result: Number.NaN, data: Buffer.alloc(0), asked: [], actions: [] };

export function parseRet(payload: Buffer, asked: readonly number[] = []): Answer {
  const actions: { type: number; content: Buffer }[] = [];
  let at = 12;
  for (let n = payload.readUInt32LE(8); n > 0; n--) {
    const length = payload.readUInt32LE(at + 1);
    actions.push({ type: payload[at]!, content: payload.subarray(at + 5, at + 5 + length) });
    at += 5 + length;
  }
  return { result: Number(payload.readBigInt64LE(0)), data: payload.subarray(at), asked, actions };
}

/** A mapping that a program claims to have: {start, end, offset, inode, device, flags}. */
export interface ClaimedMapping {
  readonly start: bigint;
  readonly end: bigint;
  /** 1 readable, 2 writable, 8 shared. */
  readonly flags: number;
  readonly offset?: bigint;
  readonly inode?: bigint;
}

function mappingBytes(m: ClaimedMapping): Buffer {
  const b = Buffer.alloc(40);
  b.writeBigUInt64LE(m.start, 0);
  b.writeBigUInt64LE(m.end, 8);
  b.writeBigUInt64LE(m.offset ?? 0n, 16);
  b.writeBigUInt64LE(m.inode ?? 0n, 24);
  b.writeUInt32LE(m.flags, 36);
  return b;
}

/** A program: memory the test makes up, and descriptors. It answers the server as the preload library does. */
export class FakeProgram {
  readonly path: string;
  readonly wire: Wire;
  readonly memory = new Uint8Array(0x4000);
  readonly base = 0x4000_0000n;
  readonly pid = 4711;
  writable = this.memory.length;
  /** Bytes of an argument that go along with the request. */
  prefetch = 0;
  session = NO_SESSION;
  token = NO_SESSION;
  readonly extras: Wire[] = [];
  /** What it says of its mappings besides `memory`. */
  readonly mappings: ClaimedMapping[] = [];
  /** What WHICH is answered with, by descriptor. */
  readonly descriptors = new Map<number, Uint8Array>();
  uid = 1000;
  memlock = 0xffff_ffff_ffff_ffffn;

  private constructor(path: string, wire: Wire) {
    this.path = path;
    this.wire = wire;
  }

  /** Dials and says nothing. */
  static async silent(path: string): Promise<FakeProgram> {
    return new FakeProgram(path, await Wire.dial(path));
  }
  static async open(path: string, node = '/dev/iommu', session?: Buffer): Promise<FakeProgram> {
    const p = await FakeProgram.silent(path);
    if (session !== undefined) p.session = session;
    const r = await p.openNode(node);
    if (r !== 0) throw new Error(`cannot open ${node}: ${r}`);
    return p;
  }

  async openNode(node: string): Promise<number> {
    const r = await this.wire.ask(T.OPEN, Buffer.concat([this.session, Buffer.from(node)]));
    this.session = Buffer.from(r.data.subarray(0, SECRET));
    this.token = Buffer.from(r.data.subarray(SECRET, 2 * SECRET));
    return r.result;
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

  sendIoctl(request: number, arg: bigint, pid = this.pid): void {
    const p = Buffer.alloc(40);
    p.writeUInt32LE(pid, 0);
    p.writeUInt32LE(request, 4);
    p.writeBigUInt64LE(arg, 8);
    p.writeUInt32LE(this.uid, 16);
    p.writeBigUInt64LE(this.memlock, 24);
    const at = Number(arg - this.base);
    const there = at >= 0 && at < this.memory.length ? this.memory.subarray(at, at + this.prefetch) : new Uint8Array(0);
    p.writeUInt32LE(Math.max(0, Math.min(there.length, this.writable - at)), 32);
    this.wire.send(T.IOCTL, Buffer.concat([p, there]));
  }

  async ioctl(request: number, arg: bigint, pid = this.pid): Promise<Answer> {
    this.sendIoctl(request, arg, pid);
    return this.serve();
  }

  /** Answers until RET. @param refuse says which question is not answered: the function returns there. */
  async serve(refuse: (f: Frame) => boolean = () => false): Promise<Answer> {
    const asked: number[] = [];
    for (;;) {
      const f = await this.wire.next();
      if (f === null) return { ...LOST, asked };
      if (f.type === T.READY) continue;
      if (f.type === T.RET) return this.#ret(parseRet(f.payload, asked));
      asked.push(f.type);
      if (refuse(f)) return { ...LOST, data: f.payload, asked };
      await this.reply(f);
    }
  }

  /** Does what the answer wants done; a write that fails makes the call fail. */
  #ret(a: Answer): Answer {
    for (const { type, content } of a.actions) {
      if (type !== 1) continue;
      const at = Number(content.readBigUInt64LE(4) - this.base);
      const bytes = content.subarray(12);
      if (at < 0 || at + bytes.length > this.writable) return { ...a, result: -14 };
      this.memory.set(bytes, at);
    }
    return a;
  }

  /** Answers a question. */
  async reply(f: Frame): Promise<void> {
    const rc = Buffer.alloc(4);
    let data: Uint8Array = new Uint8Array(0);
    switch (f.type) {
      case T.COPY_IN: {
        const at = Number(f.payload.readBigUInt64LE(4) - this.base);
        const n = f.payload.readUInt32LE(12);
        if (at >= 0 && at < this.memory.length) data = this.memory.slice(at, at + n);
        break;
      }
      case T.MAPS: {
        const own = { start: this.base, end: this.base + BigInt(this.writable), flags: 3 };
        data = Buffer.concat([...this.mappings, own].sort((a, b) => (a.start < b.start ? -1 : 1)).map(mappingBytes));
        break;
      }
      case T.WHICH: {
        const token = this.descriptors.get(f.payload.readInt32LE(0));
        if (token === undefined) rc.writeInt32LE(-9);
        else data = token;
        break;
      }
      case T.EVENTFD: {
        const fd = f.payload.readInt32LE(0);
        if (fd < 900) data = new Uint8Array(Int32Array.of(600 + fd).buffer);
        else rc.writeInt32LE(-22);
        break;
      }
      case T.NEWFD: {
        const w = await Wire.dial(this.path);
        const hello = await w.ask(T.HELLO, Buffer.concat([this.session, f.payload]));
        if (hello.result !== 0) throw new Error('not welcome');
        const fd = 100 + this.extras.push(w) - 1;
        this.descriptors.set(fd, f.payload);
        data = new Uint8Array(Int32Array.of(fd).buffer);
        break;
      }
      default:
        rc.writeInt32LE(-9);
    }
    this.wire.send(T.REPLY, Buffer.concat([rc, data]));
  }
}
