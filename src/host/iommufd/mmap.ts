import { FAILURE_STEP, type FailureSource } from '../../ports/failures.ts';
import { E } from '../../spec/iommufd/errno.ts';
import type { ObjectBase } from './object.ts';

const PAGE = 4096;

export const PROT_EXEC = 4;
export const MAP_SHARED = 1;

interface Region {
  mapped: number;
  readonly owner: ObjectBase;
  readonly hpa: number;
  readonly offset: bigint;
  readonly bytes: number;
}

/** The regions of kernel memory an iommufd offers to mmap, each at its own offset (never 0). */
export class MmapTable {
  readonly #source: FailureSource;
  readonly #regions: Region[] = [];

  constructor(source: FailureSource) {
    this.#source = source;
  }

  /** Puts `bytes` at the lowest free offset. @returns it, or -1n: no memory (ENOMEM). */
  offer(owner: ObjectBase, hpa: number, bytes: number): bigint {
    if (this.#source.failures?.fails(FAILURE_STEP.MMAP)) return -1n;
    let offset = BigInt(PAGE);
    let i = 0;
    for (; i < this.#regions.length; i++) {
      const r = this.#regions[i]!;
      if (r.offset >= offset + BigInt(bytes)) break;
      offset = r.offset + BigInt(r.bytes);
    }
    this.#regions.splice(i, 0, { owner, hpa, offset, bytes, mapped: 0 });
    return offset;
  }

  /** Takes everything back that was offered for the owner. */
  withdraw(owner: ObjectBase): void {
    for (let i = this.#regions.length - 1; i >= 0; i--)
      if (this.#regions[i]!.owner === owner) this.#regions.splice(i, 1);
  }

  /**
   * mmap of the fd. On 0 the owner cannot be destroyed until `unmap`, and `mapped` is where the region lies (host-physical).
   * @returns -EINVAL no whole pages or not MAP_SHARED; -EPERM executable; -ENXIO nothing is offered there in that length.
   */
  map(offset: bigint, bytes: number, shared: boolean, prot: number): number {
    if (bytes === 0 || bytes % PAGE !== 0 || !shared) return -E.INVAL;
    if ((prot & PROT_EXEC) !== 0) return -E.PERM;
    const r = this.#regions.find((x) => x.offset === offset);
    if (r === undefined || r.bytes !== bytes) return -E.NXIO;
    r.owner.users++;
    r.mapped++;
    this.mapped = r.hpa;
    return 0;
  }
  mapped = 0;

  /** munmap of a region that `map` handed out. */
  unmap(offset: bigint): void {
    const r = this.#regions.find((x) => x.offset === offset);
    if (r === undefined || r.mapped === 0) return;
    r.mapped--;
    r.owner.users--;
  }

  /** The process is gone, and with it everything it mapped. */
  unmapAll(): void {
    for (const r of this.#regions) {
      r.owner.users -= r.mapped;
      r.mapped = 0;
    }
  }
}
