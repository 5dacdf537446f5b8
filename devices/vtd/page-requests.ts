import { ACCESS, NO_PASID } from '../../src/ports/dma.ts';
import { pageRequest, RESPONSE } from '../../src/spec/vtd/page-request.ts';
import type { Stream } from './attacher.ts';
import type { VtdHost } from './deps.ts';
import type { RegisterUnit } from './device.ts';
import type { FaultJudge } from './faults.ts';
import { type HostFault, HostFaults } from './host-page-requests.ts';
import { QUEUED } from './page-request-queue.ts';
import type { StreamIndex } from './stream.ts';

/**
 * Page requests on their way to the guest's queue and answers on their way back: through upcalls as the hardware wrote
 * them, without it through iommufd's fault queue.
 */
export class PageRelay {
  readonly #unit: RegisterUnit;
  readonly #host: VtdHost;
  readonly #streams: StreamIndex;
  readonly #judge: FaultJudge;
  readonly #faults: HostFaults | null;
  /** Host PASID (or fault cookie) a queued request came with, by requester, guest PASID and group. */
  readonly #asked = new Map<string, number>();

  constructor(unit: RegisterUnit, host: VtdHost, streams: StreamIndex, judge: FaultJudge) {
    this.#unit = unit;
    this.#host = host;
    this.#streams = streams;
    this.#judge = judge;
    const open = host.upcalls === null && unit.shape.prs;
    this.#faults = open ? HostFaults.open(host.verbs, (f) => this.#hostFault(f)) : null;
  }

  /** iommufd's fault queue for the HWPTs of first stages; 0: none is used. */
  get faultId(): number {
    return this.#faults?.faultId ?? 0;
  }

  /** A page request as the hardware wrote it (8 words). @returns whether the guest's queue is responsible for it. */
  request(devId: number, stream: number, record: Int32Array): boolean {
    const { upcalls } = this.#host;
    const w1 = record[1]!;
    const w2 = record[2]!;
    const host = pageRequest.pp(record[0]!) ? pageRequest.pasid(w1) : NO_PASID;
    const s = this.#streams.find(devId, host);
    if (s === undefined || !this.#unit.shape.prs || upcalls === null) return false;
    const pasid = this.#streams.pasid;
    const access =
      (pageRequest.read(w2) ? ACCESS.READ : 0) |
      (pageRequest.write(w2) ? ACCESS.WRITE : 0) |
      (pageRequest.exec(w1) ? ACCESS.EXEC : 0) |
      (pageRequest.priv(w1) ? ACCESS.PRIV : 0);
    const group = pageRequest.group(w2);
    const last = pageRequest.last(w2);
    const answer = this.#queue(s, s.ridOf(stream), pasid, w2 & ~0xfff, record[3]!, access, group, last);
    if (answer >= 0) upcalls.respond(devId, host, group, answer, false);
    else if (answer === QUEUED && host !== pasid) this.#asked.set(`${s.rid} ${pasid} ${group}`, host);
    return true;
  }

  /** A page request out of iommufd's fault queue. */
  #hostFault(f: HostFault): void {
    const s = this.#streams.find(f.devId, f.pasid);
    if (s === undefined) {
      this.#faults?.respond(f.cookie, RESPONSE.INVALID);
      return;
    }
    const pasid = this.#streams.pasid;
    const answer = this.#queue(s, s.rid, pasid, f.lo & ~0xfff, f.hi, f.access, f.group, f.last);
    // The kernel answers groups, so its cookie counts for the last request only.
    if (!f.last) return;
    if (answer >= 0) this.#faults?.respond(f.cookie, answer);
    else this.#asked.set(`${s.rid} ${pasid} ${f.group}`, f.cookie);
  }

  /** Cached translations of the page go first (§7.4.1.1). */
  #queue(
    s: Stream,
    rid: number,
    pasid: number,
    lo: number,
    hi: number,
    access: number,
    group: number,
    last: boolean,
  ): number {
    const domain = s.slots.get(pasid)?.domain;
    const page = (hi >>> 0) * 0x10_0000 + (lo >>> 12);
    if (domain?.kind === 'first') domain.first.invalidate(page, 0, true);
    else if (domain?.kind === 'second') domain.shadow.invalidate(page, 1);
    return this.#judge.pageRequest(rid, pasid, lo, hi, access, group, last, this.#unit.pageRequests);
  }

  /** The guest's answer to a group. */
  respond(sid: number, pasid: number, group: number, code: number): void {
    const s = this.#streams.byRid(sid);
    if (s === undefined) return;
    const key = `${s.rid} ${pasid} ${group}`;
    const asked = this.#asked.get(key);
    this.#asked.delete(key);
    if (this.#faults !== null) {
      if (asked !== undefined) this.#faults.respond(asked, code);
      return;
    }
    const host = asked ?? s.mode.toHost(pasid)[0];
    if (host === undefined) return;
    this.#host.upcalls?.respond(s.vfio.devId, host, group, code <= 1 ? code : RESPONSE.FAILURE, false);
  }
}
