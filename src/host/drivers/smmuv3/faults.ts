import { NO_PASID } from '../../../ports/dma.ts';
import { PGFAULT_PERM } from '../../../spec/iommufd/uapi.ts';
import { OP, PRI_RESP, RESUME_AB, RESUME_AC, SSV } from '../../../spec/smmuv3/commands.ts';
import { EV3, EVENT, evS2, evSid, evSsid, evSsv, evStag, evStall, evType, PRI1 } from '../../../spec/smmuv3/events.ts';
import type { HostDevice, KernelServices, PageFault } from '../../kernel/driver.ts';
import type { DriverUpcalls } from '../../upcalls/driver-upcalls.ts';
import type { Master } from './master.ts';
import type { CommandQueue } from './queue.ts';

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
const ANSWER = { SUCCESS: 0, INVALID: 1, FAILURE: 15 } as const;

export interface FaultsOwner {
  readonly kernel: KernelServices;
  readonly upcalls: DriverUpcalls | null;
  readonly queue: CommandQueue;
  deviceOf(sid: number): HostDevice | null;
  masterOf(dev: HostDevice): Master | null;
}

/** The kernel's event and PRI queue handlers, and the answers that go back. */
export class Faults {
  readonly #owner: FaultsOwner;
  /** Stalls and page requests somebody has to answer, by `keyOf`: the stream they came from. */
  readonly #waiting = new Map<string, number>();

  constructor(owner: FaultsOwner) {
    this.#owner = owner;
  }

  event(record: Int32Array): void {
    const sid = evSid(record);
    const dev = this.#owner.deviceOf(sid);
    if (dev === null) return;
    const stream = dev.streams.indexOf(sid);
    if (evStall(record)) this.#stalled(dev, stream, record);
    else this.#unrecoverable(dev, stream, record);
  }

  #unrecoverable(dev: HostDevice, stream: number, record: Int32Array): void {
    this.#owner.upcalls?.fault(dev, stream, record);
    const latched = this.#owner.masterOf(dev)?.latched ?? null;
    if (latched === null || evS2(record) || !FORWARDED.has(evType(record))) return;
    const vsid = latched.vsids[stream]!;
    latched.report(record, vsid);
  }

  /** A waiting transaction: to the domain's fault queue if it has one, else to the listener, else aborted. */
  #stalled(dev: HostDevice, stream: number, record: Int32Array): void {
    const pasid = evSsv(record) ? evSsid(record) : NO_PASID;
    const stag = evStag(record);
    const { kernel, upcalls } = this.#owner;
    const domain = kernel.attached(dev, pasid) ?? kernel.attached(dev, NO_PASID);
    this.#waiting.set(keyOf(dev, true, pasid, stag), dev.streams[stream]!);
    const taken = upcalls?.fault(dev, stream, record) ?? false;
    if (taken && domain?.iopf !== true) return;
    const type = evType(record);
    // Only translation-related faults can be repaired; any other is aborted.
    if (type < EVENT.F_TRANSLATION || type > EVENT.F_PERMISSION) this.respond(dev, pasid, stag, ANSWER.FAILURE, true);
    else kernel.reportFault(dev, pageFault(record, pasid, stag));
  }

  pageRequest(record: Int32Array): void {
    const sid = record[0]! >>> 0;
    const flags = record[1]!;
    const group = record[2]! & 0x1ff;
    const pasid = (flags & PRI1.SSV) !== 0 ? flags & 0xf_ffff : NO_PASID;
    const dev = this.#owner.deviceOf(sid);
    const last = (flags & PRI1.LAST) !== 0;
    if (dev !== null && this.#owner.upcalls !== null) {
      const key = keyOf(dev, false, pasid, group);
      const waited = this.#waiting.has(key);
      this.#waiting.set(key, sid);
      if (this.#owner.upcalls.pageRequest(dev, dev.streams.indexOf(sid), record)) return;
      if (!waited) this.#waiting.delete(key);
    }
    // A stop marker is never answered (PCIe PRI).
    const marker = pasid !== NO_PASID && (flags & (PRI1.READ | PRI1.WRITE)) === 0;
    if (last && !marker) this.#answerPages(sid, pasid, group, PRI_RESP.DENY);
  }

  #answerPages(sid: number, pasid: number, group: number, response: number): void {
    const substream = pasid === NO_PASID ? 0 : SSV | (pasid << 12);
    this.#owner.queue.add(OP.PRI_RESP | substream, sid, group | (response << 12), 0);
    this.#owner.queue.sync();
  }

  /** @returns false: nothing waits under that name. */
  respond(dev: HostDevice, pasid: number, group: number, code: number, stall: boolean): boolean {
    const key = keyOf(dev, stall, pasid, group);
    const sid = this.#waiting.get(key);
    if (sid === undefined) return false;
    this.#waiting.delete(key);
    if (stall) {
      // RESUME: retry, terminate as the context says, or abort.
      const action = code === ANSWER.SUCCESS ? RESUME_AC : code === ANSWER.INVALID ? 0 : RESUME_AB;
      this.#owner.queue.add(OP.RESUME | action, sid, group, 0);
      this.#owner.queue.sync();
    } else {
      const response =
        code === ANSWER.SUCCESS ? PRI_RESP.SUCCESS : code === ANSWER.INVALID ? PRI_RESP.FAIL : PRI_RESP.DENY;
      this.#answerPages(sid, pasid, group, response);
    }
    return true;
  }

  /** The device goes: nothing of it will be answered any more. */
  forget(dev: HostDevice): void {
    for (const key of this.#waiting.keys()) if (key.startsWith(`${dev.index}/`)) this.#waiting.delete(key);
  }
}

function keyOf(dev: HostDevice, stall: boolean, pasid: number, group: number): string {
  return `${dev.index}/${stall ? 's' : 'p'}/${pasid}/${group}`;
}

function pageFault(record: Int32Array, pasid: number, stag: number): PageFault {
  const w3 = record[3]!;
  const perm =
    ((w3 & EV3.RNW) !== 0 ? PGFAULT_PERM.READ : PGFAULT_PERM.WRITE) |
    ((w3 & EV3.IND) !== 0 ? PGFAULT_PERM.EXEC : 0) |
    ((w3 & EV3.PNU) !== 0 ? PGFAULT_PERM.PRIV : 0);
  return { pasid, grpid: stag, perm, last: true, addrLo: record[4]!, addrHi: record[5]! };
}
