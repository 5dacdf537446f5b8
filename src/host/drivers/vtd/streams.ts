import type { VtdFeatures } from '../../../lib/check/vtd-features.ts';
import type { HwPort } from '../../../ports/hw.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import type { HostDevice } from '../../kernel/driver.ts';
import type { PageAllocator } from '../page-allocator.ts';
import type { VtdDriverAttacher } from './attach.ts';
import { CONTEXT } from './entries.ts';
import { RID_PASID, VtdMaster } from './master.ts';
import { PasidTable } from './pasid-table.ts';
import type { VtdDriverQueue } from './queue.ts';
import type { RootTable } from './tables.ts';

export interface VtdDriverStreamsParts {
  readonly hw: HwPort;
  readonly memory: PageAllocator;
  readonly features: VtdFeatures;
  readonly queue: VtdDriverQueue;
  readonly root: RootTable;
  readonly masters: Map<number, VtdMaster>;
  readonly attacher: VtdDriverAttacher;
}

/** The devices behind one unit and what their context entries say. */
export class VtdDriverStreams {
  readonly #p: VtdDriverStreamsParts;

  constructor(parts: VtdDriverStreamsParts) {
    this.#p = parts;
  }

  masterOf(dev: HostDevice): VtdMaster | null {
    return this.#p.masters.get(dev.index) ?? null;
  }

  /** @returns -ENOMEM: no room for its tables; -EIO: the unit does not confirm its entry. */
  add(dev: HostDevice): number {
    const { hw, memory, features, root, masters } = this.#p;
    const pasids = dev.maxPasids > 0 && features.pasidBits > 0;
    const table = PasidTable.create(hw, memory, pasids ? Math.min(dev.maxPasids, 2 ** features.pasidBits) : 1);
    if (table === null) return -E.NOMEM;
    const made: number[] = [];
    if (!table.prepare(RID_PASID) || !root.prepare(dev.streams, made)) {
      for (const rid of made) root.takeBack(rid);
      table.destroy();
      return -E.NOMEM;
    }
    const ats = features.deviceTlb && dev.ats;
    const pri = ats && features.pageRequests && dev.pri;
    const flags =
      (ats ? CONTEXT.DTE : 0) |
      (pasids ? CONTEXT.PASIDE : 0) |
      (pri ? CONTEXT.PRE : 0) |
      (table.pdts << CONTEXT.PDTS_AT);
    const master = new VtdMaster(dev, table, { ats, pri, pasids });
    master.madeTables = made;
    masters.set(dev.index, master);
    for (const rid of dev.streams) root.set(rid, table.directory, flags);
    if (features.cachingMode) {
      const r = this.#forget(dev);
      if (r !== 0) {
        this.#drop(master, true);
        return r;
      }
    }
    if (ats) dev.control?.setAts(true);
    if (pri) dev.control?.setPri(true);
    return 0;
  }

  /** @param undo its arrival failed: the tables that were made for it go too. */
  remove(dev: HostDevice, undo: boolean): void {
    const { masters, attacher } = this.#p;
    const master = masters.get(dev.index);
    if (master === undefined) return;
    for (const pasid of [...master.entries.keys()]) attacher.tearDown(master, pasid, null);
    if (master.pri) dev.control?.setPri(false);
    if (master.ats) dev.control?.setAts(false);
    this.#drop(master, undo);
  }

  /** Takes the device's context entries away. A unit that does not confirm may still read its tables: they stay. */
  #drop(master: VtdMaster, undo: boolean): void {
    const { root, masters } = this.#p;
    for (const rid of master.dev.streams) root.clear(rid);
    masters.delete(master.dev.index);
    if (this.#forget(master.dev) !== 0) return;
    if (undo) for (const rid of master.madeTables) root.takeBack(rid);
    master.table.destroy();
  }

  /** A context entry changed: the caches in the order of VT-d §6.5.3.3. */
  #forget(dev: HostDevice): number {
    const { queue } = this.#p;
    for (const rid of dev.streams) queue.contextDevice(rid);
    queue.pasidCacheGlobal();
    queue.iotlbGlobal();
    return queue.flush();
  }
}
