import { HW_ERROR, type HwPort } from '../../../ports/hw.ts';
import { E } from '../../../spec/iommufd/errno.ts';
import { ATC_GLOBAL, ATC_SIZE_ALL, COMMAND_WORDS, OP, RANGE_ALL, SSV } from '../../../spec/smmuv3/commands.ts';
import { UnconfirmedInvalidations } from '../unconfirmed.ts';

/** Commands the kernel puts between two syncs. */
export const BATCH = 63;
/** How often a sync that failed is tried again before the submission counts as timed out. */
const RETRIES = 3;

/** Who is told what became of the invalidations of a submission. */
export interface Smmuv3DriverQueueListener {
  /** Completions for the function at `sid` are outstanding under `token`. @param guest for commands of a guest. */
  pending(sid: number, token: number, guest: boolean): void;
  /** The function at `sid` did not answer a guest's command in time. */
  timedOut(sid: number): void;
  /** Queues the invalidation of everything that functions may hold. */
  atcs(): void;
  /** See `UnconfirmedParts.changed`. */
  unconfirmed(some: boolean): void;
}

/**
 * The kernel's command queue towards one SMMU: batches of up to 63 commands with a sync behind each, and what the kernel
 * does about errors. A command the hardware refuses is replaced by a sync and skipped, an unreadable queue and an ATS
 * timeout are tried again. What the SMMU refuses to forget for the kernel is asked for again before its next commands.
 * Building and submitting commands allocates nothing.
 */
export class Smmuv3DriverQueue {
  /** The batch being built, and how many commands it has. */
  words = new Int32Array(BATCH * COMMAND_WORDS);
  count = 0;
  /** A submission can cause faults whose handling submits again: each depth builds in its own buffer. */
  readonly #buffers = [this.words];
  #depth = 0;
  /** What went wrong in batches of the kernel's own that went out because they were full. */
  #early = 0;
  /** After a failed `flush`: index in the batch of the command that did it. */
  failedAt = 0;
  /** The last submission that timed out waited for functions. */
  #unanswered = false;
  readonly #hw: HwPort;
  readonly #listener: Smmuv3DriverQueueListener;
  /** What the SMMU refused to forget. */
  readonly unconfirmed: UnconfirmedInvalidations;

  constructor(hw: HwPort, listener: Smmuv3DriverQueueListener) {
    this.#hw = hw;
    this.#listener = listener;
    this.unconfirmed = new UnconfirmedInvalidations({
      everything: () => this.#everything(),
      changed: (some) => listener.unconfirmed(some),
    });
  }

