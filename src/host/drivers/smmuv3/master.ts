import { STE_WORDS } from '../../../spec/smmuv3/ste.ts';
import type { HostDevice } from '../../kernel/driver.ts';
import type { SteDevice } from './entries.ts';
import type { Smmuv3DriverFeatures } from './features.ts';
import type { Smmuv3CdTable } from './pasid-table.ts';

/** Which guest stream a physical one stands for, as it was when the nested domain was attached. */
export interface LatchedStreams {
  /** Offers an event record, its StreamID already the guest's, to the vIOMMU's queue. */
  report(record: Int32Array, vsid: number): void;
  /** Guest StreamID of stream i of the device; -1: it has none. */
  readonly vsids: readonly number[];
}

/** A device as this driver sees it: its table entries, and what is switched on for it. */
export class Smmuv3Master implements SteDevice {
  readonly dev: HostDevice;
  readonly attrTypesOvr: boolean;
  readonly stalls: boolean;
  readonly stallEnabled: boolean;
  /** log2 of the SSIDs it can send. */
  readonly ssidBits: number;
  /** The entry of each stream as the hardware sees it. */
  readonly stes: readonly Int32Array[];
  /** ATS is enabled in the function and may be cached there. */
  ats = false;
  /** The RID is attached to nothing. */
  blocked = true;
  /** The kernel's own CD table, and the domain for whose attach it was made. */
  cds: Smmuv3CdTable | null = null;
  cdsFor: object | null = null;
  /** A StreamID of each level-2 stream table that was made for this device. */
  madeTables: readonly number[] = [];
  latched: LatchedStreams | null = null;

  constructor(dev: HostDevice, features: Smmuv3DriverFeatures, canStall: boolean) {
    this.dev = dev;
    this.attrTypesOvr = features.attrTypesOvr;
    this.stalls = features.stalls;
    this.stallEnabled = features.stallForce || (features.stalls && canStall);
    const bits = dev.maxPasids > 0 ? Math.ceil(Math.log2(dev.maxPasids)) : 0;
    // Linear CD tables stop at 1024 entries.
    this.ssidBits = Math.min(bits, features.ssidBits, features.twoLevelCds ? 20 : 10);
    this.stes = dev.streams.map(() => new Int32Array(STE_WORDS));
  }

  /** PASIDs of the host itself are attached: the kernel's CD table is needed. */
  get pasidsInUse(): boolean {
    return this.cds !== null && this.cds.pasids > 0;
  }
}
