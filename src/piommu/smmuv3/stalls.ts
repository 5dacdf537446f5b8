import type { Quota } from '../../lib/limits/machine-limits.ts';
import { DMA, type EndpointPort } from '../../ports/dma.ts';
import { EV2_STALL } from '../../spec/smmuv3/events.ts';

/** The transaction that waits, as it came. */
export interface StalledAccess {
  readonly rid: number;
  /** SubstreamID, or -1. */
  readonly pasid: number;
  readonly lo: number;
  readonly hi: number;
  /** ACCESS bits. */
  readonly access: number;
}

interface Stall {
  readonly of: StalledAccess;
  readonly token: number;
  /** -1: waits for a STAG, its event is not yet recorded. */
  stag: number;
  record: Int32Array;
}

export interface Smmuv3HwStallsData {
  readonly token: number;
  readonly list: readonly {
    readonly of: StalledAccess;
    readonly token: number;
    readonly stag: number;
    readonly record: number[];
  }[];
}

export interface Smmuv3HwStallsParts {
  /** STAGs there are. */
  readonly limit: number;
  /** How many transactions may be stalled, with a STAG or without; null: any number. */
  readonly quota: Quota | null;
  readonly endpoints: EndpointPort | null;
  readonly send: (record: Int32Array) => void;
  /** The event record of a transaction that is looked at again; null: it faults no longer. */
  readonly again: (of: StalledAccess) => Int32Array | null;
}

/**
 * Stalled transactions (IHI 0070 §3.12.2): each has a STAG while software decides it by RESUME or STALL_TERM. More than
 * there are STAGs wait without a record; when a STAG is free the first of them is recorded, or retried if the cause of its
 * fault has gone by then. None is ever discarded.
 */
export class Smmuv3HwStalls {
  /** After `begin` answered STALLED: the token of the transaction. */
  token = 0;
  readonly #p: Smmuv3HwStallsParts;
  #list: Stall[] = [];
  #last = 0;
  /** Stalls that the quota knows of. */
  #known = 0;
  /** The stall whose record is on its way to software, which may decide it there and then. */
  #reported: Stall | null = null;
  #decided = -1;

  constructor(parts: Smmuv3HwStallsParts) {
    this.#p = parts;
  }

  /** Whether one more transaction may wait. */
  get room(): boolean {
    return this.#p.quota?.room() ?? true;
  }

  #count(): void {
    const { length } = this.#list;
    if (this.#p.quota !== null) this.#p.quota.used += length - this.#known;
    this.#known = length;
  }

  /**
   * A transaction stalls.
   * @param record its event, complete but for STAG.
   * @returns STALLED (then `token` names it), or what software decided while it read the record.
   */
  begin(of: StalledAccess, record: Int32Array): number {
    const stall: Stall = { of, token: ++this.#last, stag: this.#freeStag(), record };
    this.#list.push(stall);
    this.#count();
    if (stall.stag >= 0) {
      const outer = this.#reported;
      this.#reported = stall;
      this.#decided = -1;
      this.#record(stall);
      this.#reported = outer;
      if (!this.#list.includes(stall)) return this.#decided;
    }
    this.token = stall.token;
    return DMA.STALLED;
  }

  #freeStag(): number {
    for (let stag = 0; stag < this.#p.limit; stag++) {
      if (!this.#list.some((s) => s.stag === stag)) return stag;
    }
    return -1;
  }

  #record(stall: Stall): void {
    stall.record[2] = EV2_STALL | stall.stag;
    this.#p.send(stall.record);
  }

  /** Decides one transaction. An unknown (StreamID, STAG) is no error (IHI 0070 §4.7.1). @param outcome a DMA value. */
  resume(rid: number, stag: number, outcome: number): void {
    const at = this.#list.findIndex((s) => s.of.rid === rid && s.stag === stag);
    if (at < 0) return;
    const [stall] = this.#list.splice(at, 1);
    this.#count();
    this.#promote();
    this.#end(stall!, outcome);
  }

  /** Ends every stall of a stream, also those not yet recorded. */
  terminate(rid: number): void {
    const ended = this.#list.filter((s) => s.of.rid === rid);
    if (ended.length === 0) return;
    this.#list = this.#list.filter((s) => s.of.rid !== rid);
    this.#count();
    this.#promote();
    for (const s of ended) this.#end(s, DMA.ABORT);
  }

  #end(stall: Stall, outcome: number): void {
    if (stall === this.#reported) this.#decided = outcome;
    else this.#p.endpoints?.resumed(stall.of.rid, stall.token, outcome);
  }

  #promote(): void {
    for (;;) {
      const stag = this.#freeStag();
      const at = stag < 0 ? -1 : this.#list.findIndex((s) => s.stag < 0);
      if (at < 0) return;
      const stall = this.#list[at]!;
      const record = this.#p.again(stall.of);
      // Looking again asks software about pages, and it may have ended the stall meanwhile.
      if (!this.#list.includes(stall)) continue;
      if (record === null) {
        this.#list.splice(this.#list.indexOf(stall), 1);
        this.#count();
        this.#end(stall, DMA.OK);
        continue;
      }
      stall.record = record;
      stall.stag = stag;
      this.#record(stall);
    }
  }

  save(): Smmuv3HwStallsData {
    return { token: this.#last, list: this.#list.map((s) => ({ ...s, record: Array.from(s.record) })) };
  }

  load(data: Smmuv3HwStallsData): void {
    this.#last = data.token;
    this.#list = data.list.map((s) => ({ ...s, record: Int32Array.from(s.record) }));
    this.#count();
  }
}
