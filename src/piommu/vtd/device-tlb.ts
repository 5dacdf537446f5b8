import type { Clock } from '../../ports/clock.ts';
import type { EndpointPort } from '../../ports/dma.ts';
import { HW_ERROR, type HwEvents } from '../../ports/hw.ts';
import type { Tell } from '../../ports/tell.ts';

/** ITags of a unit. */
const TAGS = 32;

interface Request {
  readonly token: number;
  readonly rid: number;
  readonly pasid: number;
  readonly lo: number;
  readonly hi: number;
  readonly global: boolean;
}

interface InFlight extends Request {
  received: number;
  /** Takes the timer back; null: none runs. */
  cancel: (() => void) | null;
  readonly deadline: number;
}

export interface DeviceTlbData {
  readonly waiting: readonly Request[];
  readonly tags: readonly ((Request & { readonly received: number; readonly left: number }) | null)[];
  readonly open: readonly (readonly [token: number, count: number, error: number, rid: number])[];
  readonly unexpected: number;
}

/**
 * Invalidation requests to device TLBs (VT-d §4.3, §6.5.2.5): one ITag each until the function's completions are in or time
 * is up. More requests than ITags wait in order.
 */
export class DeviceTlb {
  endpoints: EndpointPort | null = null;
  events: HwEvents | null = null;
  tell: Tell | null = null;
  /** Completions nobody waited for, or from the wrong function (ICE). */
  unexpected = 0;
  /** The token whose requests are being sent: its end is told by `close`. 0: none. */
  current = 0;
  readonly #clock: Clock | null;
  readonly #timeout: number;
  readonly #tags: (InFlight | null)[] = new Array<InFlight | null>(TAGS).fill(null);
  readonly #waiting: Request[] = [];
  /** Tokens with requests on their way: how many, and what went wrong. */
  readonly #open = new Map<number, { count: number; error: number; rid: number }>();

  /** @param timeout nanoseconds until a request without completion is given up. */
  constructor(clock: Clock | null, timeout: number) {
    this.#clock = clock;
    this.#timeout = timeout;
  }

  /** Sends one request under `token`. Its completion may arrive inside this call. */
  send(token: number, rid: number, pasid: number, lo: number, hi: number, global: boolean): void {
    this.#waiting.push({ token, rid, pasid, lo, hi, global });
    const open = this.#open.get(token);
    if (open === undefined) this.#open.set(token, { count: 1, error: HW_ERROR.NONE, rid: 0 });
    else open.count++;
    this.#pump();
  }

  /** Whether a request of `token`, which is still being sent, failed already. Forgets it: the caller reports it. */
  failed(token: number): boolean {
    const open = this.#open.get(token);
    if (open === undefined || open.error === HW_ERROR.NONE) return false;
    open.error = HW_ERROR.NONE;
    return true;
  }

  /**
   * All requests of `token` have been sent.
   * @returns whether some are still on their way; then `HwEvents.completed` tells the end.
   */
  close(token: number): boolean {
    const open = this.#open.get(token);
    if (open === undefined) return false;
    if (open.count > 0) return true;
    this.#open.delete(token);
    return false;
  }

  #pump(): void {
    for (let tag = this.#tags.indexOf(null); tag >= 0 && this.#waiting.length > 0; tag = this.#tags.indexOf(null)) {
      this.#start(tag, this.#waiting.shift()!);
    }
  }

  #start(tag: number, r: Request): void {
    const clock = this.#clock;
    const flight: InFlight = { ...r, received: 0, cancel: null, deadline: (clock?.now() ?? 0) + this.#timeout };
    this.#tags[tag] = flight;
    if (this.tell !== null) {
      const address = (BigInt(r.hi >>> 0) << 32n) | BigInt(r.lo >>> 0);
      const args = { itag: tag, address, global: r.global ? 1 : 0 };
      this.tell({ what: 'ats', message: 'invalidate', rid: r.rid, pasid: r.pasid, args });
    }
    const there = this.endpoints?.invalidate(r.rid, r.pasid, tag, r.lo, r.hi, r.global) ?? false;
    if (this.#tags[tag] !== flight) return;
    // Nobody there, or nobody who could ever be late: no point in waiting.
    if (!there || clock === null) this.#finish(tag, HW_ERROR.ATC_TIMEOUT);
    else flight.cancel = clock.after(this.#timeout, () => this.#finish(tag, HW_ERROR.ATC_TIMEOUT));
  }

  /** An invalidation completion message. @param count CC: completions to expect, 0 means 8. */
  completion(rid: number, itags: number, count: number): void {
    for (let tag = 0; tag < TAGS; tag++) {
      if (((itags >>> tag) & 1) === 0) continue;
      const flight = this.#tags[tag]!;
      if (flight === null || flight.rid !== rid) {
        this.unexpected++;
        this.tell?.({ what: 'ats', message: 'unexpected-completion', rid, pasid: -1, args: { itag: tag } });
        continue;
      }
      flight.received++;
      if (flight.received >= (count === 0 ? 8 : count)) this.#finish(tag, HW_ERROR.NONE);
    }
  }

  #finish(tag: number, error: number): void {
    const flight = this.#tags[tag]!;
    flight.cancel?.();
    this.#tags[tag] = null;
    const open = this.#open.get(flight.token)!;
    open.count--;
    if (error !== HW_ERROR.NONE) {
      open.error = error;
      open.rid = flight.rid;
    }
    if (open.count === 0 && flight.token !== this.current) {
      this.#open.delete(flight.token);
      this.events?.completed(flight.token, open.error, open.rid);
    }
    this.#pump();
  }

  save(): DeviceTlbData {
    const now = this.#clock?.now() ?? 0;
    return {
      waiting: this.#waiting.map((r) => ({ ...r })),
      tags: this.#tags.map((f) => {
        if (f === null) return null;
        const { cancel: _, deadline, ...rest } = f;
        return { ...rest, left: Math.max(0, deadline - now) };
      }),
      open: [...this.#open].map(([token, o]) => [token, o.count, o.error, o.rid] as const),
      unexpected: this.unexpected,
    };
  }

  load(data: DeviceTlbData): void {
    for (const f of this.#tags) f?.cancel?.();
    this.#waiting.splice(0, this.#waiting.length, ...data.waiting);
    this.#open.clear();
    for (const [token, count, error, rid] of data.open) this.#open.set(token, { count, error, rid });
    this.unexpected = data.unexpected;
    const now = this.#clock?.now() ?? 0;
    data.tags.forEach((saved, tag) => {
      if (saved === null) {
        this.#tags[tag] = null;
        return;
      }
      const { left, ...rest } = saved;
      const cancel = this.#clock?.after(left, () => this.#finish(tag, HW_ERROR.ATC_TIMEOUT)) ?? null;
      this.#tags[tag] = { ...rest, cancel, deadline: now + left };
    });
  }
}
