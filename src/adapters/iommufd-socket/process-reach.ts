import { type BigIntStats, closeSync, constants, fstatSync, openSync, readSync, statSync, writeSync } from 'node:fs';
import { isPrivate } from './private-page.ts';
import { ProcessFolder } from './process-folder.ts';
import type { ReachedFile, ReachedFiles } from './reached-files.ts';

/**
 * A client process whose memory the devices of this server reach: its /proc/PID/mem, and files it holds for the server. It has
 * shown that it is this process by writing a secret of the server's into memory that is its own, where the server has found it.
 */
export class ProcessReach {
  readonly pid: number;
  readonly #folder: ProcessFolder;
  readonly #memory: number;
  /** All that are open, and those of this process by its descriptors. */
  readonly #all: ReachedFiles;
  readonly #files = new Map<number, ReachedFile>();
  #alive = true;

  private constructor(pid: number, folder: ProcessFolder, memory: number, files: ReachedFiles) {
    this.pid = pid;
    this.#folder = folder;
    this.#memory = memory;
    this.#all = files;
  }

  /**
   * @param address where the process says it has written `secret`.
   * @param files where files that it holds will be.
   * @returns null: it is not there, or the system says no. Memory that others can write to does not count, nor this process's.
   */
  static prove(pid: number, address: number, secret: Uint8Array, files: ReachedFiles): ProcessReach | null {
    const folder = pid === process.pid ? null : ProcessFolder.open(pid);
    if (folder === null) return null;
    let fd = -1;
    try {
      fd = openSync(folder.path('mem'), 'r+');
      const found = new Uint8Array(secret.length);
      const n = isPrivate(folder.path('maps'), address) ? readSync(fd, found, 0, found.length, address) : 0;
      if (n === secret.length && found.every((b, i) => b === secret[i]))
        return new ProcessReach(pid, folder, fd, files);
    } catch {
      // Another user's, or a system that lets nobody look into a process.
    }
    if (fd >= 0) closeSync(fd);
    folder.close();
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
    const file = this.#file(handle, identity);
    return file !== null && move(readSync, file.fd, into, start, count, at);
  }
  writeFile(handle: number, identity: string, at: number, from: Uint8Array, start: number, count: number): boolean {
    const file = this.#file(handle, identity);
    return file?.writable === true && move(writeSync, file.fd, from, start, count, at);
  }

  /** @returns null: it cannot be opened now, or is not the file that was told of. */
  #file(handle: number, identity: string): ReachedFile | null {
    if (!this.#alive) return null;
    const open = this.#files.get(handle);
    if (open !== undefined) {
      if (open.identity === identity) {
        this.#all.use(open);
        return open;
      }
      this.#all.drop(open);
    }
    const file = openFile(this.#folder, handle, identity);
    if (file === null) return null;
    const reached = { ...file, identity, handle, siblings: this.#files };
    this.#all.add(reached);
    return reached;
  }

  /** The process is gone, or attends on another connection. */
  close(): void {
    if (!this.#alive) return;
    this.#alive = false;
    closeSync(this.#memory);
    this.#folder.close();
    for (const file of [...this.#files.values()]) this.#all.drop(file);
  }
}

/**
 * Opens a file as the process has it: for writing only if it may write. Nobody is waited for: somebody may hold a lease on it,
 * which takes its time to break. @returns null: it is not the file that was told of.
 */
function openFile(folder: ProcessFolder, handle: number, identity: string): { fd: number; writable: boolean } | null {
  let fd = -1;
  try {
    const path = folder.path(`fd/${handle}`);
    const writable = folder.writes(handle);
    // To open something else than a file would already do something to it.
    if (!isFile(statSync(path, { bigint: true }), identity)) return null;
    fd = openSync(path, (writable ? constants.O_RDWR : constants.O_RDONLY) | constants.O_NONBLOCK);
    if (isFile(fstatSync(fd, { bigint: true }), identity)) return { fd, writable };
    closeSync(fd);
  } catch {
    // Closed meanwhile, leased, or the process has ended.
  }
  return null;
}

/** Whether it is this regular file. @param identity `DEVICE:INODE`, the device as `major << 20 | minor`. */
function isFile(s: BigIntStats, identity: string): boolean {
  const major = ((s.dev >> 8n) & 0xfffn) | ((s.dev >> 32n) & 0xffff_f000n);
  const minor = (s.dev & 0xffn) | ((s.dev >> 12n) & 0xffff_ff00n);
  return s.isFile() && identity === `${BigInt.asUintN(32, (major << 20n) | minor)}:${s.ino}`;
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
