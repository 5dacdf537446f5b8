import type { Clock } from '../../ports/clock.ts';
import { ACCESS, type EndpointPort, NO_PASID } from '../../ports/dma.ts';
import type { HwEvents } from '../../ports/hw.ts';
import { PRI_WORDS, PRI1 } from '../../spec/smmuv3/events.ts';
import type { Smmuv3HwRegisters } from './registers.ts';

/** PRG response codes (PCIe ATS §10.4). */
const PRG = { SUCCESS: 0, INVALID: 1, FAILURE: 15 } as const;
/** CMD_PRI_RESP.Resp to PRG response code: deny, fail, success. */
const CODE_OF_RESP = [PRG.FAILURE, PRG.INVALID, PRG.SUCCESS] as const;

export interface Smmuv3HwPageRequestsData {
  readonly queue: readonly (readonly number[])[];
  readonly overflow: boolean;
  readonly due: number;
}

export interface Smmuv3HwPageRequestsParts {
  readonly registers: Smmuv3HwRegisters;
  readonly events: HwEvents;
  /** null: no function answers messages. */
  readonly endpoints: EndpointPort | null;
  readonly clock: Clock;
  /** Nanoseconds until the host has read what was queued; 0: at once. */
  readonly latency: number;
}

/**
 * The PRI queue (IHI 0070 §8): requests go to the host in order, at once or after `latency`; while the queue has overflowed
 * nothing is written and the last request of a group is answered by the SMMU itself.
 */
export class Smmuv3HwPageRequests {
  readonly #registers: Smmuv3HwRegisters;
  readonly #events: HwEvents;
  readonly #endpoints: EndpointPort | null;
  readonly #clock: Clock;
  readonly #latency: number;
  #queue: Int32Array[] = [];
  #overflow = false;
  #due = 0;
  #cancel: (() => void) | null = null;

  constructor(parts: Smmuv3HwPageRequestsParts) {
    this.#registers = parts.registers;
    this.#events = parts.events;
    this.#endpoints = parts.endpoints;
    this.#clock = parts.clock;
    this.#latency = parts.latency;
  }

  /** @param answerPasid whether an automatic answer repeats the request's PASID (IDR3.PPS, STE.PPAR). */
  request(
    rid: number,
    pasid: number,
    lo: number,
    hi: number,
    access: number,
    group: number,
    last: boolean,
    answerPasid: boolean,
  ): void {
    const stop = last && pasid !== NO_PASID && (access & (ACCESS.READ | ACCESS.WRITE)) === 0;
    if (!this.#registers.takesPageRequests) {
      // Every request is refused, also inside a group (IHI 0070 §8.2).
      if (!stop) this.#endpoints?.pageResponse(rid, NO_PASID, group, PRG.FAILURE);
      return;
    }
    if (this.#overflow || this.#queue.length >= this.#registers.pageRequestEntries) {
      this.#overflow = true;
      if (last && !stop) this.#endpoints?.pageResponse(rid, answerPasid ? pasid : NO_PASID, group, PRG.SUCCESS);
      return;
    }
    const r = new Int32Array(PRI_WORDS);
    r[0] = rid;
    r[1] =
      (pasid === NO_PASID ? 0 : PRI1.SSV | pasid) |
      (last ? PRI1.LAST : 0) |
      ((access & ACCESS.READ) !== 0 ? PRI1.READ : 0) |
      ((access & ACCESS.WRITE) !== 0 ? PRI1.WRITE : 0) |
      ((access & ACCESS.EXEC) !== 0 ? PRI1.EXEC : 0) |
      ((access & ACCESS.PRIV) !== 0 ? PRI1.PRIV : 0);
    r[2] = (lo & ~0xfff) | (group & 0x1ff);
    r[3] = hi;
    if (this.#latency === 0) this.#tell(r);
    else this.#enqueue(r);
  }

  #tell(r: Int32Array): void {
    if (this.#registers.interruptsForPageRequests) this.#events.pageRequest(r);
  }

  #enqueue(r: Int32Array): void {
    this.#queue.push(r);
    if (this.#cancel === null) this.#arm(this.#latency);
  }

  #arm(delay: number): void {
    this.#due = this.#clock.now() + delay;
    this.#cancel = this.#clock.after(delay, () => {
      this.#cancel = null;
      const read = this.#queue;
      this.#queue = [];
      // The host's handler reads all there is and acknowledges an overflow.
      this.#overflow = false;
      for (const r of read) this.#tell(r);
    });
  }

  /** CMD_PRI_RESP. @param resp 0 deny, 1 fail, 2 success. */
  respond(rid: number, pasid: number, group: number, resp: number): void {
    this.#endpoints?.pageResponse(rid, pasid, group, CODE_OF_RESP[resp as 0 | 1 | 2]);
  }

  save(): Smmuv3HwPageRequestsData {
    return { queue: this.#queue.map((r) => Array.from(r)), overflow: this.#overflow, due: this.#due };
  }

  load(data: Smmuv3HwPageRequestsData): void {
    this.#cancel?.();
    this.#cancel = null;
    this.#queue = data.queue.map((r) => Int32Array.from(r));
    this.#overflow = data.overflow;
    if (this.#queue.length > 0) this.#arm(Math.max(0, data.due - this.#clock.now()));
  }
}
