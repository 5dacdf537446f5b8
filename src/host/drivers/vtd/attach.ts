import type { VtdFeatures } from '../../../lib/check/vtd-features.ts';
import { NO_PASID } from '../../../ports/dma.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { PGTT } from '../../../spec/vtd/tables.ts';
import type { Domain, HostDevice } from '../../kernel/driver.ts';
import { buildEntry, ENTRY_WORDS } from './entries.ts';
import { flushDevice } from './maintenance.ts';
import { type Installed, type Master, RID_PASID } from './master.ts';
import { ALL_PAGES, type InvalidationQueue } from './queue.ts';
import type { Attachable, Membership } from './users.ts';

/** Fault processing disable, bit 1 of a PASID entry (VT-d §9.6). */
const FPD = 2;

/**
 * Installs and removes PASID entries, in the kernel's order. Every change is break-before-make: what was there is torn down
 * and forgotten by every cache before the next entry appears.
 */
export class Attacher {
  readonly #unit: VtdFeatures;
  readonly #queue: InvalidationQueue;
  readonly #masterOf: (dev: HostDevice) => Master | null;
  /** Page requests of the (device, PASID) that are still held are answered. */
  readonly #answer: (master: Master, pasid: number) => void;

  constructor(
    unit: VtdFeatures,
    queue: InvalidationQueue,
    masterOf: (dev: HostDevice) => Master | null,
    answer: (master: Master, pasid: number) => void,
  ) {
    this.#unit = unit;
    this.#queue = queue;
    this.#masterOf = masterOf;
    this.#answer = answer;
  }

  attachPaging(domain: Attachable, dev: HostDevice, pasid: number, old: Domain | null): number {
    const master = this.#masterOf(dev);
    // Tables of another unit: the user tries the next domain or makes one.
    if (master === null || dev.iommu !== domain.iommu) return -E.INVAL;
    return this.#possible(domain, master, pasid) || this.#move(master, domain, pasid, old);
  }

  /**
   * A RID is blocked first and checked then, as the kernel does: a refused attach leaves it blocked.
   * @param supported what only attach looks at: 0 or -errno.
   */
  attachNested(domain: Attachable, dev: HostDevice, pasid: number, old: Domain | null, supported: number): number {
    const master = this.#masterOf(dev);
    if (master === null || dev.iommu !== domain.iommu) return -E.INVAL;
    if (pasid === NO_PASID) this.tearDown(master, RID_PASID, old);
    return this.#possible(domain, master, pasid) || supported || this.#move(master, domain, pasid, old);
  }

  #possible(domain: Domain, master: Master, pasid: number): number {
    if (pasid !== NO_PASID) {
      if (!master.pasids) return -E.OPNOTSUPP;
      if (pasid >= 2 ** this.#unit.pasidBits) return -E.INVAL;
      if (pasid >= master.table.capacity) return -E.NODEV;
    }
    return domain.iopf && !master.pri ? -E.NODEV : 0;
  }

  #move(master: Master, domain: Attachable, requested: number, old: Domain | null): number {
    const pasid = requested === NO_PASID ? RID_PASID : requested;
    const { members } = domain;
    // For a PASID everything that can fail comes before the old entry goes.
    if (pasid === RID_PASID) this.tearDown(master, pasid, old);
    if (!master.table.prepare(pasid)) return -E.NOMEM;
    const joined = members.join(master, pasid);
    if (joined !== 0) return joined;
    if (pasid !== RID_PASID) this.tearDown(master, pasid, old);
    const content = domain.content(members.did);
    const installed: Installed = { content, words: new Int32Array(ENTRY_WORDS), members };
    buildEntry(installed.words, content);
    master.table.write(pasid, installed.words);
    master.entries.set(pasid, installed);
    if (this.#unit.cachingMode) {
      this.#queue.pasidCache(content.did, pasid);
      this.#queue.pasidIotlb(content.did, pasid);
      this.#queue.flush();
    }
    return 0;
  }

  /** Detaches a (device, PASID): its entry is not present afterwards and nothing of it is cached anywhere. */
  tearDown(master: Master, pasid: number, old: Domain | null): void {
    const installed = master.entries.get(pasid);
    if (installed === undefined) return;
    const { words } = installed;
    words[0] = words[0]! & ~1;
    master.table.writeWord(pasid, 0, words);
    this.#forget(master, pasid, installed);
    words.fill(0);
    master.table.write(pasid, words);
    master.entries.delete(pasid);
    installed.members.leave(master, pasid);
    if (old?.iopf === true) this.#drain(master, pasid, installed.content.did);
  }

  /** Page requests on their way are fenced off: after the last wait none of them can appear any more (VT-d §7.10). */
  #drain(master: Master, pasid: number, did: number): void {
    this.#answer(master, pasid);
    const queue = this.#queue;
    queue.wait(true, false);
    if (pasid === RID_PASID) queue.iotlbDomain(did);
    else queue.pasidIotlb(did, pasid);
    if (master.ats) flushDevice(queue, master, pasid, 0, ALL_PAGES);
    queue.wait(false, this.#unit.pageRequestDrain);
    queue.flush();
  }

  /**
   * A PASID without a domain: its entry is not present, and FPD says whether faults of it are recorded.
   * @returns 0; -EINVAL no such PASID; -EBUSY something is attached; -ENOMEM.
   */
  quiet(dev: HostDevice, pasid: number, on: boolean): number {
    const master = this.#masterOf(dev);
    if (master === null || !master.pasids || pasid < 0 || pasid >= master.table.capacity) return -E.INVAL;
    if (master.entries.has(pasid)) return -E.BUSY;
    if (!master.table.prepare(pasid)) return -E.NOMEM;
    const words = new Int32Array(ENTRY_WORDS);
    words[0] = on ? FPD : 0;
    master.table.writeWord(pasid, 0, words);
    return 0;
  }

  /** PASID cache, then translations, then what the function holds. */
  #forget(master: Master, pasid: number, { content }: Installed): void {
    const queue = this.#queue;
    queue.pasidCache(content.did, pasid);
    if (content.pgtt === PGTT.FIRST || content.pgtt === PGTT.PASS_THROUGH) queue.pasidIotlb(content.did, pasid);
    else queue.iotlbDomain(content.did);
    queue.flush();
    if (!master.ats) return;
    flushDevice(queue, master, pasid, 0, ALL_PAGES);
    queue.flush();
  }

  /** Switches SSADE in the entries of a domain's users. */
  retrack(members: Membership, ssade: boolean): void {
    for (const { master, pasid } of members.users) {
      const installed = master.entries.get(pasid);
      if (installed === undefined) continue;
      installed.content = { ...installed.content, ssade };
      buildEntry(installed.words, installed.content);
      master.table.writeWord(pasid, 0, installed.words);
      this.#forget(master, pasid, installed);
    }
  }
}
