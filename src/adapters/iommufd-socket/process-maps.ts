import { MAPPING_BYTES, MAPPING_FLAG } from './frames.ts';

/** A mapping of a process, as it told. */
export interface Mapping {
  readonly start: bigint;
  readonly end: bigint;
  readonly readable: boolean;
  readonly writable: boolean;
  readonly shared: boolean;
  /** Device and inode of what is mapped; inode 0: anonymous. */
  readonly file: string;
  readonly inode: bigint;
  /** Offset in the file, bytes. */
  readonly offset: bigint;
}

/** The mappings of a process at one moment, in ascending order; none when it is gone. An entry is read when it is asked for. */
export class ProcessMaps {
  readonly #bytes: Buffer;
  readonly #count: number;
  readonly #parsed = new Map<number, Mapping>();

  /** @param bytes the answer to MAPS. */
  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.#count = Math.floor(bytes.length / MAPPING_BYTES);
  }

  #mapping(i: number): Mapping {
    let m = this.#parsed.get(i);
    if (m !== undefined) return m;
    const at = i * MAPPING_BYTES;
    const inode = this.#bytes.readBigUInt64LE(at + 24);
    const flags = this.#bytes.readUInt32LE(at + 36);
    m = {
      start: this.#bytes.readBigUInt64LE(at),
      end: this.#bytes.readBigUInt64LE(at + 8),
      offset: this.#bytes.readBigUInt64LE(at + 16),
      readable: (flags & MAPPING_FLAG.READ) !== 0,
      writable: (flags & MAPPING_FLAG.WRITE) !== 0,
      shared: (flags & MAPPING_FLAG.SHARED) !== 0,
      file: `${this.#bytes.readUInt32LE(at + 32)}:${inode}`,
      inode,
    };
    this.#parsed.set(i, m);
    return m;
  }

  /** The mapping that contains an address. */
  at(va: bigint): Mapping | null {
    let lo = 0;
    let hi = this.#count;
    while (lo < hi) {
      const mid = (lo + hi) >>> 1;
      if (this.#mapping(mid).end <= va) lo = mid + 1;
      else hi = mid;
    }
    if (lo === this.#count) return null;
    const m = this.#mapping(lo);
    return m.start <= va ? m : null;
  }

  /** Whether every byte of [va, va + bytes) may be written. */
  writable(va: bigint, bytes: number): boolean {
    const end = va + BigInt(bytes);
    for (let at = va; at < end; ) {
      const m = this.at(at);
      // A client that lies about where its mappings end would keep us here.
      if (m === null || !m.writable || m.end <= at) return false;
      at = m.end;
    }
    return true;
  }

  /** Where the process maps a byte of something shared; -1n: nowhere. */
  addressOf(file: string, offset: bigint): bigint {
    for (let i = 0; i < this.#count; i++) {
      const m = this.#mapping(i);
      const there = m.shared && m.file === file && offset >= m.offset && offset - m.offset < m.end - m.start;
      if (there) return m.start + (offset - m.offset);
    }
    return -1n;
  }
}
