import type { Clock } from '../../ports/clock.ts';
import type { EndpointPort } from '../../ports/dma.ts';
import { HW_ERROR, type HwEvents } from '../../ports/hw.ts';

/** ITags of the Invalidate Request: 5 bits. */
const ITAGS = 32;

interface Request {
  readonly rid: number;
  readonly pasid: number;
  readonly lo: number;
  readonly hi: number;
  readonly global: boolean;
  readonly token: number;
}

interface Batch {
  error: number;
  rid: number;
}

export interface AtcData {
  readonly token: number;
  readonly active: readonly {
    readonly itag: number;
    readonly rid: number;
    readonly token: number;
    readonly received: number;
    /** Virtual time the answer is due. */
    readonly due: number;
  }[];
  readonly waiting: readonly Request[];
  readonly batches: readonly (readonly [token: number, error: number, rid: number])[];
}

/**
 * Invalidate Requests to functions and their completions: ITags are not reused before an answer or a timeout, a function
 * gets no more requests than its queue takes, and a batch of commands is done when its last request is (IHI 0070 §3.9.1.4).
 */
export class AtcInvalidations {
  readonly #endpoints: EndpointPort | null;
  readonly #clock: Clock;
  readonly #events: HwEvents;
  readonly #timeout: number;
  readonly #depth: number;
  /** By ITag: requester id, or -1 when the ITag is free. */
  readonly #rid = new Float64Array(ITAGS).fill(-1);
  readonly #token = new Float64Array(ITAGS);
  readonly #received = new Int32Array(ITAGS);
  readonly #due = new Float64Array(ITAGS);
  readonly #cancel: ((() => void) | null)[] = new Array(ITAGS).fill(null);
  /** ITags in use. */
  #active = 0;
  #waiting: Request[] = [];
  /** Batches whose `submit` has returned with requests outstanding. */
  readonly #batches = new Map<number, Batch>();
  /** The last token given, that of the batch being submitted (0: none), and what went wrong in it already. */
  #last = 0;
  #current = 0;
  #currentError: number = HW_ERROR.NONE;

  constructor(endpoints: EndpointPort | null, clock: Clock, events: HwEvents, timeout: number, depth: number) {
    this.#endpoints = endpoints;
    this.#clock = clock;
    this.#events = events;
    this.#timeout = timeout;
    this.#depth = depth;
  }

  /** The batch that is being submitted, for `resume`: an answer may make the host submit another in the middle of it. */
  get current(): number {
    return this.#current;
  }

  get currentError(): number {
    return this.#currentError;
  }

  /** A batch begins. */
  begin(): void {
    this.#current = ++this.#last;
    this.#currentError = HW_ERROR.NONE;
  }

  /** After the `sync` of a batch inside another: the outer one goes on. */
  resume(current: number, error: number): void {
    this.#current = current;
    this.#currentError = error;
  }

