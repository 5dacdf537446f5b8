import { type AskedRequest, AskedRequests } from '../../src/lib/limits/asked-requests.ts';
import type { VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { isAnswerRefused } from '../../src/lib/uapi/refusals.ts';
import { ACCESS, NO_PASID } from '../../src/ports/dma.ts';
import { pageRequest, RESPONSE } from '../../src/spec/vtd/page-request.ts';
import type { VtdCore } from './core.ts';
import type { VtdFaults } from './faults.ts';
import { type HostPageRequest, HostPageRequests } from './host-page-requests.ts';
import { DROPPED, type PageRequest, PageRequestQueue, QUEUED } from './page-request-queue.ts';
import type { VtdStream } from './stream.ts';
import type { VtdStreams } from './streams.ts';

/** Units of work of one answer. */
const ANSWER_WORK = 8;

/**
 * Page requests on their way to the guest's queue and answers on their way back: through upcalls as the hardware wrote them,
 * without upcalls through iommufd's fault queue.
 */
export class VtdPageRequests {
  readonly queue: PageRequestQueue;
  readonly #core: VtdCore;
  readonly #streams: VtdStreams;
  readonly #faults: VtdFaults;
  readonly #host: HostPageRequests | null;
  readonly #asked: AskedRequests;
  /** Answers that the host has refused and the guest has skipped, of requests that wait. */
  readonly #skipped = new Map<string, { sid: number; pasid: number; group: number; code: number }>();

  constructor(core: VtdCore, streams: VtdStreams, faults: VtdFaults) {
    this.#core = core;
    this.#streams = streams;
    this.#faults = faults;
    this.queue = new PageRequestQueue(core);
    this.#asked = new AskedRequests(core.quotas.pageRequests);
    const open = core.deps.upcalls === null && core.features.pageRequests;
    this.#host = open ? HostPageRequests.open(core.host, (r) => this.#fromFaultQueue(r)) : null;
    streams.faultId = this.#host?.faultId ?? 0;
    streams.listener = {
      forgotten: (s, pasid) => this.#abandon(s, pasid),
      awaited: (s, pasid) => this.#asked.has(s.rid, pasid),
    };
  }

  /** A page request as the hardware wrote it (8 words). @returns whether the guest's queue is responsible for it. */
  receive(devId: number, stream: number, record: Int32Array): boolean {
    const { upcalls } = this.#core.deps;
    const w1 = record[1]!;
    const w2 = record[2]!;
    const host = pageRequest.pp(record[0]!) ? pageRequest.pasid(w1) : NO_PASID;
    const s = this.#streams.find(devId, stream, host);
    if (s === undefined || upcalls === null || !this.#core.features.pageRequests) return false;
    const { pasid } = this.#streams;
    const access =
      (pageRequest.read(w2) ? ACCESS.READ : 0) |
      (pageRequest.write(w2) ? ACCESS.WRITE : 0) |
      (pageRequest.exec(w1) ? ACCESS.EXEC : 0) |
      (pageRequest.priv(w1) ? ACCESS.PRIV : 0);
    const group = pageRequest.group(w2);
    const last = pageRequest.last(w2);
    const { rid } = s;
    const answer = this.#take({ rid, pasid, lo: w2 & ~0xfff, hi: record[3]!, access, group, last });
    if (answer >= 0) {
      this.#core.refusals.note('page response', upcalls.respond(devId, host, group, answer, false, stream));
    } else if (answer === QUEUED && last) {
      this.#ask({ rid, pasid, group, host });
    }
    return true;
  }

  /** A page request out of iommufd's fault queue. */
  #fromFaultQueue(r: HostPageRequest): void {
    const s = this.#streams.find(r.devId, 0, r.pasid);
    if (s === undefined) {
      this.#core.refusals.note('page response', this.#answer(r.cookie, RESPONSE.INVALID));
      return;
    }
    const { pasid } = this.#streams;
    const { access, group, last } = r;
    const answer = this.#take({ rid: s.rid, pasid, lo: r.lo & ~0xfff, hi: r.hi, access, group, last });
    // The kernel answers groups, so its cookie counts for the last request only.
    if (!last) return;
    if (answer >= 0) this.#core.refusals.note('page response', this.#answer(r.cookie, answer));
    else this.#ask({ rid: s.rid, pasid, group, host: r.cookie });
  }

  /** A group waits for the guest. Where there is no room for it, the oldest one is answered as if the guest had refused it. */
  #ask(asked: AskedRequest): void {
    const oldest = this.#asked.add(asked);
    if (oldest === null) return;
    const s = this.#streams.byRid(oldest.rid);
    const { upcalls } = this.#core.deps;
    const answered =
      upcalls === null
        ? this.#answer(oldest.host, RESPONSE.INVALID)
        : s === undefined
          ? 0
          : upcalls.respond(s.vfio.devId, oldest.host, oldest.group, RESPONSE.INVALID, false, s.index);
    this.#core.refusals.note('page response', answered);
  }

  /** The host's PASIDs behind one of the guest's go back to their pool: nothing of them may stay unanswered. */
  #abandon(s: VtdStream, pasid: number): void {
    const { upcalls } = this.#core.deps;
    for (const { host, group } of this.#asked.takeAll(s.rid, pasid)) {
      if (upcalls === null || host === pasid) continue;
      const answered = upcalls.respond(s.vfio.devId, host, group, RESPONSE.INVALID, false, s.index);
      this.#core.refusals.note('page response', answered);
    }
  }

  /** Cached translations of the page go first (§7.4.1.1), then the request is judged and queued. */
  #take(r: PageRequest): number {
    const slot = this.#streams.byRid(r.rid)?.slots.get(r.pasid);
    const domain = slot?.domain;
    const page = (r.hi >>> 0) * 0x10_0000 + (r.lo >>> 12);
    let gone = 0;
    if (domain?.kind === 'first') gone = domain.first.invalidate(page, 0, true);
    else if (domain?.kind === 'second') gone = domain.shadow.invalidate(page, 1, this.#core.work);
    if (this.#core.refusals.note('page request', gone)) this.#streams.healing.takeOffStale();
    if (this.#faults.pageRequest(r, slot?.configuration ?? null)) return this.queue.push(r);
    return r.last ? RESPONSE.INVALID : DROPPED;
  }

  #answer(cookie: number, code: number): VerbOutcome {
    return this.#host?.respond(cookie, code) ?? 0;
  }

  /**
   * The guest's answer to a group; one nobody waits for is nothing. The request waits until the host has taken the answer.
   * @returns 0 or -errno of the host.
   */
  respond(sid: number, pasid: number, group: number, code: number): VerbOutcome {
    const s = this.#streams.byRid(sid);
    if (s === undefined) return 0;
    const asked = this.#asked.find(sid, pasid, group)?.host;
    const r = this.#host === null ? this.#toStream(s, pasid, group, code, asked) : this.#toKernel(asked, code);
    if (isAnswerRefused(r)) return r;
    this.#asked.take(sid, pasid, group);
    return 0;
  }

  #toKernel(cookie: number | undefined, code: number): VerbOutcome {
    return cookie === undefined ? 0 : this.#answer(cookie, code);
  }

  #toStream(s: VtdStream, pasid: number, group: number, code: number, asked: number | undefined): VerbOutcome {
    const host = asked ?? s.mode.toHost(pasid)[0];
    const { upcalls } = this.#core.deps;
    if (host === undefined || upcalls === null) return 0;
    const answer = code <= 1 ? code : RESPONSE.FAILURE;
    return upcalls.respond(s.vfio.devId, host, group, answer, false, s.index);
  }

  /** The guest went on behind an answer that the host had refused: it is given again as long as the request waits. */
  skipped(sid: number, pasid: number, group: number, code: number): void {
    if (this.#asked.find(sid, pasid, group) === undefined) return;
    this.#skipped.set(`${sid} ${pasid} ${group}`, { sid, pasid, group, code });
  }

  /** Gives skipped answers again, as far as the budget goes. */
  answerSkipped(): void {
    const { work, refusals } = this.#core;
    for (const [key, { sid, pasid, group, code }] of this.#skipped) {
      if (work.over) return;
      work.spend(ANSWER_WORK);
      const waits = this.#asked.find(sid, pasid, group) !== undefined;
      if (!waits || !refusals.note('page response', this.respond(sid, pasid, group, code))) this.#skipped.delete(key);
    }
  }

  /** Reset, or a state was loaded: no request waits for an answer any more. */
  reset(): void {
    this.#asked.forget();
    this.#skipped.clear();
  }
}
