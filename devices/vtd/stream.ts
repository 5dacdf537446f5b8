import { ListedMap } from '../../src/lib/collections/listed-map.ts';
import type { VfioDevice } from '../../src/ports/iommufd.ts';
import type { VtdDomain } from './domains.ts';
import type { PasidMode } from './pasid-modes.ts';

/** One (device, PASID) that is attached because the guest's tables say so. */
export interface VtdSlot {
  /** NO_PASID: the requester id itself. */
  readonly pasid: number;
  /** Index of its PASID entry. */
  readonly index: number;
  /** The guest's domain id. */
  readonly did: number;
  readonly domain: VtdDomain;
  /** Host PASIDs the domain is attached under. */
  readonly host: readonly number[];
}

/** What a function brings along when it is plugged in. */
export interface VtdStreamConfig {
  /** Requester id as the guest knows it. */
  readonly rid: number;
  readonly aliases: readonly number[];
  readonly vfio: VfioDevice;
  /** log2 of the PASIDs the physical function has and the guest is shown; 0: none. */
  readonly pasidBits: number;
  readonly mode: PasidMode;
  /** iommufd's fault queue for page requests; 0: none. */
  readonly faultId: number;
}

/** One function of the VM with what each of its PASIDs is attached to. */
export class VtdStream {
  readonly rid: number;
  readonly aliases: readonly number[];
  readonly vfio: VfioDevice;
  readonly pasidBits: number;
  readonly mode: PasidMode;
  readonly slots = new ListedMap<number, VtdSlot>();
  /** Becomes 0 when the host shows that the function cannot be attached with a fault queue (it has no PRI). */
  faultId: number;
  /**
   * PASIDs (NO_PASID: the requester id) that the host refused to make what the guest's tables say. One with a slot is still
   * attached to what was to go; one without has nothing, and its requests are faults.
   */
  readonly unsettled = new Set<number>();
  /** The host refused to map what the last miss asked for; counts for the fault that follows. */
  missRefused = false;
  /** Translation is off and the requester id sits on guest RAM. */
  bypass = false;

  constructor(config: VtdStreamConfig) {
    this.rid = config.rid;
    this.aliases = config.aliases;
    this.vfio = config.vfio;
    this.pasidBits = config.pasidBits;
    this.mode = config.mode;
    this.faultId = config.faultId;
  }

  /** Index of the function's stream with a guest requester id. */
  streamOf(rid: number): number {
    return rid === this.rid ? 0 : this.aliases.indexOf(rid) + 1;
  }

  /** Guest requester id of stream `i` of the function. */
  ridOf(i: number): number {
    return i === 0 ? this.rid : (this.aliases[i - 1] ?? this.rid);
  }
}
