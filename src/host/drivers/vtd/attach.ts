import type { VtdFeatures } from '../../../lib/check/vtd-features.ts';
import { NO_PASID } from '../../../ports/dma.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { PGTT } from '../../../spec/vtd/tables.ts';
import type { Domain, HostDevice } from '../../kernel/driver.ts';
import { buildEntry, PASID_ENTRY_WORDS } from './entries.ts';
import { flushDevice } from './maintenance.ts';
import { type InstalledEntry, RID_PASID, type VtdMaster, WHOLE_DEVICE } from './master.ts';
import { ALL_PAGES, type VtdDriverQueue } from './queue.ts';
import type { VtdAttachable, VtdUsers } from './users.ts';

/** Present and fault processing disable, bits 0 and 1 of a PASID entry (VT-d §9.6). */
const P = 1;
const FPD = 2;

export interface VtdDriverAttacherParts {
  readonly features: VtdFeatures;
  readonly queue: VtdDriverQueue;
  /**
   * Whose entries an attach changes: the device's, or one stream's. @param stream index, or WHOLE_DEVICE.
   * @returns -EINVAL: no such device; -ENOMEM; -EIO.
   */
  readonly masterOf: (dev: HostDevice, stream: number) => VtdMaster | number;
  /** Answers page requests of the (device, PASID) that are still held. */
  readonly answer: (master: VtdMaster, pasid: number) => void;
}

/**
 * Installs and removes PASID entries, in the kernel's order. Every change is break-before-make: what was there is torn down
 * and forgotten by every cache before the next entry appears.
 */
export class VtdDriverAttacher {
  readonly #features: VtdFeatures;
  readonly #queue: VtdDriverQueue;
  readonly #masterOf: VtdDriverAttacherParts['masterOf'];
  readonly #answer: VtdDriverAttacherParts['answer'];

  constructor(parts: VtdDriverAttacherParts) {
    this.#features = parts.features;
    this.#queue = parts.queue;
    this.#masterOf = parts.masterOf;
    this.#answer = parts.answer;
  }

  /** @param stream index of the stream that moves by itself, or WHOLE_DEVICE. */
  attachPaging(domain: VtdAttachable, dev: HostDevice, pasid: number, old: Domain | null, stream: number): number {
    // Tables of another unit: the user tries the next domain or makes one.
    if (dev.iommu !== domain.iommu) return -E.INVAL;
    const master = this.#masterOf(dev, stream);
    if (typeof master === 'number') return master;
    return this.#outcome(dev, stream, this.#possible(domain, master, pasid) || this.#move(master, domain, pasid, old));
  }

  /**
   * A RID is blocked first and checked then, as the kernel does: a refused attach leaves it blocked.
   * `supported` is what only attach looks at: 0 or -errno. @param stream index of a single stream, or WHOLE_DEVICE.
   */
  attachNested(
    domain: VtdAttachable & { readonly supported: number },
    dev: HostDevice,
    pasid: number,
    old: Domain | null,
    stream: number,
  ): number {
    if (dev.iommu !== domain.iommu) return -E.INVAL;
    const master = this.#masterOf(dev, stream);
    if (typeof master === 'number') return master;
    if (pasid === NO_PASID) {
      const left = this.#queue.unconfirmed.settle() || this.#leave(master, RID_PASID, old);
      if (left !== 0) return left;
    }
    const r = this.#possible(domain, master, pasid) || domain.supported || this.#move(master, domain, pasid, old);
    return this.#outcome(dev, stream, r);
  }

