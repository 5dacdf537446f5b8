import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import type { CountedMemory } from '../../host/ioctl/caller.ts';
import type { PhysicalBytes } from '../../host/kernel/kernel.ts';
import type { PageFile } from '../../ports/iommufd.ts';
import { E } from '../../spec/iommufd/errno.ts';
import { MapsCache } from './maps.ts';
import { ProcessBytes } from './process-bytes.ts';

const PAGE = 4096;
/** Client memory appears at made-up host-physical addresses in windows of this size, above everything the kernel owns. */
const WINDOW = 2n ** 30n;
const WINDOW_BYTES = Number(WINDOW);
/** Pages that can be pinned at a time by all clients together: 256 GiB. The kernel has RLIMIT_MEMLOCK and the machine's memory. */
const MAX_PINNED = 2 ** 26;
const FIRST = 2 ** 47;

/** What lies in one window: a gigabyte of a process's private memory, or of something shared. */
interface Window {
  /** `pid` of private memory, or the device and inode of shared memory. */
  readonly owner: number | string;
  /** Address or file offset of the window's first byte. */
  readonly base: bigint;
  /** How often each of its pages is pinned. */
  pins: Uint32Array | null;
  /** A process that maps the shared memory, and a path to the file, as far as they are known. */
  pid: number;
  path: string | null;
}

/** Copies to and from a process through the shim. */
export interface ProcessCopy {
  /** The process inside an ioctl now. */
  readonly pid: number;
  copyIn(pid: number, address: bigint, into: Uint8Array): boolean;
  copyOut(pid: number, address: bigint, from: Uint8Array): boolean;
}

/**
 * Gives the pages of all clients host-physical addresses by what they are: private pages by process and address, shared ones
 * by inode and offset. Two mappings of one page are the same page; the addresses keep the alignment of large pages.
 */
export class ClientFrames implements PhysicalBytes {
  readonly #windows: Window[] = [];
  readonly #byKey = new Map<string, number>();
  #pinned = 0;
  readonly #copy: ProcessCopy;
  readonly #direct = new ProcessBytes();
  /** Cleared by whoever starts a request. */
  readonly maps = new MapsCache();

  constructor(copy: ProcessCopy) {
    this.#copy = copy;
  }

  /** Host-physical address of a byte. */
  address(owner: number | string, at: bigint, pid: number, path: string | null): number {
    const n = at / WINDOW;
    const key = `${owner}@${n}`;
    let i = this.#byKey.get(key);
    if (i === undefined) {
      i = this.#windows.push({ owner, base: n * WINDOW, pins: null, pid, path }) - 1;
      this.#byKey.set(key, i);
    } else {
      if (pid !== 0) this.#windows[i]!.pid = pid;
      if (path !== null) this.#windows[i]!.path = path;
    }
    return FIRST + i * WINDOW_BYTES + Number(at % WINDOW);
  }

  /** Bytes up to the end of the window. */
  room(at: bigint): bigint {
    return WINDOW - (at % WINDOW);
  }

