/**
 * The wire between a preloaded client and the server: `u32 length` (type + payload), `u8 type`, payload, little-endian. One
 * request at a time per connection; between a request and its RET the server asks questions, one at a time, each answered by
 * a REPLY. `secret` is 16 bytes: what names a session or a connection, and cannot be guessed.
 */
export const FRAME = {
  /**
   * Client: {u32 pid, u32 request, u64 argument, u32 uid, u32 flags, u64 memlock, u32 writable, u32 0, the first bytes at the
   * argument}. `flags`: IOCTL_FLAG; `memlock`: RLIMIT_MEMLOCK in bytes; `writable`: how many bytes at the argument can be
   * written.
   */
  IOCTL: 1,
  /** Client: {s32 rc, data}, the answer to a question. */
  REPLY: 2,
  /** Client, first frame: {secret session, secret token}, a connection for a file that an ioctl is about to open (NEWFD). */
  HELLO: 3,
  /** Client, connection of an event queue or another file: {u32 count} / the bytes / nothing. */
  READ: 4,
  WRITE: 5,
  POLL: 6,
  /** Client, iommufd: {u64 length, u64 offset, u32 prot, u32 flags}; the answer's data is the first word. */
  MMAP: 7,
  /** Client, iommufd: {u64 offset}. */
  MUNMAP: 8,
  /**
   * Client, first frame: {secret session (0: a new one), path}. The answer's data is {secret session, secret token}, also when
   * there is no such path; the connection then serves for what needs no file.
   */
  OPEN: 9,
  /** Server: {s64 result, u32 actions, each {u8 type, u32 length, content}, data}; ends the request. See ACTION. */
  RET: 10,
  /** Server: {u32 pid, u64 address, u32 bytes} → the bytes, as far as they are there. */
  COPY_IN: 11,
  /** Server: {u32 pid} → its mappings, each {u64 start, end, offset, inode, u32 device, u32 flags} (MAPPING_FLAG). */
  MAPS: 12,
  /** Server: {secret token} → the client dials, says HELLO, and replies {s32 descriptor}. */
  NEWFD: 13,
  /** Server: {s32 descriptor} → {secret token} of its connection, or rc -EBADF or -EBADFD. */
  WHICH: 14,
  /** Client, first frame: {secret session, secret token}: one more connection to what the token's connection has open. */
  JOIN: 15,
  /** Client: {secret session (0: a new one)}, for a connection that another process handed over; answered as OPEN. */
  ADOPT: 16,
  /** Client: the last close in this process. The answer comes when what the close frees is free. */
  CLOSE: 17,
  /** Server: {s32 descriptor} → {u64 bytes, u64 inode, u32 device, u32 kind (1: memfd), s32 handle}, or rc -EBADF. */
  FILE: 18,
  /** Server: {s32 handle, u64 offset, u32 bytes} → the bytes, as far as they are there. */
  COPY_FILE: 19,
  /** Client, VFIO device: {u64 offset, u32 count} → the bytes / {u64 offset, the bytes}. */
  PREAD: 20,
  PWRITE: 21,
  /** Client: {u32 pid} → {u64 pinned, u64 locked}, pages of a process of the session. */
  PROCESS: 22,
  /** Client: {u32 set, u32 n} → {u32}: which internal step of the session's ioctls fails next (0: none). */
  FAIL_NTH: 23,
  /** Client: a PCI address (0000:01:00.0); the result is the number of its IOMMU group. */
  GROUP: 24,
  /** Server: {s32 descriptor} → {s32 handle} of an eventfd that the client keeps for it, or rc -EBADF or -EINVAL. */
  EVENTFD: 25,
  /**
   * Client, first frame: {secret session, u32 pid, u64 address}: a process that lets devices reach its memory and that
   * signals eventfds for the server. The answer's data is 16 bytes that it has to write at the address before it says PROVE.
   */
  ATTEND: 26,
  /** Client, behind ATTEND: nothing; -EPERM: the server does not find the bytes in that process. */
  PROVE: 27,
  /** Server, at any time behind PROVE: {s32 handle} …: add one to each of these eventfds. No answer. */
  SIGNAL: 28,
  /** Server, at any time behind PROVE: {s32 handle}: the eventfd is not needed any more. No answer. */
  DROP: 29,
  /** Server, to an event queue's connection, when nothing else is under way: there is something to read. No answer. */
  READY: 30,
  /** Client: nothing → the path of a folder that stands for /sys/bus/pci/devices. */
  SYSFS: 31,
} as const;

