import type { NestedDomain, PagingDomain } from '../kernel/driver.ts';
import type { FaultQueue } from './fault.ts';
import type { Ioas } from './ioas/ioas.ts';
import type { Viommu } from './viommu.ts';

/** A HWPT over an IOAS: one domain whose mappings follow the IOAS. */
export class PagingHwpt {
  readonly kind = 'hwpt_paging';
  id = 0;
  users = 0;
  readonly domain: PagingDomain;
  readonly ioas: Ioas;
  readonly nestParent: boolean;
  readonly pasidCompatible: boolean;
  fault: FaultQueue | null = null;
  /** Made by attaching an IOAS; goes away with its last attachment. */
  auto = false;
  /** DMA through it always snoops. */
  coherent = false;
  /** Doorbell pages already mapped into it (host-physical). */
  readonly doorbells = new Set<number>();
  #joined = false;

  constructor(domain: PagingDomain, ioas: Ioas, nestParent: boolean, pasidCompatible: boolean) {
    this.domain = domain;
    this.ioas = ioas;
    this.nestParent = nestParent;
    this.pasidCompatible = pasidCompatible;
    ioas.users++;
  }

  /** The domain takes over the mappings of the IOAS. @returns 0 or -errno (see `Ioas.addDomain`). */
  join(): number {
    const r = this.ioas.addDomain(this.domain);
    if (r !== 0) return r;
    this.#joined = true;
    this.ioas.hwpts.add(this);
    return 0;
  }

  destroy(): void {
    if (this.#joined) {
      this.ioas.hwpts.delete(this);
      this.ioas.removeDomain(this.domain);
    }
    this.domain.free();
    if (this.fault !== null) this.fault.users--;
    this.ioas.users--;
  }
}

/** A guest-owned first stage, on a parent of its own or on a vIOMMU's. */
export class NestedHwpt {
  readonly kind = 'hwpt_nested';
  id = 0;
  users = 0;
  readonly domain: NestedDomain;
  readonly parent: PagingHwpt;
  readonly viommu: Viommu | null;
  readonly pasidCompatible: boolean;
  fault: FaultQueue | null = null;

  constructor(domain: NestedDomain, parent: PagingHwpt, viommu: Viommu | null, pasidCompatible: boolean) {
    this.domain = domain;
    this.parent = parent;
    this.viommu = viommu;
    this.pasidCompatible = pasidCompatible;
    (viommu ?? parent).users++;
  }

  destroy(): void {
    this.domain.free();
    if (this.fault !== null) this.fault.users--;
    (this.viommu ?? this.parent).users--;
  }
}

export type Hwpt = PagingHwpt | NestedHwpt;

/** The HWPT whose IOAS a device behind `hwpt` sees: itself, or the parent. */
export function pagingOf(hwpt: Hwpt): PagingHwpt {
  return hwpt.kind === 'hwpt_paging' ? hwpt : hwpt.parent;
}
