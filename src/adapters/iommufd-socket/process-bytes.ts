import { closeSync, openSync, readSync, writeSync } from 'node:fs';

/** Open processes at most. */
const KEPT = 16;

/**
 * Memory of other processes as a kernel reaches pages it has pinned: without asking anybody, where the system lets us (same
 * user, no Yama restriction). What it says no to is asked of the client instead.
 */
export class ProcessBytes {
  readonly #open = new Map<number, number>();
  /** Processes the system keeps us out of. */
  readonly #refused = new Set<number>();

  /** @returns false: not permitted, gone, or not there. */
  access(pid: number, address: bigint, bytes: Uint8Array, write: boolean): boolean {
    if (this.#refused.has(pid)) return false;
    // One more try with a fresh file: the number may belong to another process by now.
    return this.#once(pid, address, bytes, write) || this.#once(pid, address, bytes, write);
  }

  #once(pid: number, address: bigint, bytes: Uint8Array, write: boolean): boolean {
    try {
      const fd = this.#fd(pid);
      // Addresses of user space are below 2^47 (2^56 with five levels), and this is page-aligned arithmetic.
      const n = write
        ? writeSync(fd, bytes, 0, bytes.length, Number(address))
        : readSync(fd, bytes, 0, bytes.length, Number(address));
      if (n === bytes.length) return true;
    } catch (e) {
      if (e instanceof Error && 'code' in e && (e.code === 'EACCES' || e.code === 'EPERM')) this.#refused.add(pid);
    }
    this.forget(pid);
    return false;
  }

  #fd(pid: number): number {
    const known = this.#open.get(pid);
    if (known !== undefined) return known;
    const fd = openSync(`/proc/${pid}/mem`, 'r+');
    for (const oldest of this.#open.keys()) {
      if (this.#open.size < KEPT) break;
      this.forget(oldest);
    }
    this.#open.set(pid, fd);
    return fd;
  }

  forget(pid: number): void {
    const fd = this.#open.get(pid);
    if (fd === undefined) return;
    this.#open.delete(pid);
    closeSync(fd);
  }

  close(): void {
    this.#refused.clear();
    for (const pid of [...this.#open.keys()]) this.forget(pid);
  }
}
