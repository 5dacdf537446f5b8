import { closeSync } from 'node:fs';

/** Files of client processes that are open at once: the one that was not used for the longest time is closed. */
const MOST_FILES = 256;

/** A file of a client process that is open here. */
export interface ReachedFile {
  /** `DEVICE:INODE`. */
  readonly identity: string;
  readonly fd: number;
  /** It is open for writing, too. */
  readonly writable: boolean;
  /** Those of its process, by its descriptors. */
  readonly siblings: Map<number, ReachedFile>;
  readonly handle: number;
}

/** The files that a server has open of all of its clients. */
export class ReachedFiles {
  /** The one that was used last comes last. */
  readonly #files = new Set<ReachedFile>();
  readonly #most: number;

  /** @param most files that are open at once. */
  constructor(most = MOST_FILES) {
    this.#most = most;
  }

  get size(): number {
    return this.#files.size;
  }

  add(file: ReachedFile): void {
    for (const oldest of this.#files) {
      if (this.#files.size < this.#most) break;
      this.drop(oldest);
    }
    this.#files.add(file);
    file.siblings.set(file.handle, file);
  }

  /** It is used now. */
  use(file: ReachedFile): void {
    this.#files.delete(file);
    this.#files.add(file);
  }

  drop(file: ReachedFile): void {
    if (!this.#files.delete(file)) return;
    file.siblings.delete(file.handle);
    closeSync(file.fd);
  }
}
