import type { VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { isAnswerRefused } from '../../src/lib/uapi/refusals.ts';
import { PRG } from '../../src/spec/pcie/messages.ts';
import { evSsid, evSsv, evStag } from '../../src/spec/smmuv3/events.ts';
import type { Smmuv3Core } from './core.ts';
import type { Smmuv3Faults } from './faults.ts';
import type { Smmuv3Records } from './records.ts';
import type { Smmuv3Stream } from './stream.ts';

interface Stalled {
  readonly stream: Smmuv3Stream;
  readonly stag: number;
  readonly pasid: number;
  /** The hardware's record of a stall that the event queue had no place for yet; null: the guest has been told. */
  unrecorded: Int32Array | null;
}

/** Who tells the guest of a stall. */
export interface Smmuv3StallParts {
  readonly core: Smmuv3Core;
  readonly faults: Smmuv3Faults;
  readonly records: Smmuv3Records;
}

/**
 * Transactions that the hardware holds until the guest decides (IHI 0070 §3.12.2), in the order they came. Each has a STAG; one
 * whose record the event queue does not take waits here for room, and leaves the list like any other.
 */
export class Smmuv3Stalls {
  readonly #p: Smmuv3StallParts;
  #list: Stalled[] = [];

  constructor(parts: Smmuv3StallParts) {
    this.#p = parts;
  }

  get size(): number {
    return this.#list.length;
  }

  /**
   * The hardware holds a transaction. It stays held if it is the guest whose tables say so; what the host's own stage 2 stopped,
   * or a guest's stage 2 with S2S=0, is terminated, and recorded as a fault that does not stall.
   * @param raw the hardware's record. @param refused the host refused to map a page for it.
   */
  begin(stream: Smmuv3Stream, raw: Int32Array, refused: boolean): void {
    const { faults, records } = this.#p;
    const told = faults.attribute(stream, raw, refused);
    const stall: Stalled = { stream, stag: evStag(raw), pasid: evSsv(raw) ? evSsid(raw) : -1, unrecorded: null };
    if (!told || !faults.waits) {
      this.#answer(stall, PRG.FAILURE);
      if (told) records.record(faults.record, faults.merge);
      return;
    }
    const most = this.#most;
    this.#list.push(stall);
    if (most || !records.record(faults.record, false)) stall.unrecorded = Int32Array.from(raw);
  }

  /** As many stalls are recorded as IDR5.STALL_MAX says; a host may have more. */
  get #most(): boolean {
    const max = this.#p.core.identity.idr5 >>> 16;
    return this.#list.filter((s) => s.unrecorded === null).length >= max;
  }

  /**
   * The event queue takes records again, or a recorded stall has ended: those that wait are written, as far as there is room.
   * One whose fault is gone by now is retried instead; no guest has heard of it.
   */
  roomMade(): void {
    const { faults, records } = this.#p;
    for (const stall of this.#list.filter((s) => s.unrecorded !== null)) {
      const raw = stall.unrecorded;
      if (raw === null || !this.#list.includes(stall)) continue;
      if (!records.writable || this.#most) return;
      if (faults.gone(stall.stream, raw)) {
        this.#end(stall, PRG.SUCCESS);
        continue;
      }
      if (!faults.attribute(stall.stream, raw) || !faults.waits) {
        this.#end(stall, PRG.FAILURE);
        continue;
      }
      stall.unrecorded = null;
      records.record(faults.record, false);
    }
  }

  /** CMD_RESUME; an unknown STAG is nothing. @param code PRG code. @returns 0, or -errno: the host refuses, and it stays held. */
  answer(s: Smmuv3Stream, stag: number, code: number): VerbOutcome {
    const stall = this.#list.find((x) => x.stream === s && x.stag === stag);
    return stall === undefined ? 0 : this.#end(stall, code);
  }

  /** CMD_STALL_TERM, or the device leaves: everything of the stream ends, also what the hardware has no STAG for. */
  terminate(s: Smmuv3Stream): void {
    const { core } = this.#p;
    this.#list = this.#list.filter((x) => x.stream !== s);
    if (core.features.stallModel === 1) return;
    const ended = core.deps.upcalls?.terminateStalls?.(s.vfio.devId, s.index) ?? 0;
    core.refusals.note('stall', ended);
  }

  /** SMMUEN 1→0, or reset. @param streams all there are. */
  terminateAll(streams: readonly Smmuv3Stream[]): void {
    for (const s of streams) this.terminate(s);
    this.#list = [];
  }

  /** @returns 0, or -errno: the hardware holds it still, and it stays in the list. */
  #end(stall: Stalled, code: number): VerbOutcome {
    const answered = this.#answer(stall, code);
    if (isAnswerRefused(answered)) return answered;
    this.#list = this.#list.filter((x) => x !== stall);
    if (stall.unrecorded === null) this.roomMade();
    return 0;
  }

  #answer({ stream, stag, pasid }: Stalled, code: number): VerbOutcome {
    const { core } = this.#p;
    const answered = core.deps.upcalls?.respond(stream.vfio.devId, pasid, stag, code, true, stream.index) ?? 0;
    core.refusals.note('stall', answered);
    return answered;
  }
}