  /** When the first stream that was to move by itself does not, the streams share one PASID table again, as before. */
  #outcome(dev: HostDevice, stream: number, r: number): number {
    if (r !== 0 && stream !== WHOLE_DEVICE) this.#masterOf(dev, WHOLE_DEVICE);
    return r;
  }

  #possible(domain: Domain, master: VtdMaster, pasid: number): number {
    if (pasid !== NO_PASID) {
      if (!master.pasids) return -E.OPNOTSUPP;
      if (pasid >= 2 ** this.#features.pasidBits) return -E.INVAL;
      if (pasid >= master.table.capacity) return -E.NODEV;
    }
    return domain.iopf && !master.pri ? -E.NODEV : 0;
  }

  #move(master: VtdMaster, domain: VtdAttachable, requested: number, old: Domain | null): number {
    const pasid = requested === NO_PASID ? RID_PASID : requested;
    const { members } = domain;
    // While the unit has not forgotten everything, it may know an entry that was here before.
    const refused = this.#queue.unconfirmed.settle();
    if (refused !== 0) return refused;
    // For a PASID everything that can fail comes before the old entry goes.
    if (pasid === RID_PASID) {
      const left = this.#leave(master, pasid, old);
      if (left !== 0) return left;
    }
    if (!master.table.prepare(pasid)) return -E.NOMEM;
    const joined = members.join(master, pasid);
    if (joined !== 0) return joined;
    if (pasid !== RID_PASID) {
      const left = this.#leave(master, pasid, old);
      if (left !== 0) {
        members.leave(master, pasid);
        return left;
      }
    }
    const content = domain.content(members.did);
    const installed: InstalledEntry = {
      domain,
      content,
      words: new Int32Array(PASID_ENTRY_WORDS),
      gone: false,
      members,
    };
    buildEntry(installed.words, content);
    master.table.write(pasid, installed.words);
    master.entries.set(pasid, installed);
    return this.#announce(master, pasid, content.did);
  }

  /** A unit that caches what is not present has to be told of a new entry. @returns 0; -EIO: it was not, the entry is gone. */
  #announce(master: VtdMaster, pasid: number, did: number): number {
    if (!this.#features.cachingMode) return 0;
    this.#queue.pasidCache(did, pasid);
    this.#queue.pasidIotlb(did, pasid);
    const r = this.#queue.flush();
    if (r !== 0) this.tearDown(master, pasid, null);
    return r;
  }

  /** The entry goes for an attach: when that fails, it stays in force. */
  #leave(master: VtdMaster, pasid: number, old: Domain | null): number {
    const r = this.#takeOut(master, pasid, old);
    const installed = master.entries.get(pasid);
    if (r !== 0 && installed?.gone === false) {
      installed.words[0] = installed.words[0]! | P;
      master.table.writeWord(pasid, 0, installed.words);
    }
    return r;
  }

  /**
   * Detaches a (device, PASID): its entry is not present afterwards and nothing of it is cached anywhere.
   * @returns 0; -EIO: the unit did not confirm. The entry is not present in memory, but its domain keeps its id and its
   *   tables until the unit has.
   */
  tearDown(master: VtdMaster, pasid: number, old: Domain | null): number {
    const r = this.#takeOut(master, pasid, old);
    const installed = master.entries.get(pasid);
    if (r === 0 || installed === undefined || installed.gone) return r;
    installed.gone = true;
    this.#queue.unconfirmed.afterwards(() => {
      if (master.entries.get(pasid) === installed) this.#drop(master, pasid, installed);
    });
    return r;
  }

  #takeOut(master: VtdMaster, pasid: number, old: Domain | null): number {
    const installed = master.entries.get(pasid);
    if (installed === undefined) return 0;
    const { words } = installed;
    words[0] = words[0]! & ~P;
    master.table.writeWord(pasid, 0, words);
    const forgotten = this.#forget(master, pasid, installed);
    if (forgotten !== 0) return forgotten;
    if (old?.iopf === true) {
      const drained = this.#drain(master, pasid, installed.content.did);
      if (drained !== 0) return drained;
    }
    this.#drop(master, pasid, installed);
    return 0;
  }

  /** No cache knows the entry. */
  #drop(master: VtdMaster, pasid: number, { words, members }: InstalledEntry): void {
    words.fill(0);
    master.table.write(pasid, words);
    master.entries.delete(pasid);
    members.leave(master, pasid);
  }

  /** Page requests on their way are fenced off: after the last wait none of them can appear any more (VT-d §7.10). */
  #drain(master: VtdMaster, pasid: number, did: number): number {
    this.#answer(master, pasid);
    const queue = this.#queue;
    queue.wait(true, false);
    if (pasid === RID_PASID) queue.iotlbDomain(did);
    else queue.pasidIotlb(did, pasid);
    if (master.ats) flushDevice(queue, master, pasid, 0, ALL_PAGES);
    queue.wait(false, this.#features.pageRequestDrain);
    return queue.flush();
  }

  /**
   * A PASID without a domain: its entry is not present, and FPD says whether faults of it are recorded.
   * @returns 0; -EINVAL no such PASID; -EBUSY something is attached; -ENOMEM.
   */
  quiet(dev: HostDevice, pasid: number, on: boolean): number {
    const master = this.#masterOf(dev, WHOLE_DEVICE);
    if (typeof master === 'number' || !master.pasids || pasid < 0 || pasid >= master.table.capacity) return -E.INVAL;
    if (master.entries.has(pasid)) return -E.BUSY;
    if (!master.table.prepare(pasid)) return -E.NOMEM;
    const words = new Int32Array(PASID_ENTRY_WORDS);
    words[0] = on ? FPD : 0;
    master.table.writeWord(pasid, 0, words);
    return 0;
  }

  /** PASID cache, then translations, then what the function holds. */
  #forget(master: VtdMaster, pasid: number, { content }: InstalledEntry): number {
    const queue = this.#queue;
    queue.pasidCache(content.did, pasid);
    if (content.pgtt === PGTT.FIRST || content.pgtt === PGTT.PASS_THROUGH) queue.pasidIotlb(content.did, pasid);
    else queue.iotlbDomain(content.did);
    const r = queue.flush();
    if (r !== 0 || !master.ats) return r;
    flushDevice(queue, master, pasid, 0, ALL_PAGES);
    return queue.flush();
  }

  /** What the function may hold under each of its PASIDs. */
  forgetDevice(master: VtdMaster): void {
    if (master.ats) for (const pasid of master.entries.keys()) flushDevice(this.#queue, master, pasid, 0, ALL_PAGES);
  }

  /** Switches SSADE in the entries of a domain's users. @returns 0 or -EIO: an entry is not in force yet. */
  retrack(members: VtdUsers, ssade: boolean): number {
    let result = 0;
    for (const { master, pasid } of members.users) {
      const installed = master.entries.get(pasid);
      if (installed === undefined) continue;
      installed.content = { ...installed.content, ssade };
      buildEntry(installed.words, installed.content);
      master.table.writeWord(pasid, 0, installed.words);
      result ||= this.#forget(master, pasid, installed);
    }
    return result;
  }
}
