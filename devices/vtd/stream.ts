import { ListedMap } from '../../src/lib/collections/listed-map.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import type { VfioDevice } from '../../src/ports/iommufd.ts';
import type { VtdDomain } from './domains.ts';
import type { VtdConfiguration } from './faults.ts';
import type { PasidMode } from './pasid-modes.ts';

/** Where a slot is found again. */
export interface VtdSlotPlace {
  readonly stream: VtdStream;
  readonly pasid: number;
}

/** One (device, PASID) that is attached because the guest's tables say so. */
export interface VtdSlot {
  /** NO_PASID: the requester id itself. */
  readonly pasid: number;
  /** Index of its PASID entry. */
  readonly index: number;
  /** The guest's domain id. */
  readonly did: number;
  readonly domain: VtdDomain;
  /** What the guest's tables said when it came into force: they may say something else by now. */
  readonly configuration: VtdConfiguration;
  /** Host PASIDs the domain is attached under. */
  readonly host: readonly number[];
  /** Stamp of the last invalidation round that looked at it again. */
  round: number;
  /** Its place in the order in which slots were made. */
  readonly place: VtdSlotPlace;
}

/** A VFIO device behind the unit. Each requester id of it has what its own context entry says. */
export interface VtdStreamDevice {
  readonly vfio: VfioDevice;
  /** In the order of the device's physical streams; behind them slices of it, which send as its first stream. */
  readonly streams: VtdStream[];
  /** The physical streams are several. */
  readonly several: boolean;
  /** Of several without a host that tells them apart: what the device as a whole is attached to, by PASID. */
  readonly agreed: Map<number, number>;
  /** Without upcalls: the host's PASIDs that were detached, while nothing has shown that the unit has forgotten what was there. */
  readonly unproved: Set<number>;
  unserve: () => void;
  /** The host's name of its isolation group; undefined: it is alone. */
  readonly groupName: string | undefined;
  /** All devices of its isolation group, with itself: on the host they are where one of them is. */
  group: ReadonlySet<VtdStreamDevice>;
  /** The HWPT that the host was last asked to put under each of its PASIDs for this device; another one may have been moved since. */
  readonly attached: Map<number, number>;
}

/** What a requester id brings along when its function is plugged in. */
export interface VtdStreamConfig {
  readonly device: VtdStreamDevice;
  /** Index among the device's physical streams. */
  readonly index: number;
  /** Requester id as the guest knows it. */
  readonly rid: number;
  /** log2 of the PASIDs the physical function has and the guest is shown; 0: none. */
  readonly pasidBits: number;
  readonly mode: PasidMode;
  /** The host's PASID of what a slice sends without one. */
  readonly slice: number | undefined;
  /** Its PASIDs have twins in the host's pool. */
  readonly global: boolean;
  /** iommufd's fault queue for page requests; 0: none. */
  readonly faultId: number;
}

/** One requester id of the VM with what each of its PASIDs is attached to. */
export class VtdStream {
  readonly device: VtdStreamDevice;
  readonly index: number;
  readonly rid: number;
  readonly pasidBits: number;
  readonly mode: PasidMode;
  /** The HWPT it asks for under each host PASID, where the streams of a device have to agree. */
  readonly wanted = new Map<number, number>();
  /** Host PASID of its requests without one, when it is a slice of a function. */
  readonly slice: number | undefined;
  /** Its PASIDs have twins in the host's pool. */
  readonly global: boolean;
  readonly slots = new ListedMap<number, VtdSlot>();
  /** Becomes 0 when the host shows that the function cannot be attached with a fault queue (it has no PRI). */
  faultId: number;
  /**
   * PASIDs (NO_PASID: the requester id) that the host refused to make what the guest's tables say. One with a slot is still
   * attached to what was to go; one without has nothing, and its requests are faults.
   */
  readonly unsettled = new Set<number>();
  /** PASIDs whose cached translations in the ATC are still to go, see `RefusedDescriptor`. */
  readonly skipped = new Set<number>();
  /** Stamp of the last invalidation round that went through it. */
  round = 0;
  /** Stamp of the last switch of translation that went through it. */
  placed = 0;
  /** How far the capture of its PASIDs is in a round: the next one, and how many may still be set up. */
  readonly captured = { round: 0, next: 0, left: 0 };
  /** The round in which what the host refused is tried again, and what of it is left. */
  readonly healing = { round: 0, left: [] as number[] };
  /** The host refused to map what the last miss asked for; counts for the fault that follows. */
  missRefused = false;
  /** What the guest's own second stage said to the last miss; counts for the fault that follows. */
  readonly missed = { ipa: 0, reason: 0 };
  /** Translation is off and the requester id sits on guest RAM. */
  bypass = false;

  constructor(config: VtdStreamConfig) {
    this.device = config.device;
    this.index = config.index;
    this.rid = config.rid;
    this.pasidBits = config.pasidBits;
    this.mode = config.mode;
    this.slice = config.slice;
    this.global = config.global;
    this.faultId = config.faultId;
  }

  /** What is attached by the PASID entry `index`: with that PASID (`which` 0), or without one, whose entry may be the same (1). */
  slotOf(index: number, which: number): VtdSlot | undefined {
    const slot = this.slots.get(which === 0 ? index : NO_PASID);
    return slot?.index === index ? slot : undefined;
  }

  /** It is still attached to what the host refused to take away. */
  get keeps(): boolean {
    if (this.unsettled.size === 0) return false;
    for (const pasid of this.unsettled) if (this.slots.has(pasid)) return true;
    return false;
  }

  get vfio(): VfioDevice {
    return this.device.vfio;
  }

  /** The host has names of its own for its PASIDs, which nobody can use before they are set up. */
  get renamed(): boolean {
    return this.slice !== undefined || this.global;
  }
}