  /** Nobody is left: addresses begin anew. Does nothing while a page is pinned. */
  reset(): void {
    if (this.#pinned > 0) return;
    this.#windows.length = 0;
    this.#byKey.clear();
    this.#direct.close();
  }

  /** Pins pages of one window. @returns false: more than MAX_PINNED would be. */
  pin(hpa: number, bytes: number): boolean {
    if (this.#pinned + Math.ceil(bytes / PAGE) > MAX_PINNED) return false;
    this.#count(hpa, bytes, 1);
    return true;
  }
  unpin(hpa: number, bytes: number): void {
    // A run of pins can go on in the next window.
    for (let at = hpa; at < hpa + bytes; ) {
      const n = Math.min(hpa + bytes - at, WINDOW_BYTES - ((at - FIRST) % WINDOW_BYTES));
      this.#count(at, n, -1);
      at += n;
    }
  }
  #count(hpa: number, bytes: number, by: 1 | -1): void {
    const w = this.#windows[Math.floor((hpa - FIRST) / WINDOW_BYTES)];
    if (w === undefined) return;
    w.pins ??= new Uint32Array(WINDOW_BYTES / PAGE);
    const first = Math.floor(((hpa - FIRST) % WINDOW_BYTES) / PAGE);
    const end = first + Math.ceil((bytes + (hpa % PAGE)) / PAGE);
    for (let p = first; p < end; p++) w.pins[p]! += by;
    this.#pinned += by * (end - first);
  }
  pins(hpa: number): number {
    const w = this.#windows[Math.floor((hpa - FIRST) / WINDOW_BYTES)];
    return w?.pins?.[Math.floor(((hpa - FIRST) % WINDOW_BYTES) / PAGE)] ?? 0;
  }

  readBytes(hpa: number, into: Uint8Array): boolean {
    return this.#access(hpa, into, false);
  }
  writeBytes(hpa: number, from: Uint8Array): boolean {
    return this.#access(hpa, from, true);
  }

  #access(hpa: number, bytes: Uint8Array, write: boolean): boolean {
    const w = this.#windows[Math.floor((hpa - FIRST) / WINDOW_BYTES)];
    if (w === undefined) return false;
    const at = w.base + BigInt((hpa - FIRST) % WINDOW_BYTES);
    if (typeof w.owner === 'number') return this.#process(w.owner, at, bytes, write);
    // Whoever maps it serves; the process it was mapped for may be gone.
    for (const pid of new Set([w.pid, this.#copy.pid])) {
      const va = this.maps.of(pid).addressOf(w.owner, at);
      if (va >= 0n) return this.#process(pid, va, bytes, write);
    }
    return w.path !== null && fileAccess(w.path, Number(at), bytes, write);
  }

  /**
   * A copy by the process's own addresses without asking it, where page permissions and the system allow.
   * @returns false: ask the process, which finds the exact byte that fails.
   */
  direct(pid: number, address: bigint, bytes: Uint8Array, write: boolean): boolean {
    if (address + BigInt(bytes.length) >= 2n ** 53n) return false;
    return this.maps.of(pid).permits(address, bytes.length, write) && this.#direct.access(pid, address, bytes, write);
  }

  #process(pid: number, address: bigint, bytes: Uint8Array, write: boolean): boolean {
    if (this.direct(pid, address, bytes, write)) return true;
    return write ? this.#copy.copyOut(pid, address, bytes) : this.#copy.copyIn(pid, address, bytes);
  }
}

function fileAccess(path: string, at: number, bytes: Uint8Array, write: boolean): boolean {
  try {
    const fd = openSync(path, write ? 'r+' : 'r');
    try {
      const n = write ? writeSync(fd, bytes, 0, bytes.length, at) : readSync(fd, bytes, 0, bytes.length, at);
      return n === bytes.length;
    } finally {
      closeSync(fd);
    }
  } catch {
    return false;
  }
}

/** The address space of a client process. */
export class ProcessMemory implements CountedMemory {
  hpa = 0;
  run = 0;
  failure = 0;
  readonly #frames: ClientFrames;
  readonly #pid: number;

  constructor(frames: ClientFrames, pid: number) {
    this.#frames = frames;
    this.#pid = pid;
  }

  pin(va: bigint, bytes: bigint, write: boolean): boolean {
    this.failure = 0;
    const vma = this.#frames.maps.of(this.#pid).at(va);
    if (vma === null || !vma.readable || (write && !vma.writable)) return false;
    const shared = vma.shared && vma.inode !== 0n;
    const at = shared ? vma.offset + (va - vma.start) : va;
    this.hpa = this.#frames.address(shared ? vma.file : this.#pid, at, shared ? this.#pid : 0, null);
    const room = [bytes, vma.end - va, this.#frames.room(at)].reduce((a, b) => (a < b ? a : b));
    this.run = Number(room);
    this.failure = this.#frames.pin(this.hpa, this.run) ? 0 : E.NOMEM;
    return this.failure === 0;
  }
  unpin(hpa: number, bytes: number): void {
    this.#frames.unpin(hpa, bytes);
  }
  pins(hpa: number): number {
    return this.#frames.pins(hpa);
  }
}

/** A memfd of a client. */
export class ClientFile implements PageFile {
  hpa = 0;
  run = 0;
  failure = 0;
  readonly kind: 'memfd' | 'other';
  readonly size: bigint;
  readonly #frames: ClientFrames;
  readonly #identity: string;
  readonly #path: string;

  /** @param identity device and inode as /proc/PID/maps writes them. @param path leads to the file while it is open. */
  constructor(frames: ClientFrames, kind: 'memfd' | 'other', size: bigint, identity: string, path: string) {
    this.#frames = frames;
    this.kind = kind;
    this.size = size;
    this.#identity = identity;
    this.#path = path;
  }

  pin(offset: bigint, bytes: bigint): boolean {
    this.failure = 0;
    const end = (this.size + 4095n) & -4096n;
    if (this.kind !== 'memfd' || offset >= end) return false;
    this.hpa = this.#frames.address(this.#identity, offset, 0, this.#path);
    this.run = Number([bytes, end - offset, this.#frames.room(offset)].reduce((a, b) => (a < b ? a : b)));
    this.failure = this.#frames.pin(this.hpa, this.run) ? 0 : E.NOMEM;
    return this.failure === 0;
  }
  unpin(hpa: number, bytes: number): void {
    this.#frames.unpin(hpa, bytes);
  }
}
