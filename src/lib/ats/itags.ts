import type { Clock } from '../../ports/clock.ts';
import { type EndpointPort, NO_PASID } from '../../ports/dma.ts';
import { HW_ERROR } from '../../ports/hw.ts';
import type { Tell } from '../../ports/tell.ts';

/** ITags of the Invalidate Request message: 5 bits (PCIe §10.3.1). */
const TAGS = 32;
/** Completions to expect when the count field of a completion says 0. */
const COUNT_ZERO = 8;

interface Waiting {
  readonly batch: number;
  readonly rid: number;
  readonly pasid: number;
  readonly lo: number;
  readonly hi: number;
  readonly global: boolean;
}

/** A batch that is not being filled at the moment: its requests on their way, and the first thing that went wrong. */
interface Batch {
  readonly token: number;
  count: number;
  error: number;
  rid: number;
}

export interface ITagsOptions {
  /** null: no function answers messages. */
  readonly endpoints: EndpointPort | null;
  /** null: there is no time in which an answer could come later than inside the request. */
  readonly clock: Clock | null;
  /** Nanoseconds until an unanswered request is given up; 0: it is given up when the request returns unanswered. */
  readonly timeout: number;
  /** Requests one function takes at a time, 1 to 32: its Invalidate Queue Depth. */
  readonly depth: number;
  /**
   * HW_ERROR of a request to a function that is not there: NONE where an Unsupported Request counts as a completion
   * (SMMUv3), ATC_TIMEOUT where nobody distinguishes it from silence (VT-d).
   */
  readonly absent: number;
  /** A closed batch has ended. @param rid the function that did not answer; -1: all did. */
  readonly completed: (token: number, error: number, rid: number) => void;
  /** A function sent a completion that nobody waits for. */
  readonly unexpected?: (rid: number) => void;
}

export interface ITagsData {
  readonly last: number;
  readonly active: readonly {
    readonly itag: number;
    readonly rid: number;
    readonly batch: number;
    readonly received: number;
    /** Nanoseconds until it is given up. */
    readonly left: number;
  }[];
  readonly waiting: readonly Waiting[];
  readonly batches: readonly Batch[];
  readonly unexpected: number;
}

/**
 * ATS Invalidate Requests of an IOMMU and their completions (PCIe §10.3). A request holds one ITag until the completions it
 * needs are in or time is up; requests without an ITag, or beyond what their function takes, wait. Requests belong
 * to the batch during which they were made. Batches may nest, because an answer can make the host submit again. Requests
 * that are answered inside their own call allocate nothing.
 */
export class ITags {
  tell: Tell | null = null;
  /** HW_ERROR and function of the batch last closed, as far as it was known then. */
  error: number = HW_ERROR.NONE;
  /** Completions nobody waited for, or from another function than the one asked. */
  unexpected = 0;
  readonly #o: ITagsOptions;
  /** Bit per ITag in use. */
  #busy = 0;
  readonly #rid = new Float64Array(TAGS);
  readonly #batch = new Float64Array(TAGS);
  readonly #received = new Int32Array(TAGS);
  /** Virtual time at which the ITag is given up, and what takes the timer back (null: none runs). */
  readonly #deadline = new Float64Array(TAGS);
  readonly #cancel: ((() => void) | null)[] = new Array(TAGS).fill(null);
  readonly #waiting: Waiting[] = [];
  #last = 0;
  /** The batch being filled, 0: none; its requests on their way; what went wrong in it, and where. */
  #token = 0;
  #count = 0;
  #error: number = HW_ERROR.NONE;
  #errorRid = -1;
  /** Batches that the one being filled has interrupted, and closed batches with requests on their way. */
  readonly #outer: Batch[] = [];
  readonly #open = new Map<number, Batch>();

  constructor(options: ITagsOptions) {
    this.#o = options;
  }

