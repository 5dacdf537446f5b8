import { NO_PASID } from '../../../ports/dma.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { STE_WORDS } from '../../../spec/smmuv3/ste.ts';
import { STE_RULES } from './entries.ts';
import { EntryWriter } from './entry-writer.ts';
import type { LatchedStream, MasterStream, Smmuv3Master } from './master.ts';
import type { Smmuv3DriverQueue } from './queue.ts';
import type { StreamTable } from './tables.ts';
import { ALL_STREAMS, type Smmuv3User } from './users.ts';

/** A stage that invalidates: it knows every device it is attached to, so that its changes reach their ATCs. */
export interface Invalidated {
  join(user: Smmuv3User): void;
  leave(user: Smmuv3User): void;
}

/** What an attach of a RID will do. */
export interface Smmuv3Move {
  readonly master: Smmuv3Master;
  /** Index of the stream that moves by itself, or ALL_STREAMS. */
  readonly stream: number;
  /** Whose invalidations the device needs from now on, and up to now. */
  readonly joins: Invalidated | null;
  readonly leaves: Invalidated | null;
  /** Whether the new configuration lets the function use ATS, if SMMU and function can. */
  readonly ats: boolean;
  readonly latched: LatchedStream | null;
  readonly blocked: boolean;
  /** Builds the entry. */
  ste(into: Int32Array, ats: boolean): void;
}

/**
 * Moves streams from one configuration to another under running traffic. The order of ATS steps keeps every translation a
 * function may hold either covered by an invalidation or refused: function off before the entry changes to refuse it; on only
 * after the entry allows it and the old translations are gone.
 */
export class Smmuv3DriverAttacher {
  readonly #queue: Smmuv3DriverQueue;
  readonly #table: StreamTable;
  readonly #atsCapable: boolean;
  readonly #writer = new EntryWriter(STE_RULES);
  readonly #target = new Int32Array(STE_WORDS);
  #sid = 0;
  /** The first error of the entry being written. */
  #failed = 0;
  readonly #sink = {
    store: (word: number, lo: number, hi: number) => this.#table.store(this.#sid, word, lo, hi),
    sync: () => {
      this.#queue.cfgiSte(this.#sid);
      this.#failed ||= this.#queue.sync();
    },
  };

  constructor(queue: Smmuv3DriverQueue, table: StreamTable, atsCapable: boolean) {
    this.#queue = queue;
    this.#table = table;
    this.#atsCapable = atsCapable;
  }

  atsSupported(master: Smmuv3Master): boolean {
    return this.#atsCapable && master.dev.ats;
  }

  /** Whether fault delivery, if the domain wants it, is possible (`arm_smmu_enable_iopf`). */
  faultsPossible(master: Smmuv3Master, iopf: boolean): number {
    return iopf && master.stallEnabled && master.dev.streams.length !== 1 ? -E.OPNOTSUPP : 0;
  }

  /**
   * @returns 0, or -errno of a command that failed. A move to a domain is then undone, and the old configuration is in
   *   force; a move to nothing has been stored, but the old domain keeps the device until the SMMU has confirmed.
   */
  moveRid(move: Smmuv3Move): number {
    const { master, stream } = move;
    const { unconfirmed } = this.#queue;
    // While the SMMU has not forgotten everything, it may know an entry that was here before.
    const behind = move.blocked ? 0 : unconfirmed.settle();
    if (behind !== 0) return behind;
    const streams = stream === ALL_STREAMS ? master.streams : [master.streams[stream]!];
    const ats = move.ats && this.atsSupported(master);
    const user = { master, ssid: NO_PASID, stream };
    const before = move.blocked ? null : streams.map(({ ste }) => ste.slice());
    // Both stages list the device until the hardware has left the old one.
    move.joins?.join(user);
    const off = this.#atsOff(master, streams, ats);
    move.ste(this.#target, ats);
    const r = this.writeStes(streams, this.#target) || this.#commitAts(master, streams, ats, NO_PASID);
    if (r !== 0 && before !== null) {
      this.#undo(master, streams, before, off);
      move.joins?.leave(user);
      return r;
    }
    for (const s of streams) {
      s.latched = move.latched;
      s.ats = ats;
    }
    if (stream === ALL_STREAMS) master.blocked = move.blocked;
    unconfirmed.afterwards(() => move.leaves?.leave(user));
    return r;
  }

  /**
   * Puts the entries back as they were. A second failure can only be left alone.
   * @param ats the function's ATS was switched off for the move.
   */
  #undo(master: Smmuv3Master, streams: readonly MasterStream[], stes: readonly Int32Array[], ats: boolean): void {
    for (let i = 0; i < stes.length; i++) {
      const { sid, ste } = streams[i]!;
      this.#sid = sid;
      this.#writer.write(ste, stes[i]!, this.#sink);
    }
    if (ats) master.dev.control?.setAts(true);
  }

  /** Writes the entries of streams, each with the steps its current content asks for. @returns 0 or -errno. */
  writeStes(streams: readonly MasterStream[], target: Int32Array): number {
    this.#failed = 0;
    for (const { sid, ste } of streams) {
      this.#sid = sid;
      this.#writer.write(ste, target, this.#sink);
    }
    return this.#failed;
  }

  /**
   * Before the entry changes: the function stops using ATS if none of its streams may any longer.
   * @returns whether it was switched off.
   */
  #atsOff(master: Smmuv3Master, streams: readonly MasterStream[], ats: boolean): boolean {
    const off = master.ats && !ats && !master.streams.some((s) => s.ats && !streams.includes(s));
    if (off) master.dev.control?.setAts(false);
    return off;
  }

  #commitAts(master: Smmuv3Master, streams: readonly MasterStream[], ats: boolean, ssid: number): number {
    const before = master.ats;
    const r = ats || streams.some((s) => s.ats) ? this.#flush(master, streams, ssid) : 0;
    if (r !== 0) return r;
    if (ats && !before) master.dev.control?.setAts(true);
    for (const s of streams) s.ats = ats;
    return 0;
  }

  /**
   * ATS for a PASID attach: it may become needed, and stays.
   * @param before runs between the two halves: 0 or -errno. @returns 0 or -errno of it or of the invalidation.
   */
  movePasid(master: Smmuv3Master, ssid: number, ats: boolean, before: (ats: boolean) => number): number {
    const on = ats && this.atsSupported(master);
    this.#atsOff(master, master.streams, on);
    return before(on) || this.#commitAts(master, master.streams, on, ssid);
  }

  /** Everything the function may hold for this PASID. */
  flushAtc(master: Smmuv3Master, ssid: number): number {
    return this.#flush(master, master.streams, ssid);
  }

  #flush(master: Smmuv3Master, streams: readonly MasterStream[], ssid: number): number {
    for (const { sid } of streams) {
      if (ssid === NO_PASID) this.#queue.atcInvWhole(sid, master.ssidBits > 0);
      else this.#queue.atcInvAll(sid, ssid);
    }
    return this.#queue.sync();
  }
}
