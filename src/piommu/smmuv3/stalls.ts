import { DMA, type EndpointPort } from '../../ports/dma.ts';
import { EV2_STALL } from '../../spec/smmuv3/events.ts';

interface Stall {
  readonly rid: number;
  readonly token: number;
  /** -1: waits for a STAG, its event is not yet recorded. */
  stag: number;
  readonly record: Int32Array;
}

export interface Smmuv3HwStallsData {
  readonly token: number;
  readonly list: readonly {
    readonly rid: number;
    readonly token: number;
    readonly stag: number;
    readonly record: number[];
  }[];
}

/**
 * Stalled transactions (IHI 0070 §3.12.2): each has a STAG while software decides it by RESUME or STALL_TERM. More than
 * there are STAGs wait, and are recorded when one is free; none is ever discarded.
 */
export class Smmuv3HwStalls {
  readonly #limit: number;
  readonly #endpoints: EndpointPort | null;
  readonly #send: (record: Int32Array) => void;
  #list: Stall[] = [];
  #token = 0;

  constructor(limit: number, endpoints: EndpointPort | null, send: (record: Int32Array) => void) {
    this.#limit = limit;
    this.#endpoints = endpoints;
    this.#send = send;
  }

  /** @param record the event, complete but for STAG. @returns the token of the transaction. */
  begin(rid: number, record: Int32Array): number {
    const stall: Stall = { rid, token: ++this.#token, stag: this.#freeStag(), record };
    this.#list.push(stall);
    if (stall.stag >= 0) this.#record(stall);
    return stall.token;
  }

  #freeStag(): number {
    for (let stag = 0; stag < this.#limit; stag++) {
      if (!this.#list.some((s) => s.stag === stag)) return stag;
    }
    return -1;
  }

  #record(stall: Stall): void {
    stall.record[2] = EV2_STALL | stall.stag;
    this.#send(stall.record);
  }

  /** Decides one transaction. An unknown (StreamID, STAG) is no error (IHI 0070 §4.7.1). @param outcome a DMA value. */
  resume(rid: number, stag: number, outcome: number): void {
    const at = this.#list.findIndex((s) => s.rid === rid && s.stag === stag);
    if (at < 0) return;
    const [stall] = this.#list.splice(at, 1);
    this.#promote();
    this.#endpoints?.resumed(rid, stall!.token, outcome);
  }

  /** Ends every stall of a stream, also those not yet recorded. */
  terminate(rid: number): void {
    const ended = this.#list.filter((s) => s.rid === rid);
    if (ended.length === 0) return;
    this.#list = this.#list.filter((s) => s.rid !== rid);
    this.#promote();
    for (const s of ended) this.#endpoints?.resumed(rid, s.token, DMA.ABORT);
  }

  #promote(): void {
    for (const s of this.#list) {
      if (s.stag >= 0) continue;
      const stag = this.#freeStag();
      if (stag < 0) return;
      s.stag = stag;
      this.#record(s);
    }
  }

  save(): Smmuv3HwStallsData {
    return { token: this.#token, list: this.#list.map((s) => ({ ...s, record: Array.from(s.record) })) };
  }

  load(data: Smmuv3HwStallsData): void {
    this.#token = data.token;
    this.#list = data.list.map((s) => ({ ...s, record: Int32Array.from(s.record) }));
  }
}
