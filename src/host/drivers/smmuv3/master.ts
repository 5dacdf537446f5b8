import { STE_WORDS } from '../../../spec/smmuv3/ste.ts';
import type { Domain, HostDevice } from '../../kernel/driver.ts';
import type { SteDevice } from './entries.ts';
import type { Smmuv3DriverFeatures } from './features.ts';
import type { Smmuv3CdTable } from './pasid-table.ts';

/** Which guest stream a physical one stands for, as it was when the nested domain was attached. */
export interface LatchedStream {
  /** Offers an event record to the vIOMMU's queue, under the guest's StreamID. */
  report(record: Int32Array): void;
}

/** One stream of a device as the hardware sees it. */
export interface MasterStream {
  readonly sid: number;
  /** Its entry. */
  readonly ste: Int32Array;
  /** The entry allows ATS: the function may hold translations made for this stream. */
  ats: boolean;
  latched: LatchedStream | null;
  /** What is attached to this stream alone; null: nothing, it goes with its device. */
  own: Domain | null;
}

/** A device as this driver sees it: its table entries, and what is switched on for it. */
export class Smmuv3Master implements SteDevice {
  readonly dev: HostDevice;
  readonly attrTypesOvr: boolean;
  readonly stalls: boolean;
  readonly stallEnabled: boolean;
  /** log2 of the SSIDs it can send. */
  readonly ssidBits: number;
  readonly streams: readonly MasterStream[];
  /** The RID is attached to nothing. */
  blocked = true;
  /** The kernel's own CD table, and the domain for whose attach it was made. */
  cds: Smmuv3CdTable | null = null;
  cdsFor: object | null = null;
  /** SSIDs in that table that belong to nobody and are only kept silent. */
  readonly quiet = new Set<number>();
  /** A StreamID of each level-2 stream table that was made for this device. */
  madeTables: readonly number[] = [];

  constructor(dev: HostDevice, features: Smmuv3DriverFeatures, canStall: boolean) {
    this.dev = dev;
    this.attrTypesOvr = features.attrTypesOvr;
    this.stalls = features.stalls;
    this.stallEnabled = features.stallForce || (features.stalls && canStall);
    const bits = dev.maxPasids > 0 ? Math.ceil(Math.log2(dev.maxPasids)) : 0;
    // Linear CD tables stop at 1024 entries.
    this.ssidBits = Math.min(bits, features.ssidBits, features.twoLevelCds ? 20 : 10);
    this.streams = dev.streams.map((sid) => {
      return { sid, ste: new Int32Array(STE_WORDS), ats: false, latched: null, own: null };
    });
  }

  /** ATS is enabled in the function, for one of its streams at least. */
  get ats(): boolean {
    return this.streams.some((s) => s.ats);
  }

  /** PASIDs of the host itself are attached: the kernel's CD table is needed. */
  get pasidsInUse(): boolean {
    return this.cds !== null && this.cds.pasids > this.quiet.size;
  }
}