/** Bits of IOCTL's `flags`. */
export const IOCTL_FLAG = { IPC_LOCK: 1, SYS_RESOURCE: 2 } as const;
/** Bits of a mapping's flags. */
export const MAPPING_FLAG = { READ: 1, WRITE: 2, SHARED: 8 } as const;
/** What the client does when a RET arrives, in order; if a write fails the call fails with EFAULT. */
export const ACTION = {
  /** {u32 pid, u64 address, bytes}. */
  WRITE: 1,
  /** {s32 handle, u64 offset, bytes}. */
  WRITE_FILE: 2,
  /** {s32 descriptor}: a connection that NEWFD made and nobody needs. */
  CLOSE: 3,
} as const;

/** Bytes of a secret. */
export const SECRET_BYTES = 16;
/** Bytes of an IOCTL before the first bytes at its argument. */
export const IOCTL_HEAD = 40;
/** Bytes of one mapping in the answer to MAPS. */
export const MAPPING_BYTES = 40;

/** One frame. */
export interface Frame {
  readonly type: number;
  readonly payload: Buffer;
}

/** Puts a frame together. */
export function frame(type: number, ...parts: readonly Uint8Array[]): Buffer {
  const length = parts.reduce((n, p) => n + p.length, 1);
  const out = Buffer.allocUnsafe(4 + length);
  out.writeUInt32LE(length, 0);
  out[4] = type;
  let at = 5;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
}

/** Cuts a stream of bytes into frames. It holds at most one frame that is not complete, and knows beforehand how long that is. */
export class FrameReader {
  readonly #limit: (type: number) => number;
  #chunks: Buffer[] = [];
  #bytes = 0;

  /** @param limit the most bytes a payload of this type may have now; -1: no such frame may come. */
  constructor(limit: (type: number) => number) {
    this.#limit = limit;
  }

  /** Bytes of a frame that is not complete. */
  get held(): number {
    return this.#bytes;
  }

  /** Whether `next` has something to say without further bytes: a frame, or that what comes is none. */
  get ready(): boolean {
    if (this.#bytes < 5) return false;
    const length = this.#length();
    return length === 0 || length - 1 > this.#limit(this.#chunks[0]![4]!) || this.#bytes >= 4 + length;
  }

  /** The length in the head of the first frame; 5 bytes are there. */
  #length(): number {
    this.#join(5);
    return this.#chunks[0]!.readUInt32LE(0);
  }

  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
  }

  /** @returns the next frame; null: more bytes are needed; `broken`: what comes breaks the rules. */
  next(): Frame | null | 'broken' {
    if (this.#bytes < 5) return null;
    const length = this.#length();
    if (length === 0 || length - 1 > this.#limit(this.#chunks[0]![4]!)) return 'broken';
    if (this.#bytes < 4 + length) return null;
    this.#join(4 + length);
    const all = this.#chunks[0]!;
    const rest = all.subarray(4 + length);
    if (rest.length === 0) this.#chunks.shift();
    else this.#chunks[0] = rest;
    this.#bytes -= 4 + length;
    return { type: all[4]!, payload: all.subarray(5, 4 + length) };
  }

  /** The first `bytes` lie in the first piece. What is behind them stays as it came: there may be much of it. */
  #join(bytes: number): void {
    let [count, length] = [0, 0];
    while (length < bytes) length += this.#chunks[count++]!.length;
    if (count > 1) this.#chunks.splice(0, count, Buffer.concat(this.#chunks.slice(0, count)));
  }
}
