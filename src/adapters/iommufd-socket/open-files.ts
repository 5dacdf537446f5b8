import type { KernelFile } from '../../host/ioctl/caller.ts';

/** An open file of the kernel. Every process that has it open has a connection of its own to it; the last one closes it. */
export class OpenFile {
  readonly file: KernelFile;
  #connections = 0;
  readonly #readers = new Set<() => void>();

  constructor(file: KernelFile) {
    this.file = file;
    if (file.onReadable !== undefined) file.onReadable = () => this.#tell();
  }

  #tell(): void {
    for (const reader of this.#readers) reader();
  }

  /** Calls `reader` whenever the file has something to read. @returns stops it. */
  listen(reader: () => void): () => void {
    this.#readers.add(reader);
    return () => void this.#readers.delete(reader);
  }

  /** Other connections lead here, too. */
  get shared(): boolean {
    return this.#connections > 1;
  }

  join(): void {
    this.#connections++;
  }

  leave(): void {
    if (--this.#connections === 0) this.file.close();
  }
}
