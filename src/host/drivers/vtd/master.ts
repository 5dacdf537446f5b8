import type { Domain, HostDevice } from '../../kernel/driver.ts';
import type { PasidEntryContent } from './entries.ts';
import type { PasidTable } from './pasid-table.ts';

/** PASID entry of requests without PASID: the context entry's RID_PASID. */
export const RID_PASID = 0;

/** Stands for every stream of a device. */
export const WHOLE_DEVICE = -1;

/** An entry the unit may use: what it says, the words in memory, and the domain's list it is in. */
export interface InstalledEntry {
  readonly domain: Domain;
  content: PasidEntryContent;
  readonly words: Int32Array;
  /** It was detached, and the unit has not confirmed: it never comes back into force. */
  gone: boolean;
  readonly members: { leave(master: VtdMaster, pasid: number): void };
}

/** What one PASID table is for: all streams of a device, or one whose entries are its own. */
export class VtdMaster {
  readonly dev: HostDevice;
  /** The requester ids whose context entries name the table. */
  readonly rids: readonly number[];
  readonly table: PasidTable;
  /** Of a whole device: one for each stream while its streams are attached one by one. */
  parts: readonly VtdMaster[] | null = null;
  /** ATS, PRI and PASID are switched on in the function. */
  readonly ats: boolean;
  readonly pri: boolean;
  readonly pasids: boolean;
  /** A requester id of each context table that was made for this device. */
  madeTables: readonly number[] = [];
  /** Present entries by PASID. */
  readonly entries = new Map<number, InstalledEntry>();

  constructor(
    dev: HostDevice,
    rids: readonly number[],
    table: PasidTable,
    on: Pick<VtdMaster, 'ats' | 'pri' | 'pasids'>,
  ) {
    this.dev = dev;
    this.rids = rids;
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
