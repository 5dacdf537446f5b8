import { fstatSync, readSync, writeSync } from 'node:fs';
import { ViommuError } from '../../core/errors.ts';
import type { Backing } from '../../ports/memory.ts';

const PAGE = 4096;

/**
 * Guest RAM that an emulator in another process keeps in a shared file. While the guest is stopped (`epoch` was renewed
 * when it stopped) a page is read once, on first look; stores go through to the file at once.
 */
export class FileRam implements Backing {
  /** Size of the file in bytes. */
  readonly bytes: number;
  readonly #fd: number;
  readonly #words: Int32Array;
  readonly #view: Uint8Array;
  /** Epoch in which the page was read. */
  readonly #read: Uint32Array;
  #epoch = 1;

  /**
   * @param fd a file opened for reading and writing; it stays the caller's.
   * @throws ViommuError `EINVAL` when the file is not made of whole pages.
   */
  constructor(fd: number) {
    const bytes = fstatSync(fd).size;
    if (bytes === 0 || bytes % PAGE !== 0) {
      throw new ViommuError('EINVAL', 'caller', 'guest RAM is a file of whole 4 KiB pages', { bytes });
    }
    this.bytes = bytes;
    this.#fd = fd;
    this.#words = new Int32Array(bytes / 4);
    this.#view = new Uint8Array(this.#words.buffer);
    this.#read = new Uint32Array(bytes / PAGE);
  }

  words(): Int32Array {
    return this.#words;
  }

  /** The guest ran since: what was read before is old. */
  stopped(): void {
    this.#epoch = (this.#epoch + 1) >>> 0;
    if (this.#epoch === 0) {
      this.#read.fill(0);
      this.#epoch = 1;
    }
  }

  fetch(offset: number): void {
    const page = Math.floor(offset / PAGE);
    if (this.#read[page] === this.#epoch) return;
    this.#read[page] = this.#epoch;
    readSync(this.#fd, this.#view, page * PAGE, PAGE, page * PAGE);
  }

  wrote(offset: number, bytes: number): void {
    writeSync(this.#fd, this.#view, offset, bytes, offset);
  }

  /** Bytes for the guest to load, past every cache: register images. */
  put(offset: number, bytes: Uint8Array): void {
    this.#view.set(bytes, offset);
    writeSync(this.#fd, bytes, 0, bytes.length, offset);
  }
}
