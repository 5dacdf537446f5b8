import { NO_PASID } from '../../../ports/dma.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { OP, PRI_RESP, SSV } from '../../../spec/smmuv3/commands.ts';
import { PRI1 } from '../../../spec/smmuv3/events.ts';
import type { HostDevice } from '../../kernel/driver.ts';
import type { DriverUpcalls } from '../../upcalls/driver-upcalls.ts';
import { TakenRequests } from '../taken-requests.ts';
import { ANSWER } from './faults.ts';
import type { Smmuv3DriverQueue } from './queue.ts';

export interface Smmuv3DriverPageRequestsParts {
  readonly upcalls: DriverUpcalls | null;
  readonly queue: Smmuv3DriverQueue;
  readonly deviceOf: (sid: number) => HostDevice | null;
}

/** The kernel's PRI queue handler, and the answers that go back. Linux denies every request; a listener may take it. */
export class Smmuv3DriverPageRequests {
  readonly #upcalls: DriverUpcalls | null;
  readonly #queue: Smmuv3DriverQueue;
  readonly #deviceOf: (sid: number) => HostDevice | null;
  readonly #taken = new TakenRequests();

  constructor(parts: Smmuv3DriverPageRequestsParts) {
    this.#upcalls = parts.upcalls;
    this.#queue = parts.queue;
    this.#deviceOf = parts.deviceOf;
  }

  receive(record: Int32Array): void {
    const sid = record[0]! >>> 0;
    const flags = record[1]!;
    const group = record[2]! & 0x1ff;
    const pasid = (flags & PRI1.SSV) !== 0 ? flags & 0xf_ffff : NO_PASID;
    const dev = this.#deviceOf(sid);
    // A stop marker is never answered (PCIe PRI), nor is a request that is not the last of its group.
    const marker = pasid !== NO_PASID && (flags & (PRI1.LAST | PRI1.READ | PRI1.WRITE)) === PRI1.LAST;
    if (dev !== null && this.#listens(dev, sid, pasid, group, record, marker)) return;
    if ((flags & PRI1.LAST) !== 0 && !marker) this.#answer(sid, pasid, group, PRI_RESP.DENY);
  }

  #listens(dev: HostDevice, sid: number, pasid: number, group: number, record: Int32Array, marker: boolean): boolean {
    const upcalls = this.#upcalls;
    if (upcalls === null) return false;
    const ask = () => upcalls.pageRequest(dev, dev.streams.indexOf(sid), record);
    // What is never answered is not kept: it would take the places of requests that are.
    return marker ? ask() : this.#taken.offer(dev, sid, pasid, group, ask);
  }

  /** A listener's answer. @returns 0; -EINVAL: nothing waits under that name; -errno: the command failed. */
  respondTaken(dev: HostDevice, pasid: number, group: number, code: number, stream?: number): number {
    let sid = this.#taken.take(dev, pasid, group, stream);
    // A function that does not require it takes an answer without the PASID of its request (IHI 0070 §4.5.2).
    if (sid < 0 && pasid === NO_PASID) sid = this.#taken.takeGroup(dev, group, stream);
    if (sid < 0) return -E.INVAL;
    const response =
      code === ANSWER.SUCCESS ? PRI_RESP.SUCCESS : code === ANSWER.INVALID ? PRI_RESP.FAIL : PRI_RESP.DENY;
    return this.#answer(sid, pasid, group, response);
  }

  #answer(sid: number, pasid: number, group: number, response: number): number {
    const substream = pasid === NO_PASID ? 0 : SSV | (pasid << 12);
    this.#queue.add(OP.PRI_RESP | substream, sid, group | (response << 12), 0);
    return this.#queue.sync(false);
  }

  /** The device goes: nothing of it will be answered any more. */
  forget(dev: HostDevice): void {
    this.#taken.forget(dev);
  }
}
