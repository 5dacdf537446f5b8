import type { HostDevice } from '../../kernel/driver.ts';
import type { PasidEntryContent } from './entries.ts';
import type { PasidTable } from './pasid-table.ts';

/** PASID entry of requests without PASID: the context entry's RID_PASID. */
export const RID_PASID = 0;

/** A present entry: what it says, the words in memory, and the domain's list it is in. */
export interface InstalledEntry {
  content: PasidEntryContent;
  readonly words: Int32Array;
  readonly members: { leave(master: VtdMaster, pasid: number): void };
}

/** A device as this driver sees it. */
export class VtdMaster {
  readonly dev: HostDevice;
  readonly table: PasidTable;
  /** ATS, PRI and PASID are switched on in the function. */
  readonly ats: boolean;
  readonly pri: boolean;
  readonly pasids: boolean;
  /** A requester id of each context table that was made for this device. */
  madeTables: readonly number[] = [];
  /** Present entries by PASID. */
  readonly entries = new Map<number, InstalledEntry>();

  constructor(dev: HostDevice, table: PasidTable, on: Pick<VtdMaster, 'ats' | 'pri' | 'pasids'>) {
    this.dev = dev;
    this.table = table;
    this.ats = on.ats;
    this.pri = on.pri;
    this.pasids = on.pasids;
  }
}

/** One (device, PASID) below a domain; PASID 0 is the RID. */
export interface VtdUser {
  readonly master: VtdMaster;
  readonly pasid: number;
}