  /** A batch begins: requests belong to it until `close`. */
  begin(): void {
    if (this.#token !== 0) this.#outer.push(this.#suspended());
    this.#token = ++this.#last;
    this.#count = 0;
    this.#error = HW_ERROR.NONE;
    this.#errorRid = -1;
  }

  #suspended(): Batch {
    return { token: this.#token, count: this.#count, error: this.#error, rid: this.#errorRid };
  }

  /**
   * Sends one Invalidate Request, or lets it wait. Its completion may arrive inside this call.
   * @param lo,hi address with the ATS size encoding (bit 11 of `lo` is S). @param pasid NO_PASID: without.
   */
  request(rid: number, pasid: number, lo: number, hi: number, global: boolean): void {
    this.#count++;
    // Requests to one function stay in order.
    const itag = this.#waits(rid) ? -1 : this.#freeTag(rid);
    if (itag < 0) this.#waiting.push({ batch: this.#token, rid, pasid, lo, hi, global });
    else this.#start(itag, this.#token, rid, pasid, lo, hi, global);
  }

  #waits(rid: number): boolean {
    for (let i = 0; i < this.#waiting.length; i++) if (this.#waiting[i]!.rid === rid) return true;
    return false;
  }

  /** What went wrong in the batch being filled so far. The caller reports it, so the batch forgets it. */
  takeError(): number {
    const error = this.#error;
    this.#error = HW_ERROR.NONE;
    this.#errorRid = -1;
    return error;
  }

  /**
   * The batch being filled ends; `error` says what went wrong in it.
   * @returns its token when requests are still on their way, which `completed` will name; else 0.
   */
  close(): number {
    const token = this.#token;
    const pending = this.#count > 0;
    this.error = this.#error;
    if (pending) this.#open.set(token, this.#suspended());
    const outer = this.#outer.pop();
    this.#token = outer?.token ?? 0;
    if (outer !== undefined) {
      this.#count = outer.count;
      this.#error = outer.error;
      this.#errorRid = outer.rid;
    }
    return pending ? token : 0;
  }

  /** A free ITag for a request to `rid`; -1: it must wait. */
  #freeTag(rid: number): number {
    if (this.#busy === -1) return -1;
    const { depth } = this.#o;
    if (depth < TAGS) {
      let busy = 0;
      for (let i = 0; i < TAGS; i++) if ((this.#busy & (1 << i)) !== 0 && this.#rid[i] === rid) busy++;
      if (busy >= depth) return -1;
    }
    const free = ~this.#busy;
    return 31 - Math.clz32(free & -free);
  }

  #start(itag: number, batch: number, rid: number, pasid: number, lo: number, hi: number, global: boolean): void {
    const { endpoints, clock, timeout, absent } = this.#o;
    this.#busy |= 1 << itag;
    this.#rid[itag] = rid;
    this.#batch[itag] = batch;
    this.#received[itag] = 0;
    if (this.tell !== null) {
      const address = (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
      this.tell({ what: 'ats', message: 'invalidate', rid, pasid, args: { itag, address, global: global ? 1 : 0 } });
    }
    const there = endpoints?.invalidate(rid, pasid, itag, lo, hi, global) ?? false;
    // Completed inside the call; another request may have the ITag by now, with a timer of its own.
    if ((this.#busy & (1 << itag)) === 0 || this.#cancel[itag] !== null) return;
    if (!there) this.#finish(itag, absent);
    else if (clock === null || timeout === 0) this.#finish(itag, HW_ERROR.ATC_TIMEOUT);
    else this.#arm(clock, itag, timeout);
  }

  #arm(clock: Clock, itag: number, delay: number): void {
    this.#deadline[itag] = clock.now() + delay;
    this.#cancel[itag] = clock.after(delay, () => this.#finish(itag, HW_ERROR.ATC_TIMEOUT));
  }

  /** An Invalidate Completion message. @param itags bit per ITag. @param count completions each of them needs, 0: 8. */
  completion(rid: number, itags: number, count: number): void {
    // ITags that become free and are used again inside this call are not meant.
    const meant = itags & this.#busy;
    for (let itag = 0; itag < TAGS; itag++) {
      if (((itags >>> itag) & 1) === 0) continue;
      if (((meant >>> itag) & 1) === 0 || this.#rid[itag] !== rid) {
        this.unexpected++;
        this.tell?.({ what: 'ats', message: 'unexpected-completion', rid, pasid: NO_PASID, args: { itag } });
        this.#o.unexpected?.(rid);
        continue;
      }
      this.#received[itag] = this.#received[itag]! + 1;
      if (this.#received[itag]! >= (count === 0 ? COUNT_ZERO : count)) this.#release(itag, HW_ERROR.NONE);
    }
    this.#sendWaiting();
  }

  #finish(itag: number, error: number): void {
    this.#release(itag, error);
    this.#sendWaiting();
  }

  /** The ITag is free again. The last request of a closed batch ends it. */
  #release(itag: number, error: number): void {
    this.#cancel[itag]?.();
    this.#cancel[itag] = null;
    this.#busy &= ~(1 << itag);
    const token = this.#batch[itag]!;
    if (token === this.#token) {
      this.#count--;
      if (error === HW_ERROR.NONE) return;
      this.#error = error;
      this.#errorRid = this.#rid[itag]!;
      return;
    }
    const closed = this.#open.get(token);
    const batch = closed ?? this.#outer.find((b) => b.token === token);
    if (batch === undefined) return;
    batch.count--;
    if (error !== HW_ERROR.NONE) {
      batch.error = error;
      batch.rid = this.#rid[itag]!;
    }
    if (closed === undefined || closed.count > 0) return;
    this.#open.delete(token);
    this.#o.completed(token, closed.error, closed.rid);
  }

  /** Sends what has waited and can go now. A request that cannot go does not keep those to other functions back. */
  #sendWaiting(): void {
    for (let i = 0; i < this.#waiting.length && this.#busy !== -1; ) {
      const r = this.#waiting[i]!;
      const itag = this.#freeTag(r.rid);
      if (itag < 0) i++;
      else {
        this.#waiting.splice(i, 1);
        this.#start(itag, r.batch, r.rid, r.pasid, r.lo, r.hi, r.global);
      }
    }
  }

  save(): ITagsData {
    const now = this.#o.clock?.now() ?? 0;
    const active: ITagsData['active'][number][] = [];
    for (let itag = 0; itag < TAGS; itag++) {
      if ((this.#busy & (1 << itag)) === 0) continue;
      const left = Math.max(0, this.#deadline[itag]! - now);
      active.push({ itag, rid: this.#rid[itag]!, batch: this.#batch[itag]!, received: this.#received[itag]!, left });
    }
    return {
      last: this.#last,
      active,
      waiting: this.#waiting.slice(),
      batches: Array.from(this.#open.values(), (b) => ({ ...b })),
      unexpected: this.unexpected,
    };
  }

  load(data: ITagsData): void {
    for (let i = 0; i < TAGS; i++) {
      this.#cancel[i]?.();
      this.#cancel[i] = null;
    }
    this.#last = data.last;
    this.#token = 0;
    this.#outer.length = 0;
    this.#busy = 0;
    this.#waiting.length = 0;
    for (const r of data.waiting) this.#waiting.push({ ...r });
    this.#open.clear();
    for (const b of data.batches) this.#open.set(b.token, { ...b });
    this.unexpected = data.unexpected;
    const { clock } = this.#o;
    for (const { itag, rid, batch, received, left } of data.active) {
      this.#busy |= 1 << itag;
      this.#rid[itag] = rid;
      this.#batch[itag] = batch;
      this.#received[itag] = received;
      if (clock !== null) this.#arm(clock, itag, left);
    }
  }
}
