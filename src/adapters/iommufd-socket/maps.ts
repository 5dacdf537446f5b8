import { closeSync, openSync, readSync } from 'node:fs';

/** A mapping of a process, as /proc/PID/maps shows it. */
export interface Vma {
  readonly start: bigint;
  readonly end: bigint;
  readonly readable: boolean;
  readonly writable: boolean;
  readonly shared: boolean;
  /** Device and inode of what is mapped; inode 0: anonymous. */
  readonly file: string;
  readonly inode: bigint;
  /** Offset in the file. */
  readonly offset: bigint;
}

const LINE = /^([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+)/;

/** What the system writes is read into one place, again and again. */
let scratch = Buffer.allocUnsafeSlow(1 << 16);

/** The text of /proc/PID/maps; empty: gone, or not ours. */
function readText(pid: number): string {
  let fd = -1;
  try {
    fd = openSync(`/proc/${pid}/maps`, 'r');
    let n = 0;
    for (;;) {
      if (scratch.length - n < 8192) scratch = Buffer.concat([scratch], scratch.length * 2);
      const got = readSync(fd, scratch, n, scratch.length - n, null);
      if (got === 0) return scratch.toString('latin1', 0, n);
      n += got;
    }
  } catch {
    return '';
  } finally {
    if (fd >= 0) closeSync(fd);
  }
}

/** The mappings of a process at one moment, in ascending order; none when it is gone. A line is read when it is asked for. */
export class Maps {
  readonly #lines: readonly string[];
  readonly #parsed = new Map<number, Vma>();

  constructor(pid: number) {
    const text = readText(pid);
    this.#lines = text === '' ? [] : text.trimEnd().split('\n');
  }

  #vma(i: number): Vma {
    let v = this.#parsed.get(i);
    if (v !== undefined) return v;
    const m = LINE.exec(this.#lines[i]!)!;
    const flags = m[3]!;
    v = {
      start: BigInt(`0x${m[1]}`),
      end: BigInt(`0x${m[2]}`),
      readable: flags[0] === 'r',
      writable: flags[1] === 'w',
      shared: flags[3] === 's',
      file: `${m[5]}:${m[6]}`,
      inode: BigInt(m[6]!),
      offset: BigInt(`0x${m[4]}`),
    };
    this.#parsed.set(i, v);
    return v;
  }

  /** The mapping that contains an address. */
  at(va: bigint): Vma | null {
    let lo = 0;
    let hi = this.#lines.length;
    while (lo < hi) {
      const mid = (lo + hi) >>> 1;
      if (this.#vma(mid).end <= va) lo = mid + 1;
      else hi = mid;
    }
    if (lo === this.#lines.length) return null;
    const v = this.#vma(lo);
    return v.start <= va ? v : null;
  }

  /** Whether every byte of [va, va + bytes) may be read, or written. */
  permits(va: bigint, bytes: number, write: boolean): boolean {
    const end = va + BigInt(bytes);
    for (let at = va; at < end; ) {
      const v = this.at(at);
      if (v === null || !(write ? v.writable : v.readable)) return false;
      at = v.end;
    }
    return true;
  }

  /** Where the process maps a byte of something shared; -1n: nowhere. */
  addressOf(file: string, offset: bigint): bigint {
    for (let i = 0; i < this.#lines.length; i++) {
      const v = this.#vma(i);
      const there = v.shared && v.file === file && offset >= v.offset && offset - v.offset < v.end - v.start;
      if (there) return v.start + (offset - v.offset);
    }
    return -1n;
  }
}

/** The mappings of processes as one request sees them: read once, forgotten with `clear`. */
export class MapsCache {
  readonly #maps = new Map<number, Maps>();

  of(pid: number): Maps {
    let m = this.#maps.get(pid);
    if (m === undefined) {
      m = new Maps(pid);
      this.#maps.set(pid, m);
    }
    return m;
  }

  clear(): void {
    if (this.#maps.size > 0) this.#maps.clear();
  }
}
