import type { AddressSpace } from '../../src/lib/memory/address-space.ts';
import type { MmioDevice } from '../../src/ports/mmio.ts';

/** A page request as the guest's driver finds it in its queue. */
export interface GuestPageRequest {
  readonly sid: number;
  /** -1: none. */
  readonly pasid: number;
  readonly address: number;
  readonly group: number;
  readonly write: boolean;
  readonly last: boolean;
}

/**
 * A bare guest that drives one IOMMU of either kind: it writes tables and queues into its own memory and registers like a
 * driver, and knows nothing of what is behind them.
 */
export interface GuestProgram {
  /** Gives a function (requester id as the guest sees it) its address spaces; ATS on. -1: requests without PASID. */
  function(sid: number, pasids: readonly number[]): void;
  /** Gives a function the address spaces of another one. */
  share(sid: number, like: number): void;
  /** Stores a mapping of one page; no invalidation. @param writable read-only otherwise. */
  map(sid: number, pasid: number, va: number, pa: number, writable?: boolean): void;
  /** Clears it. */
  unmap(sid: number, pasid: number, va: number): void;
  /** Queues the invalidation of a page: IOMMU and, unless told not to, device. Takes effect by the next `sync`. */
  invalidate(sid: number, pasid: number, va: number, device?: boolean): void;
  /** Rings the doorbell behind a completion request. @returns whether everything before it has completed at once. */
  sync(): boolean;
  /** Whether the last `sync` has completed. */
  synced(): boolean;
  /** Takes what is in the page request queue. */
  requests(): GuestPageRequest[];
  /** Answers a group: granted or invalid. */
  respond(request: GuestPageRequest, granted: boolean): void;
  /** Takes fault records: type or reason numbers. */
  faults(): number[];
}

/** Stores and loads of a guest, and pages for its tables. */
export class GuestMemory {
  readonly space: AddressSpace;
  #next: number;

  /** @param first guest-physical address of free memory, page aligned. */
  constructor(space: AddressSpace, first: number) {
    this.space = space;
    this.#next = first;
  }

  /** Zeroed, contiguous, aligned to its size rounded up to a power of two. */
  pages(bytes: number): number {
    const size = 2 ** Math.ceil(Math.log2(Math.max(bytes, 4096)));
    const at = Math.ceil(this.#next / size) * size;
    this.#next = at + size;
    return at;
  }

  put(at: number, value: bigint): void {
    const ok = this.space.store64(at, Number(BigInt.asIntN(32, value)), Number(BigInt.asIntN(32, value >> 32n)));
    if (!ok) throw new Error(`the guest has no memory at ${at.toString(16)}`);
  }

  get(at: number): bigint {
    if (!this.space.load64(at)) throw new Error(`the guest has no memory at ${at.toString(16)}`);
    return (BigInt(this.space.hi >>> 0) << 32n) | BigInt(this.space.lo >>> 0);
  }
}

/** Registers as a driver uses them: 4 and 8 bytes. */
export class Registers {
  readonly #device: MmioDevice;

  constructor(device: MmioDevice) {
    this.#device = device;
  }

  read(at: number): number {
    return this.#device.read(at, 4) >>> 0;
  }

  write(at: number, value: number): void {
    this.#device.write(at, 4, value | 0, 0);
  }

  write64(at: number, value: bigint): void {
    this.#device.write(at, 8, Number(BigInt.asIntN(32, value)), Number(BigInt.asIntN(32, value >> 32n)));
  }
}
