import type { Clock } from '../../ports/clock.ts';
import { type EndpointPort, NO_PASID } from '../../ports/dma.ts';
import { HW_ERROR, type HwEvents } from '../../ports/hw.ts';
import type { Tell } from '../../ports/tell.ts';

/** ITags of a unit. */
const TAGS = 32;

interface Request {
  token: number;
  rid: number;
  pasid: number;
  lo: number;
  hi: number;
  global: boolean;
}

/** A request under an ITag. */
interface InFlight extends Request {
  /** Completions received. */
  received: number;
  /** Takes the timer back; null: none runs. */
  cancel: (() => void) | null;
  deadline: number;
}

/** Requests of one submission that are on their way. */
interface Open {
  count: number;
  error: number;
  rid: number;
}

export interface DeviceTlbData {
  readonly waiting: readonly Request[];
  readonly tags: readonly ((Request & { readonly received: number; readonly left: number }) | null)[];
  readonly open: readonly (readonly [token: number, count: number, error: number, rid: number])[];
  readonly unexpected: number;
}

/**
 * Invalidation requests to device TLBs (VT-d §4.3, §6.5.2.5): one ITag each until the function's completions are in or time
 * is up. More requests than ITags wait in order. Requests that complete at once allocate nothing.
 */
export class DeviceTlb {
  endpoints: EndpointPort | null = null;
  events: HwEvents | null = null;
  tell: Tell | null = null;
  /** Completions nobody waited for, or from the wrong function (ICE). */
  unexpected = 0;
  readonly #clock: Clock | null;
  readonly #timeout: number;
  readonly #tags: readonly InFlight[] = Array.from({ length: TAGS }, () => ({
    token: 0,
    rid: 0,
    pasid: NO_PASID,
    lo: 0,
    hi: 0,
    global: false,
    received: 0,
    cancel: null,
    deadline: 0,
  }));
  /** Bit per ITag in use. */
  #busy = 0;
  readonly #waiting: Request[] = [];
  /** The submission that is being sent, 0: none; and those it interrupted. */
  #token = 0;
  readonly #outer: number[] = [];
  readonly #sending: Open = { count: 0, error: HW_ERROR.NONE, rid: 0 };
  /** Earlier submissions with requests on their way. */
  readonly #open = new Map<number, Open>();

  /** @param timeout nanoseconds until a request without completion is given up. */
  constructor(clock: Clock | null, timeout: number) {
    this.#clock = clock;
    this.#timeout = timeout;
  }

  /** Requests sent from now on belong to `token`, until `close`. Submissions may nest: a completion can cause one. */
  begin(token: number): void {
    if (this.#token !== 0) {
      this.#outer.push(this.#token);
      this.#open.set(this.#token, { ...this.#sending });
    }
    this.#token = token;
    this.#sending.count = 0;
    this.#sending.error = HW_ERROR.NONE;
  }

  /** Sends one request. Its completion may arrive inside this call. */
  send(rid: number, pasid: number, lo: number, hi: number, global: boolean): void {
    this.#sending.count++;
    if (this.#busy === -1 || this.#waiting.length > 0) {
      this.#waiting.push({ token: this.#token, rid, pasid, lo, hi, global });
      return;
    }
    this.#start(this.#token, rid, pasid, lo, hi, global);
  }

  /** Whether a request of the submission at hand failed already. Forgets it: the caller reports it. */
  failed(): boolean {
    if (this.#sending.error === HW_ERROR.NONE) return false;
    this.#sending.error = HW_ERROR.NONE;
    return true;
  }

  /**
   * All requests of the submission have been sent.
   * @returns whether some are still on their way; then `HwEvents.completed` tells the end.
   */
  close(): boolean {
    const token = this.#token;
    const { count, error, rid } = this.#sending;
    this.#token = 0;
    if (count > 0) this.#open.set(token, { count, error, rid });
    const outer = this.#outer.pop();
    if (outer !== undefined) {
      Object.assign(this.#sending, this.#open.get(outer));
      this.#open.delete(outer);
      this.#token = outer;
    }
    return count > 0;
  }

  /** Takes a free ITag. */
  #start(token: number, rid: number, pasid: number, lo: number, hi: number, global: boolean): void {
    const free = ~this.#busy;
    const tag = 31 - Math.clz32(free & -free);
    const flight = this.#tags[tag]!;
    flight.token = token;
    flight.rid = rid;
    flight.pasid = pasid;
    flight.lo = lo;
    flight.hi = hi;
    flight.global = global;
    flight.received = 0;
    this.#busy |= 1 << tag;
    if (this.tell !== null) {
      const address = (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
      const args = { itag: tag, address, global: global ? 1 : 0 };
      this.tell({ what: 'ats', message: 'invalidate', rid, pasid, args });
    }
    const there = this.endpoints?.invalidate(rid, pasid, tag, lo, hi, global) ?? false;
    // Completed inside the call; the tag may be in use for another request by now.
    if ((this.#busy & (1 << tag)) === 0 || flight.cancel !== null) return;
    const clock = this.#clock;
    // Nobody there, or nobody who could ever be late: no point in waiting.
    if (!there || clock === null) this.#finish(tag, HW_ERROR.ATC_TIMEOUT);
    else {
      flight.deadline = clock.now() + this.#timeout;
      flight.cancel = clock.after(this.#timeout, () => this.#finish(tag, HW_ERROR.ATC_TIMEOUT));
    }
  }

  /** An invalidation completion message. @param count CC: completions to expect, 0 means 8. */
  completion(rid: number, itags: number, count: number): void {
    // Tags that become free and are used again inside this call are not meant.
    const meant = itags & this.#busy;
    for (let tag = 0; tag < TAGS; tag++) {
      if (((itags >>> tag) & 1) === 0) continue;
      const flight = this.#tags[tag]!;
      if (((meant >>> tag) & 1) === 0 || flight.rid !== rid) {
        this.unexpected++;
        this.tell?.({ what: 'ats', message: 'unexpected-completion', rid, pasid: NO_PASID, args: { itag: tag } });
        continue;
      }
      flight.received++;
      if (flight.received >= (count === 0 ? 8 : count)) this.#release(tag, HW_ERROR.NONE);
    }
    this.#pump();
  }

  #finish(tag: number, error: number): void {
    this.#release(tag, error);
    this.#pump();
  }

  /** The ITag is free again; the last of a submission ends it. */
  #release(tag: number, error: number): void {
    const flight = this.#tags[tag]!;
    flight.cancel?.();
    flight.cancel = null;
    this.#busy &= ~(1 << tag);
    const { token, rid } = flight;
    const sending = token === this.#token;
    const open = sending ? this.#sending : this.#open.get(token)!;
    open.count--;
    if (error !== HW_ERROR.NONE) {
      open.error = error;
      open.rid = rid;
    }
    if (open.count > 0 || sending || this.#outer.includes(token)) return;
    this.#open.delete(token);
    this.events?.completed(token, open.error, open.rid);
  }

  #pump(): void {
    while (this.#busy !== -1 && this.#waiting.length > 0) {
      const r = this.#waiting.shift()!;
      this.#start(r.token, r.rid, r.pasid, r.lo, r.hi, r.global);
    }
  }

  save(): DeviceTlbData {
    const now = this.#clock?.now() ?? 0;
    return {
      waiting: this.#waiting.map((r) => ({ ...r })),
      tags: this.#tags.map((f, tag) => {
        if ((this.#busy & (1 << tag)) === 0) return null;
        const { cancel: _, deadline, ...rest } = f;
        return { ...rest, left: Math.max(0, deadline - now) };
      }),
      open: [...this.#open].map(([token, o]) => [token, o.count, o.error, o.rid] as const),
      unexpected: this.unexpected,
    };
  }

  load(data: DeviceTlbData): void {
    for (const f of this.#tags) {
      f.cancel?.();
      f.cancel = null;
    }
    this.#busy = 0;
    this.#waiting.splice(0, this.#waiting.length, ...data.waiting.map((r) => ({ ...r })));
    this.#open.clear();
    for (const [token, count, error, rid] of data.open) this.#open.set(token, { count, error, rid });
    this.unexpected = data.unexpected;
    const now = this.#clock?.now() ?? 0;
    for (const [tag, saved] of data.tags.entries()) {
      if (saved === null) continue;
      const { left, ...rest } = saved;
      const flight = this.#tags[tag]!;
      Object.assign(flight, rest);
      flight.deadline = now + left;
      flight.cancel = this.#clock?.after(left, () => this.#finish(tag, HW_ERROR.ATC_TIMEOUT)) ?? null;
      this.#busy |= 1 << tag;
    }
  }
}
