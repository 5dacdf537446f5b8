import type { VtdFeatures } from '../../../lib/check/vtd-features.ts';
import { NO_PASID } from '../../../ports/dma.ts';
import type { HwPort } from '../../../ports/hw.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import type { Domain, HostDevice } from '../../kernel/driver.ts';
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
  /** Known once both are made. */
  readonly attacher: () => VtdDriverAttacher;
}

/** The devices behind one unit and what their context entries say. */
export class VtdDriverStreams {
  readonly #p: VtdDriverStreamsParts;
  /** By index of the device. */
  readonly #masters = new Map<number, VtdMaster>();

  constructor(parts: VtdDriverStreamsParts) {
    this.#p = parts;
  }

  masterOf(dev: HostDevice): VtdMaster | null {
    return this.#masters.get(dev.index) ?? null;
  }

  /** What stands for one stream while the streams of its device are attached one by one; else null. */
  partOf(dev: HostDevice, stream: number): VtdMaster | null {
    return this.#masters.get(dev.index)?.parts?.[stream] ?? null;
  }

  /** What a PASID (NO_PASID: a request without) of a stream is attached to; null: nothing. */
  domainOf(dev: HostDevice, stream: number, pasid: number): Domain | null {
    const master = this.partOf(dev, stream) ?? this.masterOf(dev);
    return master?.entries.get(pasid === NO_PASID ? RID_PASID : pasid)?.domain ?? null;
  }

  /** @returns -ENOMEM: no room for its tables; -EIO: the unit does not confirm its entry. */
  add(dev: HostDevice): number {
    const { features, root } = this.#p;
    const table = this.#table(dev);
    if (table === null) return -E.NOMEM;
    const made: number[] = [];
    if (!root.prepare(dev.streams, made)) {
      for (const rid of made) root.takeBack(rid);
      table.destroy();
      return -E.NOMEM;
    }
    const ats = features.deviceTlb && dev.ats;
    const pri = ats && features.pageRequests && dev.pri;
    const pasids = this.#pasids(dev);
    const master = new VtdMaster(dev, dev.streams, table, { ats, pri, pasids });
    master.madeTables = made;
    this.#masters.set(dev.index, master);
    this.#point(master);
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

  #pasids(dev: HostDevice): boolean {
    return dev.maxPasids > 0 && this.#p.features.pasidBits > 0;
  }

  /** A PASID table as large as the device needs, with room for RID_PASID; null: out of memory. */
  #table(dev: HostDevice): PasidTable | null {
    const { hw, memory, features } = this.#p;
    const pasids = this.#pasids(dev) ? Math.min(dev.maxPasids, 2 ** features.pasidBits) : 1;
    const table = PasidTable.create(hw, memory, pasids);
    if (table === null || table.prepare(RID_PASID)) return table;
    table.destroy();
    return null;
  }

  /** The context entries of a master's requester ids name its table. */
  #point({ rids, table, ats, pri, pasids }: VtdMaster): void {
    const flags =
      (ats ? CONTEXT.DTE : 0) |
      (pasids ? CONTEXT.PASIDE : 0) |
      (pri ? CONTEXT.PRE : 0) |
      (table.pdts << CONTEXT.PDTS_AT);
    for (const rid of rids) this.#p.root.set(rid, table.directory, flags);
  }

  /**
   * The device is to be attached as a whole: its streams share one PASID table again.
   * @returns -EINVAL: it is none of this unit's; -EBUSY: a stream has something; -EIO: the unit does not confirm.
   */
  whole(dev: HostDevice): VtdMaster | number {
    const master = this.masterOf(dev);
    if (master === null) return -E.INVAL;
    const { parts } = master;
    if (parts === null) return master;
    if (parts.some((part) => part.entries.size > 0)) return -E.BUSY;
    this.#point(master);
    const r = this.#forget(dev);
    if (r !== 0) {
      for (const part of parts) this.#point(part);
      return r;
    }
    master.parts = null;
    for (const part of parts) part.table.destroy();
    return master;
  }

  /**
   * A stream of the device is to be attached by itself: from now on each has a PASID table of its own. Nothing is attached
   * to the device as a whole.
   * @returns -EINVAL: no such stream; -ENOMEM; -EIO: the unit does not confirm.
   */
  apart(dev: HostDevice, stream: number): VtdMaster | number {
    const master = this.masterOf(dev);
    if (master === null) return -E.INVAL;
    const r = master.parts === null ? this.#split(master) : 0;
    return r < 0 ? r : (master.parts?.[stream] ?? -E.INVAL);
  }

  #split(master: VtdMaster): number {
    const { dev } = master;
    const parts: VtdMaster[] = [];
    for (const rid of dev.streams) {
      const table = this.#table(dev);
      if (table === null) {
        for (const part of parts) part.table.destroy();
        return -E.NOMEM;
      }
      parts.push(new VtdMaster(dev, [rid], table, master));
    }
    for (const part of parts) this.#point(part);
    const r = this.#forget(dev);
    if (r !== 0) {
      this.#point(master);
      this.#forget(dev);
      // Until the unit has confirmed, it may still read the tables of the parts.
      this.#p.queue.unconfirmed.afterwards(() => parts.forEach((part) => void part.table.destroy()));
      return r;
    }
    master.parts = parts;
    return 0;
  }

  /** @param undo its arrival failed: the tables that were made for it go too. */
  remove(dev: HostDevice, undo: boolean): void {
    const master = this.#masters.get(dev.index);
    if (master === undefined) return;
    const attacher = this.#p.attacher();
    for (const m of [master, ...(master.parts ?? [])]) {
      for (const pasid of [...m.entries.keys()]) attacher.tearDown(m, pasid, null);
    }
    if (master.pri) dev.control?.setPri(false);
    if (master.ats) dev.control?.setAts(false);
    this.#drop(master, undo);
  }

  /** Takes the device's context entries away. A unit that does not confirm may still read its tables: they stay until it does. */
  #drop(master: VtdMaster, undo: boolean): void {
    const { root } = this.#p;
    for (const rid of master.dev.streams) root.clear(rid);
    this.#masters.delete(master.dev.index);
    const confirmed = this.#forget(master.dev) === 0;
    // Context tables that cannot be taken back at once serve the next device.
    if (undo && confirmed) for (const rid of master.madeTables) root.takeBack(rid);
    this.#p.queue.unconfirmed.afterwards(() => {
      for (const part of master.parts ?? []) part.table.destroy();
      master.table.destroy();
    });
  }

  /** What the functions behind the unit may hold. */
  forgetDevices(): void {
    const attacher = this.#p.attacher();
    for (const master of this.#masters.values()) {
      for (const m of [master, ...(master.parts ?? [])]) attacher.forgetDevice(m);
    }
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
