import type { PagingDomain } from '../kernel/driver.ts';
import type { FaultQueue } from './fault-queue.ts';
import type { Ioas } from './ioas/ioas.ts';

/** What a HWPT over an IOAS is made of. */
export interface PagingHwptParts {
  readonly domain: PagingDomain;
  readonly ioas: Ioas;
  /** NEST_PARENT was given: nested HWPTs and vIOMMUs may stand on it. */
  readonly nestParent: boolean;
  /** PASID was given: it may be attached to PASIDs, and beside them to the RID. */
  readonly pasidCompatible: boolean;
}

/** A HWPT over an IOAS: one domain whose mappings follow the IOAS. */
export class PagingHwpt implements PagingHwptParts {
  readonly kind = 'hwpt_paging';
  id = 0;
  users = 0;
  readonly domain: PagingDomain;
  readonly ioas: Ioas;
  readonly nestParent: boolean;
  readonly pasidCompatible: boolean;
  /** Where page requests that come through it go; null: they are answered INVALID. */
  fault: FaultQueue | null = null;
  /** Made by attaching an IOAS; goes away with its last attachment. */
  auto = false;
  /** DMA through it always snoops. */
  coherent = false;
  /** Doorbell pages already mapped into it (host-physical). */
  readonly doorbells = new Set<number>();
  /** Told when it is gone. */
  gone: (() => void) | null = null;
  #joined = false;

  constructor(parts: PagingHwptParts) {
    this.domain = parts.domain;
    this.ioas = parts.ioas;
    this.nestParent = parts.nestParent;
    this.pasidCompatible = parts.pasidCompatible;
    parts.ioas.users++;
  }

  /** The domain takes over the mappings of the IOAS. @returns 0 or -errno (see `Ioas.addDomain`). */
  join(): number {
    const r = this.ioas.addDomain(this.domain);
    this.#joined = r === 0;
    return r;
  }

  destroy(): void {
    if (this.#joined) this.ioas.removeDomain(this.domain);
    this.domain.free();
    this.gone?.();
    if (this.fault !== null) this.fault.users--;
    this.ioas.users--;
  }
}
