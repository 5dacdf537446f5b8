import { readlinkSync, statfsSync, statSync } from 'node:fs';
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import type { Caller, CountedMemory, KernelFile } from '../../host/ioctl/caller.ts';
import type { PageFile } from '../../ports/iommufd.ts';
import { E } from '../../spec/iommufd/errno.ts';
import { FRAME, frame, MAX_COPY } from './frames.ts';
import { ClientFile, type ClientFrames, type ProcessCopy, ProcessMemory } from './frames-of-memory.ts';
import type { ReplyMessage, ToSocket } from './messages.ts';

const TMPFS = 0x0102_1994;
const HUGETLBFS = 0x9584_58f6;

/** How the kernel thread talks to the client of the request it works on, and sleeps until the answer is there. */
export class ClientLink implements ProcessCopy {
  /** The connection and process of the request in hand. */
  connection = 0;
  pid = 0;
  readonly #port: MessagePort;
  readonly #replies: MessagePort;
  readonly #signal: Int32Array;
  readonly #patience: number;
  readonly #dead = new Set<number>();

  constructor(port: MessagePort, replies: MessagePort, signal: SharedArrayBuffer, patience: number) {
    this.#port = port;
    this.#replies = replies;
    this.#signal = new Int32Array(signal);
    this.#patience = patience;
  }

  post(message: ToSocket): void {
    this.#port.postMessage(message);
  }

  /** Whether the client of the request in hand still answers. */
  get alive(): boolean {
    return !this.#dead.has(this.connection);
  }
  forget(connection: number): void {
    this.#dead.delete(connection);
  }

  /** @returns the payload of the client's REPLY; null: it is gone, silent or talks nonsense. */
  ask(bytes: Buffer): Buffer | null {
    const { connection } = this;
    if (this.#dead.has(connection)) return null;
    this.post({ what: 'send', connection, bytes });
    const until = Date.now() + this.#patience;
    for (;;) {
      const seen = Atomics.load(this.#signal, 0);
      const got = receiveMessageOnPort(this.#replies) as { message: ReplyMessage } | undefined;
      if (got !== undefined) {
        if (got.message.connection !== connection) continue;
        if (got.message.payload !== null && got.message.payload.length >= 4) return Buffer.from(got.message.payload);
        break;
      }
      const left = until - Date.now();
      if (left <= 0) break;
      Atomics.wait(this.#signal, 0, seen, left);
    }
    this.#dead.add(connection);
    this.post({ what: 'drop', connection });
    return null;
  }

  copyIn(pid: number, address: bigint, into: Uint8Array): boolean {
    for (let done = 0; done < into.length; ) {
      const n = Math.min(MAX_COPY, into.length - done);
      const head = Buffer.alloc(16);
      head.writeUInt32LE(pid === this.pid ? 0 : pid, 0);
      head.writeBigUInt64LE(BigInt.asUintN(64, address + BigInt(done)), 4);
      head.writeUInt32LE(n, 12);
      const r = this.ask(frame(FRAME.COPY_IN, head));
      if (r === null || r.readInt32LE(0) !== 0 || r.length !== 4 + n) return false;
      into.set(r.subarray(4), done);
      done += n;
    }
    return true;
  }

  copyOut(pid: number, address: bigint, from: Uint8Array): boolean {
    for (let done = 0; done < from.length; ) {
      const n = Math.min(MAX_COPY, from.length - done);
      const head = Buffer.alloc(12);
      head.writeUInt32LE(pid === this.pid ? 0 : pid, 0);
      head.writeBigUInt64LE(BigInt.asUintN(64, address + BigInt(done)), 4);
      const r = this.ask(frame(FRAME.COPY_OUT, head, from.subarray(done, done + n)));
      if (r === null || r.readInt32LE(0) !== 0) return false;
      done += n;
    }
    return true;
  }
}

/** The files a main connection's ioctls installed in its process, by descriptor, and those not yet dialled, by token. */
export class InstalledFiles {
  readonly #tokens = new Map<number, KernelFile>();
  #next = 1;

  token(file: KernelFile): number {
    const t = this.#next++;
    this.#tokens.set(t, file);
    return t;
  }
  /** An extra connection said HELLO. */
  claim(token: number): KernelFile | null {
    const f = this.#tokens.get(token) ?? null;
    this.#tokens.delete(token);
    return f;
  }
}

/** The process behind a main connection while one of its ioctls runs. */
export class SocketCaller implements Caller {
  readonly memory: CountedMemory;
  readonly #link: ClientLink;
  readonly #frames: ClientFrames;
  readonly #files: InstalledFiles;
  readonly #descriptors: Map<number, KernelFile>;
  /** Bytes at `#fetchedAt` that came with the request. */
  readonly #fetched: Uint8Array;
  readonly #fetchedAt: bigint;
  readonly #direct: boolean;

  constructor(
    link: ClientLink,
    frames: ClientFrames,
    files: InstalledFiles,
    descriptors: Map<number, KernelFile>,
    argument: bigint,
    fetched: Uint8Array,
    direct: boolean,
  ) {
    this.#link = link;
    this.#frames = frames;
    this.#files = files;
    this.#descriptors = descriptors;
    this.#fetched = fetched;
    this.#fetchedAt = argument;
    this.#direct = direct;
    this.memory = new ProcessMemory(frames, link.pid);
  }

  read(address: bigint, into: Uint8Array): boolean {
    const at = address - this.#fetchedAt;
    if (at >= 0n && at + BigInt(into.length) <= BigInt(this.#fetched.length)) {
      into.set(this.#fetched.subarray(Number(at), Number(at) + into.length));
      return true;
    }
    const { pid } = this.#link;
    if (this.#direct && this.#frames.direct(pid, address, into, false)) return true;
    return this.#link.copyIn(pid, address, into);
  }
  write(address: bigint, from: Uint8Array): boolean {
    const { pid } = this.#link;
    if (this.#direct && this.#frames.direct(pid, address, from, true)) return true;
    return this.#link.copyOut(pid, address, from);
  }

  install(file: KernelFile): number {
    const token = this.#files.token(file);
    this.#link.post({ what: 'expect', token });
    const payload = Buffer.alloc(4);
    payload.writeUInt32LE(token, 0);
    const r = this.#link.ask(frame(FRAME.NEWFD, payload));
    if (r === null) return -E.FAULT;
    const fd = r.readInt32LE(0);
    if (fd >= 0) this.#descriptors.set(fd, file);
    return fd;
  }
  installed(fd: number): KernelFile | null {
    return this.#descriptors.get(fd) ?? null;
  }

  pageFile(fd: number): PageFile | null {
    const mine = this.#descriptors.get(fd);
    if (mine !== undefined && 'pin' in mine) return mine as KernelFile & PageFile;
    const path = `/proc/${this.#link.pid}/fd/${fd}`;
    try {
      readlinkSync(path);
      const s = statSync(path, { bigint: true });
      const type = s.isFile() ? statfsSync(path).type : 0;
      const hex = (n: bigint) => n.toString(16).padStart(2, '0');
      // /proc/PID/maps writes major:minor in hexadecimal.
      const major = (s.dev >> 8n) & 0xfffn;
      const minor = (s.dev & 0xffn) | ((s.dev >> 12n) & 0xfff00n);
      const identity = `${hex(major)}:${hex(minor)}:${s.ino}`;
      const kind = type === TMPFS || type === HUGETLBFS ? 'memfd' : 'other';
      return new ClientFile(this.#frames, kind, s.size, identity, path);
    } catch {
      return null;
    }
  }
}
