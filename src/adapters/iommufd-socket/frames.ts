/**
 * The wire between a preloaded client and the server: `u32 length` (type + payload), `u8 type`, payload, little-endian. One
 * request at a time per connection; between a request and its RET the server asks for copies and descriptors.
 */
export const FRAME = {
  /** Client: {u32 pid, u32 request, u64 argument[, the first bytes at the argument]}. */
  IOCTL: 1,
  /** Client: {s32 rc, data}, the answer to CPR, CPW, NEWFD and WHICH. */
  REPLY: 2,
  /** Client, first frame of an extra connection: {u32 token}. The server answers with one raw byte. */
  HELLO: 3,
  /** Client, extra connection: {u32 count} / the bytes. */
  READ: 4,
  WRITE: 5,
  POLL: 6,
  /** Client, main connection: {u64 length, u64 offset[, u32 prot, u32 flags]}; the answer's data is the first word. */
  MMAP: 7,
  /** Client: munmap {u64 offset} on a main connection; {u32 0} on any connection: its last close. */
  MUNMAP: 8,
  /**
   * Client, first frame of a main connection (optional): the path that was opened, and behind a NUL byte `direct` if the
   * client's pointers are addresses of the process that it names. The answer's data is {u32 token}.
   */
  OPEN: 9,
  /** Server: {s64 result, data}; ends the request. */
  RET: 10,
  /** Server: {u32 pid (0: the caller), u64 address, u32 bytes} → REPLY with the bytes. */
  COPY_IN: 11,
  /** Server: {u32 pid, u64 address, bytes} → REPLY. */
  COPY_OUT: 12,
  /** Server: {u32 token} → the client dials, says HELLO(token), and replies with the new descriptor. */
  NEWFD: 13,
  /** Server: {u32 descriptor} → REPLY 0 with {u32 token} of that main connection, -EBADF or -EBADFD. */
  WHICH: 14,
} as const;

/** Largest frame a client may send. Copies are asked for in smaller pieces. */
export const MAX_FRAME = 4 << 20;
/** Most bytes of the argument that may travel with an IOCTL. */
export const MAX_PREFETCH = 4096;
/** Largest copy in one COPY_IN or COPY_OUT. */
export const MAX_COPY = 1 << 20;

export interface Frame {
  readonly type: number;
  readonly payload: Buffer;
}

/** A frame in memory of its own: what is posted to another thread is copied with everything that shares its memory. */
export function frame(type: number, ...parts: readonly Uint8Array[]): Buffer {
  const length = parts.reduce((n, p) => n + p.length, 1);
  const out = Buffer.allocUnsafeSlow(4 + length);
  out.writeUInt32LE(length, 0);
  out[4] = type;
  let at = 5;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
}

export function returned(result: number, data: Uint8Array = new Uint8Array(0)): Buffer {
  const head = Buffer.alloc(8);
  head.writeBigInt64LE(BigInt(result), 0);
  return frame(FRAME.RET, head, data);
}

/** Cuts a stream of bytes into frames. */
export class FrameReader {
  #chunks: Buffer[] = [];
  #bytes = 0;

  /** @returns the frames that are complete now; null: a frame has no type or is longer than MAX_FRAME. */
  take(chunk: Buffer): Frame[] | null {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    const frames: Frame[] = [];
    for (;;) {
      if (this.#bytes < 4) return frames;
      if (this.#chunks[0]!.length < 4) this.#join();
      const length = this.#chunks[0]!.readUInt32LE(0);
      if (length === 0 || length > MAX_FRAME) return null;
      if (this.#bytes < 4 + length) return frames;
      this.#join();
      const all = this.#chunks[0]!;
      frames.push({ type: all[4]!, payload: all.subarray(5, 4 + length) });
      this.#chunks = [all.subarray(4 + length)];
      this.#bytes -= 4 + length;
    }
  }

  #join(): void {
    if (this.#chunks.length > 1) this.#chunks = [Buffer.concat(this.#chunks)];
  }
}
