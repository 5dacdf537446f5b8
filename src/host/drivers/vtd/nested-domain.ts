import { VTD_S1_FLAG } from '../../../spec/iommufd/uapi.ts';
import { FSPM_BITS, PGTT } from '../../../spec/vtd/tables.ts';
import type { Domain, HostDevice, Invalidation, IommuDriver, NestedDomain } from '../../kernel/driver.ts';
import { VtdDriverCommands } from './commands.ts';
import type { PasidEntryContent } from './entries.ts';
import { WHOLE_DEVICE } from './master.ts';
import { type FirstStageData, supportsFirstStage } from './nested-data.ts';
import type { VtdDomainOwner, VtdPagingDomain } from './paging-domain.ts';
import type { VtdAttachable, VtdUsers } from './users.ts';

/** A guest's first-stage table over a nest parent. Both never change. */
export class VtdNestedDomain implements NestedDomain, VtdAttachable {
  readonly kind = 'nested';
  readonly iommu: IommuDriver;
  readonly pasidCapable = true;
  readonly parent: VtdPagingDomain;
  readonly data: FirstStageData;
  readonly members: VtdUsers;
  readonly invalidation: Invalidation;
  iopf = false;
  readonly #owner: VtdDomainOwner;

  constructor(owner: VtdDomainOwner, members: VtdUsers, parent: VtdPagingDomain, data: FirstStageData) {
    this.iommu = owner.iommu;
    this.#owner = owner;
    this.members = members;
    this.parent = parent;
    this.data = data;
    this.invalidation = new VtdDriverCommands(owner.queue, members);
    parent.nested.add(this);
  }

  content(did: number): PasidEntryContent {
    const { flags, table, addrWidth } = this.data;
    return {
      ...this.parent.content(did),
      pgtt: PGTT.NESTED,
      firstRoot: table,
      fspm: FSPM_BITS.indexOf(addrWidth),
      sre: (flags & VTD_S1_FLAG.SRE) !== 0,
      wpe: (flags & VTD_S1_FLAG.WPE) !== 0,
      eafe: (flags & VTD_S1_FLAG.EAFE) !== 0,
      pgsnp: this.parent.coherent,
    };
  }

  /** Whether the unit can walk such tables: 0 or -errno. */
  get supported(): number {
    return supportsFirstStage(this.data, this.#owner.features);
  }

  attach(dev: HostDevice, pasid: number, old: Domain | null): number {
    return this.#owner.attacher.attachNested(this, dev, pasid, old, WHOLE_DEVICE);
  }

  attachStream(dev: HostDevice, stream: number, old: Domain | null, pasid: number): number {
    return this.#owner.attacher.attachNested(this, dev, pasid, old, stream);
  }

  free(): void {
    // A unit that did not confirm a detach may still translate through the parent in this domain's name.
    this.#owner.queue.unconfirmed.afterwards(() => void this.parent.nested.delete(this));
  }
}
