import { NO_PASID } from '../../ports/dma.ts';
import type { EventFd } from '../../ports/iommufd.ts';
import { E } from '../../spec/iommufd/errno.ts';
import { PGFAULT_CODE, PGFAULT_FLAG } from '../../spec/iommufd/uapi.ts';
import type { HostDevice, PageFault } from '../kernel/driver.ts';

const RECORD = 40;
const RESPONSE = 8;

/** Page requests that are answered together. */
export interface FaultGroup {
  /** The device that sent them. */
  readonly device: { readonly id: number; readonly dev: HostDevice };
  /** The attachment they came through (`Attachment.handle`). */
  readonly handle: object;
  readonly faults: readonly PageFault[];
  /** What the answer names the group by; 0 until it has been read. */
  cookie: number;
}

/** POLLIN and POLLOUT as `EventFd.poll` answers them. */
export const POLL = { IN: 1, OUT: 4 } as const;

/** A fault queue and its file (`iommufd_fault`). */
export class FaultQueue {
  readonly kind = 'fault';
  id = 0;
  users = 0;
  readonly fd: EventFd;
  readonly #deliver: FaultGroup[] = [];
  readonly #response = new Map<number, FaultGroup>();

  /** @param onClose the file was closed for good. */
  constructor(onClose: () => void) {
    const closed = { value: false };
    this.users = 1;
    this.fd = {
      read: (into) => this.#read(into),
      write: (from) => this.#write(from),
      poll: () => POLL.OUT | (this.#deliver.length > 0 ? POLL.IN : 0),
      onReadable: null,
      close: () => {
        if (closed.value) return;
        closed.value = true;
        this.users--;
        onClose();
      },
    };
  }

  /** Queues a group for the user. */
  deliver(group: FaultGroup): void {
    this.#deliver.push(group);
    if (this.#deliver.length === 1) this.fd.onReadable?.();
  }

  /** Answers INVALID to everything that came through an attachment which ends now. */
  answerAll(handle: object): void {
    for (let i = 0; i < this.#deliver.length; ) {
      const g = this.#deliver[i]!;
      if (g.handle !== handle) {
        i++;
        continue;
      }
      this.#deliver.splice(i, 1);
      respond(g, PGFAULT_CODE.INVALID);
    }
    for (const [cookie, g] of this.#response) {
      if (g.handle !== handle) continue;
      this.#response.delete(cookie);
      respond(g, PGFAULT_CODE.INVALID);
    }
  }

  destroy(): void {
    for (const g of this.#deliver.splice(0)) respond(g, PGFAULT_CODE.INVALID);
    for (const g of this.#response.values()) respond(g, PGFAULT_CODE.INVALID);
    this.#response.clear();
  }

  #read(into: Uint8Array): number {
    if (into.length % RECORD !== 0) return -E.SPIPE;
    let done = 0;
    while (this.#deliver.length > 0) {
      const g = this.#deliver[0]!;
      if (done >= into.length || g.faults.length * RECORD > into.length - done) return done === 0 ? -E.INVAL : done;
      this.#deliver.shift();
      let cookie = 1;
      while (this.#response.has(cookie)) cookie++;
      g.cookie = cookie;
      this.#response.set(cookie, g);
      for (const f of g.faults) {
        writeRecord(into, done, f, g.device.id, cookie);
        done += RECORD;
      }
    }
    return done;
  }

  #write(from: Uint8Array): number {
    if (from.length % RESPONSE !== 0) return -E.SPIPE;
    const view = new DataView(from.buffer, from.byteOffset, from.length);
    let done = 0;
    for (; done < from.length; done += RESPONSE) {
      const cookie = view.getUint32(done, true);
      const code = view.getUint32(done + 4, true);
      const group = this.#response.get(cookie);
      const known = code === PGFAULT_CODE.SUCCESS || code === PGFAULT_CODE.INVALID;
      if (!known || group === undefined) return done === 0 ? -E.INVAL : done;
      this.#response.delete(cookie);
      respond(group, code);
    }
    return done;
  }
}

function respond(g: FaultGroup, code: number): void {
  const dev = g.device.dev;
  dev.iommu.pageResponse(dev, g.faults.at(-1)!, code);
}

/** struct iommu_hwpt_pgfault. */
function writeRecord(into: Uint8Array, at: number, f: PageFault, devId: number, cookie: number): void {
  const v = new DataView(into.buffer, into.byteOffset + at, RECORD);
  const pasid = f.pasid === NO_PASID ? 0 : f.pasid;
  const flags = (f.pasid === NO_PASID ? 0 : PGFAULT_FLAG.PASID_VALID) | (f.last ? PGFAULT_FLAG.LAST_PAGE : 0);
  v.setUint32(0, flags, true);
  v.setUint32(4, devId, true);
  v.setUint32(8, pasid, true);
  v.setUint32(12, f.grpid, true);
  v.setUint32(16, f.perm, true);
  v.setUint32(20, 0, true);
  v.setUint32(24, f.addrLo, true);
  v.setUint32(28, f.addrHi, true);
  v.setUint32(32, 0, true);
  v.setUint32(36, cookie, true);
}
