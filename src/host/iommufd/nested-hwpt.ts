import type { NestedDomain } from '../kernel/driver.ts';
import type { FaultQueue } from './fault-queue.ts';
import type { PagingHwpt } from './paging-hwpt.ts';
import type { Viommu } from './viommu.ts';

/** What a nested HWPT is made of. */
export interface NestedHwptParts {
  readonly domain: NestedDomain;
  /** The second stage under it; through a vIOMMU that vIOMMU's. */
  readonly parent: PagingHwpt;
  /** null: made directly on the parent. */
  readonly viommu: Viommu | null;
  readonly pasidCompatible: boolean;
}

/** A guest-owned first stage, on a parent of its own or on a vIOMMU's. It never changes its parent. */
export class NestedHwpt implements NestedHwptParts {
  readonly kind = 'hwpt_nested';
  id = 0;
  users = 0;
  readonly domain: NestedDomain;
  readonly parent: PagingHwpt;
  readonly viommu: Viommu | null;
  readonly pasidCompatible: boolean;
  /** Where page requests that come through it go; null: they are answered INVALID. */
  fault: FaultQueue | null = null;

  constructor(parts: NestedHwptParts) {
    this.domain = parts.domain;
    this.parent = parts.parent;
    this.viommu = parts.viommu;
    this.pasidCompatible = parts.pasidCompatible;
    (parts.viommu ?? parts.parent).users++;
  }

  destroy(): void {
    this.domain.free();
    if (this.fault !== null) this.fault.users--;
    (this.viommu ?? this.parent).users--;
  }
}

/** What can be attached. */
export type Hwpt = PagingHwpt | NestedHwpt;

/** The HWPT whose IOAS a device behind `hwpt` sees: itself, or the parent. */
export function pagingOf(hwpt: Hwpt): PagingHwpt {
  return hwpt.kind === 'hwpt_paging' ? hwpt : hwpt.parent;
}
