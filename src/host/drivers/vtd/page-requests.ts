import { NO_PASID } from '../../../ports/dma.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { PGFAULT_PERM } from '../../../spec/iommufd/uapi.ts';
import { pageRequest, RESPONSE } from '../../../spec/vtd/page-request.ts';
import type { HostDevice, KernelServices, PageFault } from '../../kernel/driver.ts';
import type { DriverUpcalls } from '../../upcalls/driver-upcalls.ts';
import { TakenRequests } from '../taken-requests.ts';
import type { VtdDriverQueue } from './queue.ts';

export interface VtdDriverPageRequestsParts {
  readonly kernel: KernelServices;
  readonly upcalls: DriverUpcalls | null;
  readonly queue: VtdDriverQueue;
  readonly deviceOf: (rid: number) => HostDevice | null;
}

/** The kernel's page-request handler of one unit, and the answers that go back. */
export class VtdDriverPageRequests {
  readonly #kernel: KernelServices;
  readonly #upcalls: DriverUpcalls | null;
  readonly #queue: VtdDriverQueue;
  readonly #deviceOf: (rid: number) => HostDevice | null;
  readonly #taken = new TakenRequests();

  constructor(parts: VtdDriverPageRequestsParts) {
    this.#kernel = parts.kernel;
    this.#upcalls = parts.upcalls;
    this.#queue = parts.queue;
    this.#deviceOf = parts.deviceOf;
  }

  receive(record: Int32Array): void {
    const w0 = record[0]!;
    const w1 = record[1]!;
    const w2 = record[2]!;
    const rid = pageRequest.sid(w0);
    const pasid = pageRequest.pp(w0) ? pageRequest.pasid(w1) : NO_PASID;
    const group = pageRequest.group(w2);
    const dev = this.#deviceOf(rid);
    if (dev !== null && this.#listens(dev, rid, pasid, group, record)) return;
    if (dev === null || isBad(record)) {
      // Requests that are not the last of their group get no answer.
      if (pageRequest.last(w2)) this.#answer(rid, pasid, group, RESPONSE.INVALID);
      return;
    }
    const read = pageRequest.read(w2);
    const write = pageRequest.write(w2);
    // A stop marker needs no answer.
    if (pageRequest.last(w2) && !read && !write) return;
    const perm =
      (read ? PGFAULT_PERM.READ : 0) |
      (write ? PGFAULT_PERM.WRITE : 0) |
      (pageRequest.exec(w1) ? PGFAULT_PERM.EXEC : 0) |
      (pageRequest.priv(w1) ? PGFAULT_PERM.PRIV : 0);
    const addrLo = w2 & ~0xfff;
    this.#kernel.reportFault(dev, {
      pasid,
      grpid: group,
      perm,
      last: pageRequest.last(w2),
      addrLo,
      addrHi: record[3]!,
    });
  }

  /** A domain with a fault queue is asked by the kernel; anything else a listener may take. */
  #listens(dev: HostDevice, rid: number, pasid: number, group: number, record: Int32Array): boolean {
    const upcalls = this.#upcalls;
    if (upcalls === null || this.#kernel.attached(dev, pasid)?.iopf === true) return false;
    const ask = () => upcalls.pageRequest(dev, dev.streams.indexOf(rid), record);
    return this.#taken.offer(dev, rid, pasid, group, ask);
  }

  /** An answer of the kernel's. */
  respond(dev: HostDevice, fault: PageFault, code: number): void {
    this.#answer(dev.streams[0]!, fault.pasid, fault.grpid, code);
  }

  /** A listener's answer. @returns 0; -EINVAL: nothing waits under that name; -EIO: the unit did not take it. */
  respondTaken(dev: HostDevice, pasid: number, group: number, code: number, stream?: number): number {
    const rid = this.#taken.take(dev, pasid, group, stream);
    return rid < 0 ? -E.INVAL : this.#answer(rid, pasid, group, code);
  }

  /** The (device, PASID) goes: what a listener still holds is answered invalid, nothing waits any longer. */
  drain(dev: HostDevice, pasid: number): void {
    this.#taken.takeAll(dev, pasid, (rid, group) => this.#answer(rid, pasid, group, RESPONSE.INVALID));
  }

  #answer(rid: number, pasid: number, group: number, code: number): number {
    this.#queue.pageResponse(rid, pasid, group, code);
    return this.#queue.flush(false);
  }
}

/** What the kernel answers INVALID without looking further. */
function isBad(record: Int32Array): boolean {
  const w0 = record[0]!;
  const w1 = record[1]!;
  const w2 = record[2]!;
  const top = record[3]! >> 24;
  const any = pageRequest.read(w2) || pageRequest.write(w2);
  if (!pageRequest.pp(w0) || (top !== 0 && top !== -1)) return true;
  return (pageRequest.priv(w1) && any) || (pageRequest.exec(w1) && pageRequest.read(w2));
}
