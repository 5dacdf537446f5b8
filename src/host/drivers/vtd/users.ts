import { E } from '../../../spec/iommufd/errno.ts';
import type { Domain } from '../../kernel/driver.ts';
import type { IdPool } from '../ids.ts';
import type { PasidEntryContent } from './entries.ts';
import type { VtdMaster, VtdUser } from './master.ts';

/** A domain as attaching sees it. */
export interface VtdAttachable extends Domain {
  readonly members: VtdUsers;
  /** The entry that names its tables. @param did its domain id. */
  content(did: number): PasidEntryContent;
}

/** The (device, PASID)s below one domain, and the domain id they share while there are any. */
export class VtdUsers {
  readonly users: VtdUser[] = [];
  /** -1: nobody is below. */
  did = -1;
  readonly #ids: IdPool;

  constructor(ids: IdPool) {
    this.#ids = ids;
  }

  /** @returns 0 or -ENOSPC: no domain id left. */
  join(master: VtdMaster, pasid: number): number {
    if (this.did < 0) this.did = this.#ids.take();
    if (this.did < 0) return -E.NOSPC;
    this.users.push({ master, pasid });
    return 0;
  }

  /** Call it when the entry and everything cached of it are gone. */
  leave(master: VtdMaster, pasid: number): void {
    const at = this.users.findIndex((u) => u.master === master && u.pasid === pasid);
    if (at < 0) return;
    this.users.splice(at, 1);
    if (this.users.length > 0) return;
    this.#ids.give(this.did);
    this.did = -1;
  }
}
