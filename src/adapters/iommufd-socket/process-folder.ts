import { closeSync, constants, lstatSync, openSync } from 'node:fs';

/**
 * The folder of one process below /proc, held open: what is opened through it is that process's even when another one gets its
 * number, and nothing once it has ended.
 */
export class ProcessFolder {
  readonly #fd: number;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /** @returns null: there is no such process. */
  static open(pid: number): ProcessFolder | null {
    try {
      return new ProcessFolder(openSync(`/proc/${pid}`, constants.O_RDONLY | constants.O_DIRECTORY));
    } catch {
      return null;
    }
  }

  /** The path of something in it. */
  path(name: string): string {
    return `/proc/self/fd/${this.#fd}/${name}`;
  }

  /** Whether the process itself may write through a descriptor of its own. @throws if it has none of this number. */
  writes(handle: number): boolean {
    return (lstatSync(this.path(`fd/${handle}`)).mode & constants.S_IWUSR) !== 0;
  }

  close(): void {
    closeSync(this.#fd);
  }
}