  /** Configurations, translations made with them, and what functions hold of those. */
  #everything(): number {
    this.add(OP.CFGI_STE_RANGE, 0, RANGE_ALL, 0);
    this.add(OP.TLBI_NSNH_ALL, 0, 0, 0);
    const r = this.sync();
    if (r !== 0) return r;
    this.#listener.atcs();
    // A function that does not answer is no debt of the SMMU's.
    const answered = this.sync();
    return answered === -E.TIMEDOUT && this.#unanswered ? 0 : answered;
  }

  get full(): boolean {
    return this.count === BATCH;
  }

  /** Adds a command; a full batch goes out first, and `sync` tells what became of it. */
  add(w0: number, w1: number, w2: number, w3: number): void {
    if (this.count === BATCH) this.#early ||= this.flush(true, false);
    const at = this.count++ * COMMAND_WORDS;
    this.words[at] = w0;
    this.words[at + 1] = w1;
    this.words[at + 2] = w2;
    this.words[at + 3] = w3;
  }

  /**
   * The kernel's own batch, and before it what was refused earlier. Refused commands are skipped.
   * @param settles false: what was refused earlier is no concern of these commands.
   * @returns 0; -EIO: one was, or an earlier one still is; -ETIMEDOUT.
   */
  sync(settles = true): number {
    const early = this.#early;
    this.#early = 0;
    const r = this.count > 0 ? this.flush(true, false, settles) : settles ? this.unconfirmed.settle() : 0;
    return early || r;
  }

  /**
   * Submits the batch and a sync, and empties it.
   * @param skipRefused go on behind a refused command, as the kernel does; else stop there, and `failedAt` names it.
   * @param guest the commands are a guest's: what becomes of its invalidations is its business.
   * @param settles see `sync`.
   * @returns 0; -EIO: a command was refused, or an earlier one still is; -ETIMEDOUT: the queue did not come to its sync.
   */
  flush(skipRefused: boolean, guest: boolean, settles = true): number {
    const batch = this.words;
    const total = this.count;
    this.count = 0;
    this.#depth++;
    this.#buffers[this.#depth] ??= new Int32Array(BATCH * COMMAND_WORDS);
    this.words = this.#buffers[this.#depth]!;
    // What a guest's commands find is looked at before they are added.
    const refused = guest || !settles ? 0 : this.unconfirmed.settle();
    const r = this.#send(batch, total, skipRefused, guest);
    this.#depth--;
    this.words = batch;
    return r || refused;
  }

  #send(batch: Int32Array, total: number, skipRefused: boolean, guest: boolean): number {
    const hw = this.#hw;
    let from = 0;
    let result = 0;
    for (let tries = 0; ; ) {
      hw.submit(batch, from * COMMAND_WORDS, total - from);
      const error = hw.error;
      const at = Math.min(from + hw.done, total);
      if (hw.pending > 0) this.#eachAtc(batch, from, total, hw.pending, guest);
      if (error === HW_ERROR.NONE) return result;
      if (error === HW_ERROR.ILLEGAL) {
        // A sync cannot be illegal; hardware that says so for ever is given up on.
        if (at < total && !skipRefused) {
          this.failedAt = at;
          return -E.IO;
        }
        result = -E.IO;
        if (at < total && !guest && isInvalidation(batch[at * COMMAND_WORDS]!)) this.unconfirmed.refused();
        from = Math.min(at + 1, total);
        if (at < total) continue;
      } else if (error === HW_ERROR.ATC_TIMEOUT) {
        if (guest && tries === 0) this.#eachAtc(batch, from, total, 0, true);
        from = at;
      } else {
        from = at;
      }
      if (++tries > RETRIES) {
        this.failedAt = Math.min(at, total - 1);
        this.#unanswered = error === HW_ERROR.ATC_TIMEOUT;
        if (!guest && !this.#unanswered) this.unconfirmed.refused();
        return -E.TIMEDOUT;
      }
    }
  }

  /** @param token 0: they timed out. */
  #eachAtc(batch: Int32Array, from: number, end: number, token: number, guest: boolean): void {
    for (let i = from; i < end; i++) {
      const at = i * COMMAND_WORDS;
      if ((batch[at]! & 0xff) !== OP.ATC_INV) continue;
      const sid = batch[at + 1]! >>> 0;
      if (token === 0) this.#listener.timedOut(sid);
      else this.#listener.pending(sid, token, guest);
    }
  }

  cfgiSte(sid: number): void {
    this.add(OP.CFGI_STE, sid, 1, 0);
  }

  cfgiCd(sid: number, ssid: number): void {
    this.add(OP.CFGI_CD | (ssid << 12), sid, 1, 0);
  }

  /** @param ssid SubstreamID, or -1. Everything the function holds under it. */
  atcInvAll(sid: number, ssid: number): void {
    this.add(OP.ATC_INV | substream(ssid), sid, ATC_SIZE_ALL, 0);
  }

  /** Everything the function holds, whatever the PASID. */
  atcInvWhole(sid: number, pasids: boolean): void {
    this.atcInvAll(sid, -1);
    // PCIe leaves open whether a request without PASID reaches entries with one, so those are named too.
    if (pasids) this.add(OP.ATC_INV | SSV | ATC_GLOBAL, sid, ATC_SIZE_ALL, 0);
  }

  /** The smallest naturally aligned power of two of pages that covers [iova, iova + bytes). */
  atcInvRange(sid: number, ssid: number, iova: number, bytes: number): void {
    let span = 0;
    while (Math.floor(iova / 2 ** (12 + span)) !== Math.floor((iova + bytes - 1) / 2 ** (12 + span))) span++;
    const start = iova - (iova % 2 ** (12 + span));
    this.add(OP.ATC_INV | substream(ssid), sid, span | start, start / 2 ** 32);
  }
}

/** Whether some cache is to forget something. */
function isInvalidation(w0: number): boolean {
  const op = w0 & 0xff;
  return op !== OP.SYNC && op !== OP.RESUME && op !== OP.STALL_TERM && op !== OP.PRI_RESP;
}

function substream(ssid: number): number {
  return ssid < 0 ? 0 : SSV | (ssid << 12);
}
