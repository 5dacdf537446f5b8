import { NO_PASID } from '../../../ports/dma.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { PGFAULT_PERM } from '../../../spec/iommufd/uapi.ts';
import { OP, RESUME_AB, RESUME_AC } from '../../../spec/smmuv3/commands.ts';
import { EV3, EVENT, evS2, evSid, evSsid, evSsv, evStag, evStall, evType } from '../../../spec/smmuv3/events.ts';
import type { HostDevice, KernelServices, PageFault } from '../../kernel/driver.ts';
import type { DriverUpcalls } from '../../upcalls/driver-upcalls.ts';
import { TakenRequests } from '../taken-requests.ts';
import type { Smmuv3DriverQueue } from './queue.ts';
import type { Smmuv3DriverStreams } from './streams.ts';

/** Types the kernel hands to a guest; everything else stays in its log. */
const FORWARDED: ReadonlySet<number> = new Set([
  EVENT.C_BAD_STE,
  EVENT.F_STREAM_DISABLED,
  EVENT.C_BAD_SUBSTREAMID,
  EVENT.C_BAD_CD,
  EVENT.F_TRANSLATION,
  EVENT.F_ADDR_SIZE,
  EVENT.F_ACCESS,
  EVENT.F_PERMISSION,
]);

/** Codes of HostUpcalls.respond. */
export const ANSWER = { SUCCESS: 0, INVALID: 1, FAILURE: 15 } as const;

export interface Smmuv3DriverFaultsParts {
  readonly kernel: KernelServices;
  readonly upcalls: DriverUpcalls | null;
  readonly queue: Smmuv3DriverQueue;
  deviceOf(sid: number): HostDevice | null;
  readonly streams: Pick<Smmuv3DriverStreams, 'masterOf' | 'attached'>;
}

/** The kernel's event queue handler, and the answers to stalled transactions that go back. */
export class Smmuv3DriverFaults {
  readonly #owner: Smmuv3DriverFaultsParts;
  /** Stalls somebody has to answer; a group is a STAG. */
  readonly #waiting = new TakenRequests();

  constructor(owner: Smmuv3DriverFaultsParts) {
    this.#owner = owner;
  }

  /** An event record, 8 words. @param ats see `HwEvents.fault`. */
  report(record: Int32Array, ats = false): void {
    const sid = evSid(record);
    const dev = this.#owner.deviceOf(sid);
    if (dev === null) return;
    const stream = dev.streams.indexOf(sid);
    if (evStall(record)) this.#stalled(dev, stream, record);
    else this.#unrecoverable(dev, stream, record, ats);
  }

  #unrecoverable(dev: HostDevice, stream: number, record: Int32Array, ats: boolean): void {
    this.#owner.upcalls?.fault(dev, stream, record, ats);
    const latched = this.#owner.streams.masterOf(dev)?.streams[stream]?.latched ?? null;
    // Linux does not have records about translation requests switched on.
    if (latched === null || ats || evS2(record) || !FORWARDED.has(evType(record))) return;
    latched.report(record);
  }

  /** A waiting transaction: to the domain's fault queue if it has one, else to the listener, else aborted. */
  #stalled(dev: HostDevice, stream: number, record: Int32Array): void {
    const pasid = evSsv(record) ? evSsid(record) : NO_PASID;
    const stag = evStag(record);
    const { kernel, upcalls, streams } = this.#owner;
    const domain = (pasid === NO_PASID ? null : kernel.attached(dev, pasid)) ?? streams.attached(dev, stream);
    this.#waiting.add(dev, dev.streams[stream]!, pasid, stag);
    const taken = upcalls?.fault(dev, stream, record) ?? false;
    if (taken && domain?.iopf !== true) return;
    const type = evType(record);
    // Only translation-related faults can be repaired; any other is aborted.
    if (type < EVENT.F_TRANSLATION || type > EVENT.F_PERMISSION) this.respond(dev, pasid, stag, ANSWER.FAILURE, stream);
    else kernel.reportFault(dev, pageFault(record, pasid, stag));
  }

  /**
   * Decides a waiting transaction.
   * @param code an ANSWER: retry, terminate as the context says, or abort.
   * @param stream index of the stream that waits; absent: whichever does.
   * @returns 0; -EINVAL: nothing waits under that name; -errno: the command failed.
   */
  respond(dev: HostDevice, pasid: number, stag: number, code: number, stream?: number): number {
    const sid = this.#waiting.take(dev, pasid, stag, stream);
    if (sid < 0) return -E.INVAL;
    const action = code === ANSWER.SUCCESS ? RESUME_AC : code === ANSWER.INVALID ? 0 : RESUME_AB;
    this.#owner.queue.add(OP.RESUME | action, sid, stag, 0);
    return this.#owner.queue.sync(false);
  }

  /** Aborts everything of a stream that waits, reported or not. @returns 0; -EINVAL: no such stream; -errno: the command failed. */
  terminate(dev: HostDevice, stream: number): number {
    const sid = dev.streams[stream];
    if (sid === undefined) return -E.INVAL;
    this.#waiting.forget(dev, sid);
    this.#owner.queue.add(OP.STALL_TERM, sid, 0, 0);
    return this.#owner.queue.sync(false);
  }

  /** The device goes: nothing of it will be answered any more. */
  forget(dev: HostDevice): void {
    this.#waiting.forget(dev);
  }
}

function pageFault(record: Int32Array, pasid: number, stag: number): PageFault {
  const w3 = record[3]!;
  const perm =
    ((w3 & EV3.RNW) !== 0 ? PGFAULT_PERM.READ : PGFAULT_PERM.WRITE) |
    ((w3 & EV3.IND) !== 0 ? PGFAULT_PERM.EXEC : 0) |
    ((w3 & EV3.PNU) !== 0 ? PGFAULT_PERM.PRIV : 0);
  return { pasid, grpid: stag, perm, last: true, addrLo: record[4]!, addrHi: record[5]! };
}
