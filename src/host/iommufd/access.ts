import { E } from '../../spec/iommufd/errno.ts';
import type { PhysicalBytes } from '../kernel/kernel.ts';
import type { Ioas, IoasAccess } from './ioas/ioas.ts';
import { copyIova, pinPages, unpinPages } from './ioas/pinning.ts';

/**
 * An in-kernel user of an IOAS (`iommufd_access`): mdev drivers, hardware queues, the kernel's test accesses. Its creator
 * holds one reference, so DESTROY answers EBUSY.
 */
export class AccessObject implements IoasAccess {
  readonly kind = 'access';
  id = 0;
  users = 1;
  readonly alignment: number;
  readonly release: ((start: bigint, last: bigint) => void) | null;
  readonly #memory: PhysicalBytes;
  #ioas: Ioas | null = null;

  /**
   * @param pins whether it pins pages (then the IOAS is page aligned while it is attached).
   * @param release called at unmap: give back every pin inside [start, last]. null: a hardware queue.
   */
  constructor(memory: PhysicalBytes, pins: boolean, release: ((start: bigint, last: bigint) => void) | null) {
    this.#memory = memory;
    this.alignment = pins ? 4096 : 1;
    this.release = release;
  }

  get ioas(): Ioas | null {
    return this.#ioas;
  }

  /** Moves to another IOAS, or away (null). @returns 0; -EADDRINUSE an area there is not page aligned; -ENOMEM. */
  change(ioas: Ioas | null): number {
    const old = this.#ioas;
    if (old === ioas) return 0;
    if (ioas !== null) {
      const r = ioas.addAccess(this);
      if (r !== 0) return r;
      ioas.users++;
    }
    if (old !== null) {
      this.release?.(0n, 0xffff_ffff_ffff_ffffn);
      old.removeAccess(this);
      old.users--;
    }
    this.#ioas = ioas;
    return 0;
  }

  /** @returns 0 or -errno (see `pinPages`); -ENOENT also without an IOAS. */
  pin(iova: bigint, length: bigint, write: boolean, out: number[]): number {
    if (this.#ioas === null) return length === 0n ? -E.INVAL : -E.NOENT;
    return pinPages(this.#ioas, iova, length, write, this.release === null, out);
  }

  unpin(iova: bigint, length: bigint): void {
    if (this.#ioas !== null) unpinPages(this.#ioas, iova, length, this.release === null);
  }

  /** Copies to or from the memory behind IOVAs. @returns 0 or -errno (see `copyIova`). */
  copy(iova: bigint, data: Uint8Array, write: boolean): number {
    if (data.length === 0) return -E.INVAL;
    if (this.#ioas === null) return -E.NOENT;
    return copyIova(this.#ioas, iova, data, write, this.#memory);
  }

  destroy(): void {
    this.change(null);
  }
}
