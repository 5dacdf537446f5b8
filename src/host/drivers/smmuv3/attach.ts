import { NO_PASID } from '../../../ports/dma.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { STE_WORDS } from '../../../spec/smmuv3/ste.ts';
import { STE_RULES } from './entries.ts';
import { EntryWriter } from './entry-writer.ts';
import type { LatchedStreams, Master } from './master.ts';
import type { CommandQueue } from './queue.ts';
import type { StreamTable } from './tables.ts';

/** A stage that invalidates: it knows every device it is attached to, so that its changes reach their ATCs. */
export interface Invalidated {
  join(user: User): void;
  leave(user: User): void;
}

/** One (device, PASID) below a domain. */
export interface User {
  readonly master: Master;
  readonly ssid: number;
}

/** What an attach of a RID will do. */
export interface Move {
  readonly master: Master;
  /** Whose invalidations the device needs from now on, and up to now. */
  readonly joins: Invalidated | null;
  readonly leaves: Invalidated | null;
  /** Whether the new configuration lets the function use ATS, if SMMU and function can. */
  readonly ats: boolean;
  readonly latched: LatchedStreams | null;
  readonly blocked: boolean;
  /** Builds the entry. */
  ste(into: Int32Array, ats: boolean): void;
}

/**
 * Moves streams from one configuration to another under running traffic. The order of ATS steps keeps every translation a
 * function may hold either covered by an invalidation or refused: function off before the entry changes to refuse it; on only
 * after the entry allows it and the old translations are gone.
 */
export class Attacher {
  readonly #queue: CommandQueue;
  readonly #table: StreamTable;
  readonly #atsCapable: boolean;
  readonly #writer = new EntryWriter(STE_RULES);
  readonly #target = new Int32Array(STE_WORDS);
  #sid = 0;
  readonly #sink = {
    store: (word: number, lo: number, hi: number) => this.#table.store(this.#sid, word, lo, hi),
    sync: () => {
      this.#queue.cfgiSte(this.#sid);
      this.#queue.sync();
    },
  };

  constructor(queue: CommandQueue, table: StreamTable, atsCapable: boolean) {
    this.#queue = queue;
    this.#table = table;
    this.#atsCapable = atsCapable;
  }

  atsSupported(master: Master): boolean {
    return this.#atsCapable && master.dev.ats;
  }

  /** Whether fault delivery, if the domain wants it, is possible (`arm_smmu_enable_iopf`). */
  faultsPossible(master: Master, iopf: boolean): number {
    return iopf && master.stallEnabled && master.dev.streams.length !== 1 ? -E.OPNOTSUPP : 0;
  }

  moveRid(move: Move): void {
    const { master } = move;
    const ats = move.ats && this.atsSupported(master);
    const user = { master, ssid: NO_PASID };
    // Both stages list the device until the hardware has left the old one.
    move.joins?.join(user);
    this.#atsOff(master, ats);
    move.ste(this.#target, ats);
    this.writeSte(master, this.#target);
    master.latched = move.latched;
    master.blocked = move.blocked;
    this.#commitAts(master, ats, NO_PASID);
    move.leaves?.leave(user);
  }

  /** Writes the entries of all streams of the device, each with the steps its current content asks for. */
  writeSte(master: Master, target: Int32Array): void {
    for (let i = 0; i < master.stes.length; i++) {
      this.#sid = master.dev.streams[i]!;
      this.#writer.write(master.stes[i]!, target, this.#sink);
    }
  }

  /** Before the entry changes: the function stops using ATS if it may not any longer. */
  #atsOff(master: Master, ats: boolean): void {
    if (master.ats && !ats) master.dev.control?.setAts(false);
  }

  #commitAts(master: Master, ats: boolean, ssid: number): void {
    const was = master.ats;
    if (was || ats) this.flushAtc(master, ssid);
    if (ats && !was) master.dev.control?.setAts(true);
    master.ats = ats;
  }

  /** ATS for a PASID attach: it may become needed, and stays. @param before runs between the two halves. */
  movePasid(master: Master, ssid: number, ats: boolean, before: (ats: boolean) => void): void {
    const on = ats && this.atsSupported(master);
    this.#atsOff(master, on);
    before(on);
    this.#commitAts(master, on, ssid);
  }

  /** Everything the function may hold for this PASID. */
  flushAtc(master: Master, ssid: number): void {
    for (const sid of master.dev.streams) {
      if (ssid === NO_PASID) this.#queue.atcInvWhole(sid, master.ssidBits > 0);
      else this.#queue.atcInvAll(sid, ssid);
    }
    this.#queue.sync();
  }
}
