import { NO_PASID } from '../../../ports/dma.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { CONFIG } from '../../../spec/smmuv3/ste.ts';
import type { Domain, HostDevice, IommuDriver, NestedDomain } from '../../kernel/driver.ts';
import type { Vste } from './nested-data.ts';
import type { Smmuv3PagingDomain } from './paging-domain.ts';
import { ALL_STREAMS } from './users.ts';

/** What a guest's stream configuration stands on: its vIOMMU, which moves devices for it. */
export interface Smmuv3NestedOwner {
  readonly iommu: IommuDriver;
  readonly parent: Smmuv3PagingDomain;
  attachNested(domain: Smmuv3NestedDomain, dev: HostDevice, stream: number, old: Domain | null): number;
}

/** A guest's stream configuration over its vIOMMU's stage 2. Both never change. */
export class Smmuv3NestedDomain implements NestedDomain {
  readonly kind = 'nested';
  readonly iommu: IommuDriver;
  readonly pasidCapable = false;
  /** Guest commands go through the vIOMMU. */
  readonly invalidation = null;
  readonly viommu: Smmuv3NestedOwner;
  readonly vste: Vste;
  iopf = false;

  constructor(viommu: Smmuv3NestedOwner, vste: Vste) {
    this.iommu = viommu.iommu;
    this.viommu = viommu;
    this.vste = vste;
  }

  get parent(): Smmuv3PagingDomain {
    return this.viommu.parent;
  }

  /** A guest that does not believe in ATS sends no invalidations for it, so the function must not use it. */
  get ats(): boolean {
    return this.vste.config === CONFIG.S1 ? this.vste.ats : true;
  }

  attach(dev: HostDevice, pasid: number, old: Domain | null): number {
    if (dev.iommu !== this.iommu) return -E.INVAL;
    if (pasid !== NO_PASID) return -E.OPNOTSUPP;
    return this.viommu.attachNested(this, dev, ALL_STREAMS, old);
  }

  attachStream(dev: HostDevice, stream: number, old: Domain | null, pasid: number): number {
    if (pasid !== NO_PASID) return -E.OPNOTSUPP;
    return dev.iommu === this.iommu ? this.viommu.attachNested(this, dev, stream, old) : -E.INVAL;
  }

  free(): void {}
}