  /** @param lo,hi address with the ATS size encoding (bit 11 is S). */
  request(rid: number, pasid: number, lo: number, hi: number, global: boolean): void {
    if (this.#endpoints === null) return;
    const itag = this.#waiting.length === 0 ? this.#freeTag(rid) : -1;
    if (itag < 0) this.#waiting.push({ rid, pasid, lo, hi, global, token: this.#current });
    else this.#send(itag, rid, pasid, lo, hi, global, this.#current);
  }

  #freeTag(rid: number): number {
    let free = -1;
    let busy = 0;
    for (let i = 0; i < ITAGS; i++) {
      if (this.#rid[i] === -1) {
        if (free < 0) free = i;
      } else if (this.#rid[i] === rid) busy++;
    }
    return busy < this.#depth ? free : -1;
  }

  #send(itag: number, rid: number, pasid: number, lo: number, hi: number, global: boolean, token: number): void {
    this.#rid[itag] = rid;
    this.#token[itag] = token;
    this.#received[itag] = 0;
    this.#active++;
    // An Unsupported Request counts as a completion (IHI 0070 §3.9.1.5).
    if (!this.#endpoints!.invalidate(rid, pasid, itag, lo, hi, global) && this.#rid[itag] !== -1) {
      this.#rid[itag] = -1;
      this.#active--;
    }
    // A request of a batch whose submission is over has its own clock.
    if (this.#rid[itag] !== -1 && this.#token[itag] === token && this.#batches.has(token))
      this.#arm(itag, this.#timeout);
  }

  /** An Invalidate Completion. One that nobody waits for is ignored. @param count completions to expect, 0 means 8. */
  completion(rid: number, itags: number, count: number): void {
    for (let i = 0; i < ITAGS; i++) {
      if (((itags >>> i) & 1) === 0 || this.#rid[i] !== rid) continue;
      this.#received[i] = this.#received[i]! + 1;
      if (this.#received[i]! >= (count === 0 ? 8 : count)) this.#finish(i, HW_ERROR.NONE);
    }
  }

  #finish(itag: number, error: number): void {
    const token = this.#token[itag]!;
    const rid = this.#rid[itag]!;
    this.#rid[itag] = -1;
    this.#active--;
    this.#cancel[itag]?.();
    this.#cancel[itag] = null;
    const batch = this.#batches.get(token);
    if (batch !== undefined && error !== HW_ERROR.NONE) {
      batch.error = error;
      batch.rid = rid;
    } else if (token === this.#current && error !== HW_ERROR.NONE) this.#currentError = error;
    if (this.#waiting.length > 0) this.#sendWaiting();
    this.#settle(token);
  }

  #sendWaiting(): void {
    const held = this.#waiting;
    this.#waiting = [];
    for (const r of held) {
      const itag = this.#freeTag(r.rid);
      if (itag < 0) this.#waiting.push(r);
      else this.#send(itag, r.rid, r.pasid, r.lo, r.hi, r.global, r.token);
    }
  }

  #outstanding(token: number): boolean {
    if (this.#active === 0 && this.#waiting.length === 0) return false;
    for (let i = 0; i < ITAGS; i++) if (this.#rid[i] !== -1 && this.#token[i] === token) return true;
    for (let i = 0; i < this.#waiting.length; i++) if (this.#waiting[i]!.token === token) return true;
    return false;
  }

  /** Tells the host when a batch it waits for has ended. */
  #settle(token: number): void {
    const batch = this.#batches.get(token);
    if (batch === undefined || this.#outstanding(token)) return;
    this.#batches.delete(token);
    this.#events.completed(token, batch.error, batch.rid);
  }

  #arm(itag: number, delay: number): void {
    this.#due[itag] = this.#clock.now() + delay;
    this.#cancel[itag] = this.#clock.after(delay, () => {
      this.#cancel[itag] = null;
      this.#finish(itag, HW_ERROR.ATC_TIMEOUT);
    });
  }

  /**
   * The sync behind a batch.
   * @returns the token of what is outstanding, 0: everything has been answered or given up (see `error`).
   */
  sync(): number {
    const token = this.#current;
    if (this.#timeout === 0) this.#giveUp(token);
    this.error = this.#currentError;
    if (!this.#outstanding(token)) return 0;
    this.#batches.set(token, { error: this.#currentError, rid: -1 });
    this.#current = 0;
    for (let i = 0; i < ITAGS; i++) {
      if (this.#rid[i] !== -1 && this.#token[i] === token) this.#arm(i, this.#timeout);
    }
    return token;
  }

  /** Nobody gets any time: each round gives at least one request up, and those that waited for its ITag follow. */
  #giveUp(token: number): void {
    for (let busy = true; busy && this.#outstanding(token); ) {
      busy = false;
      for (let i = 0; i < ITAGS; i++) {
        if (this.#rid[i] === -1 || this.#token[i] !== token) continue;
        this.#finish(i, HW_ERROR.ATC_TIMEOUT);
        busy = true;
      }
    }
  }

  /** HW_ERROR of the last `sync`. */
  error: number = HW_ERROR.NONE;

  save(): AtcData {
    const active: AtcData['active'][number][] = [];
    for (let itag = 0; itag < ITAGS; itag++) {
      const rid = this.#rid[itag]!;
      if (rid === -1) continue;
      active.push({ itag, rid, token: this.#token[itag]!, received: this.#received[itag]!, due: this.#due[itag]! });
    }
    return {
      token: this.#last,
      active,
      waiting: this.#waiting.slice(),
      batches: Array.from(this.#batches, ([token, b]) => [token, b.error, b.rid] as const),
    };
  }

  load(data: AtcData): void {
    for (let i = 0; i < ITAGS; i++) {
      this.#rid[i] = -1;
      this.#cancel[i]?.();
      this.#cancel[i] = null;
    }
    this.#last = data.token;
    this.#current = 0;
    this.#active = 0;
    this.#waiting = data.waiting.slice();
    this.#batches.clear();
    for (const [token, error, rid] of data.batches) this.#batches.set(token, { error, rid });
    for (const a of data.active) {
      this.#rid[a.itag] = a.rid;
      this.#active++;
      this.#token[a.itag] = a.token;
      this.#received[a.itag] = a.received;
      this.#arm(a.itag, Math.max(0, a.due - this.#clock.now()));
    }
  }
}
