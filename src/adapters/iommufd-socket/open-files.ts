import type { KernelFile } from '../../host/ioctl/caller.ts';

/** An open file of the kernel. Every process that has it open has a connection of its own to it; the last one closes it. */
export class OpenFile {
  readonly file: KernelFile;
  #connections = 0;

  constructor(file: KernelFile) {
    this.file = file;
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
