import { closeSync, fstatSync, openSync, readSync, writeSync } from 'node:fs';

/** Files of one process that are open at once: a further one closes those before. */
const MOST_FILES = 256;

/**
 * A client process whose memory the devices of this server reach: its /proc/PID/mem, and files it holds for the server. It has
 * shown that it is this process by writing a secret of the server's into its own memory, where the server has found it.
 */
export class ProcessReach {
  readonly pid: number;
  readonly #memory: number;
  /** By the client's descriptor of it; -1: it cannot be opened. */
  readonly #files = new Map<number, number>();
  #alive = true;

  private constructor(pid: number, memory: number) {
    this.pid = pid;
    this.#memory = memory;
  }

  /** @param address where the process says it has written `secret`. @returns null: it is not there, or the system says no. */
  static prove(pid: number, address: number, secret: Uint8Array): ProcessReach | null {
    let fd = -1;
    try {
      fd = openSync(`/proc/${pid}/mem`, 'r+');
      const found = new Uint8Array(secret.length);
      const n = readSync(fd, found, 0, found.length, address);
      if (n === secret.length && found.every((b, i) => b === secret[i])) return new ProcessReach(pid, fd);
    } catch {
      // No such process, another user's, or a system that lets nobody look into a process.
    }
    if (fd >= 0) closeSync(fd);
    return null;
  }

  read(address: number, into: Uint8Array, start: number, count: number): boolean {
    return this.#alive && move(readSync, this.#memory, into, start, count, address);
  }
  write(address: number, from: Uint8Array, start: number, count: number): boolean {
    return this.#alive && move(writeSync, this.#memory, from, start, count, address);
  }

  /** Bytes of a file that the process holds. @param identity `DEVICE:INODE` as it told. */
  readFile(handle: number, identity: string, at: number, into: Uint8Array, start: number, count: number): boolean {
    const fd = this.#file(handle, identity);
    return fd >= 0 && move(readSync, fd, into, start, count, at);
  }
  writeFile(handle: number, identity: string, at: number, from: Uint8Array, start: number, count: number): boolean {
    const fd = this.#file(handle, identity);
    return fd >= 0 && move(writeSync, fd, from, start, count, at);
  }

  #file(handle: number, identity: string): number {
    if (!this.#alive) return -1;
    let fd = this.#files.get(handle);
    if (fd === undefined) {
      if (this.#files.size >= MOST_FILES) this.#closeFiles();
      fd = openFile(`/proc/${this.pid}/fd/${handle}`, identity);
      this.#files.set(handle, fd);
    }
    return fd;
  }

  /** The process is gone, or another one has its number. */
  close(): void {
    if (!this.#alive) return;
    this.#alive = false;
    closeSync(this.#memory);
    this.#closeFiles();
  }

  #closeFiles(): void {
    for (const fd of this.#files.values()) if (fd >= 0) closeSync(fd);
    this.#files.clear();
  }
}

/** @returns -1: it is not the file that was told of. */
function openFile(path: string, identity: string): number {
  try {
    const fd = openSync(path, 'r+');
    const s = fstatSync(fd, { bigint: true });
    if (s.isFile() && identity.endsWith(`:${s.ino}`)) return fd;
    closeSync(fd);
  } catch {
    // Closed meanwhile.
  }
  return -1;
}

function move(
  call: (fd: number, bytes: Uint8Array, start: number, count: number, at: number) => number,
  fd: number,
  bytes: Uint8Array,
  start: number,
  count: number,
  at: number,
): boolean {
  try {
    return call(fd, bytes, start, count, at) === count;
  } catch {
    // Unmapped, or the process has ended: the access aborts.
    return false;
  }
}
