import { type FormOf, refuseField, WORD } from '../../src/lib/saved/state-form.ts';
import type { Clock } from '../../src/ports/clock.ts';
import { ACCESS, DMA } from '../../src/ports/dma.ts';
import { PRG } from '../../src/spec/pcie/messages.ts';
import { DESCRIPTOR_FORM, type Descriptor, MOST_BYTES, WORK_OP, WORK_STATUS } from './descriptor.ts';
import { GROUPS } from './page-groups.ts';
import { fillPattern, firstDifference } from './pattern.ts';
import { PAGE_FAULT, type Requester } from './requester.ts';

const PAGE = 4096;
/** A page that is granted and missing again and again: then the descriptor fails. */
const MOST_ASKS = 8;

/** How long work takes. */
export interface WorkTiming {
  /** The machine's clock. */
  readonly clock: Clock;
  /** Nanoseconds from one piece of work to the next. */
  readonly step: number;
  /** Nanoseconds a write is on its way. */
  readonly flight: number;
}

/** A descriptor in work: how far it is, and what it waits for. */
export interface WorkUnitState {
  readonly work: Descriptor;
  readonly at: number;
  readonly asks: number;
  /** Token of a stalled access, -1: none. */
  readonly stall: number;
  /** Page request group it waits for, -1: none. */
  readonly group: number;
  /** The page that group asked for: address words, and ACCESS bits. */
  readonly asked: { readonly lo: number; readonly hi: number; readonly access: number };
}

/** What each field of saved work may hold. */
export const WORK_UNIT_FORM: FormOf<WorkUnitState> = {
  members: {
    work: DESCRIPTOR_FORM,
    at: { from: 0, to: MOST_BYTES },
    asks: { from: 0, to: MOST_ASKS + 1 },
    stall: { from: -1, to: Number.MAX_SAFE_INTEGER },
    group: { from: -1, to: GROUPS - 1 },
    asked: { members: { lo: WORD, hi: WORD, access: { from: 0, to: 0xf } } },
  },
};

/** @throws ViommuError `EINVAL` names a field of saved work whose form is good that does not go with the others. */
export function checkWork({ work, at, stall, group }: WorkUnitState, path: string): void {
  if (at > work.bytes) refuseField(`${path}.at`, at, `at most work.bytes: ${work.bytes}`);
  if (stall >= 0 && group >= 0) refuseField(`${path}.group`, group, `-1, since stall is ${stall}`);
}

const NOTHING: WorkUnitState['asked'] = { lo: 0, hi: 0, access: 0 };

/**
 * Executes one descriptor at a time, a page at a time. Without timing it works synchronously as QEMU's devices do; a
 * missing page (PRI) or a stalled access suspends it until the answer comes.
 */
export class WorkUnit {
  readonly #memory: Requester;
  readonly #timing: WorkTiming | null;
  readonly #piece = new Uint8Array(PAGE);
  readonly #other = new Uint8Array(PAGE);
  #work: Descriptor | null = null;
  #finished: ((status: number) => void) | null = null;
  #at = 0;
  #asks = 0;
  #stall = -1;
  #group = -1;
  #asked = NOTHING;
  #epoch = 0;
  #running = false;
  /** Work was put off. */
  #waits = false;

  /** @param timing null: work is done when it is started. */
  constructor(memory: Requester, timing: WorkTiming | null) {
    this.#memory = memory;
    this.#timing = timing;
  }

  /** Work is under way or waits for an answer. */
  get busy(): boolean {
    return this.#work !== null;
  }

  /** PASID of the descriptor in work; undefined when idle. */
  get pasid(): number | undefined {
    return this.#work?.pasid;
  }

  /** Begins. `finished` is called once, perhaps before this returns. */
  start(work: Descriptor, finished: (status: number) => void): void {
    this.#work = work;
    this.#finished = finished;
    this.#at = 0;
    this.#asks = 0;
    this.#stall = this.#group = -1;
    this.#go();
  }

  /** null: idle. */
  save(): WorkUnitState | null {
    const work = this.#work;
    if (work === null) return null;
    return { work, at: this.#at, asks: this.#asks, stall: this.#stall, group: this.#group, asked: this.#asked };
  }

  /**
   * Goes on with saved work: where it waited it waits again, else the page in hand is done once more.
   * @param cold the IOMMU is another one, which knows of nothing that waits: a page is asked for again under the same group, so
   *   that an answer to the first request counts as well, and a stalled access is made again.
   */
  load(state: WorkUnitState | null, finished: (status: number) => void, cold = false): void {
    this.reset();
    if (state === null) return;
    this.#work = state.work;
    this.#finished = finished;
    this.#at = state.at;
    this.#asks = state.asks;
    this.#stall = state.stall;
    this.#group = state.group;
    this.#asked = state.asked;
    const { work, group } = state;
    if (group >= 0) {
      this.#memory.awaitResponse(work.pasid, group, this.#answered(work));
      const { lo, hi, access } = state.asked;
      if (cold) this.#memory.askAgain(work.pasid, lo, hi, access, group);
    } else if (state.stall < 0 || cold) {
      this.#stall = -1;
      this.#go();
    }
  }

  /** What the response to a page request does when it comes later than the request. */
  #answered(w: Descriptor): (code: number) => void {
    const epoch = this.#epoch;
    return (code) => {
      if (epoch !== this.#epoch || this.#work !== w) return;
      this.#group = -1;
      this.#resume(w, code === PRG.SUCCESS || this.#finish(WORK_STATUS.FAULT));
    };
  }

  /** Stops at once; nobody is told. */
  reset(): void {
    this.#epoch++;
    this.#work = null;
    this.#finished = null;
    this.#running = this.#waits = false;
  }

  /** A stalled access was decided. @param outcome DMA value; OK means try again. */
  resumed(token: number, outcome: number): void {
    if (this.#work === null || token !== this.#stall) return;
    this.#stall = -1;
    const w = this.#work;
    const known = outcome === DMA.RAZ_WI ? DMA.OK : outcome;
    this.#resume(w, outcome === DMA.OK || this.#onward(known, this.#pieceBytes(), ACCESS.READ));
  }

  /** Goes on with `w` after an answer, unless another descriptor has begun meanwhile (it runs on its own). */
  #resume(w: Descriptor, more: boolean): void {
    if (more && this.#work === w) this.#go();
  }

  #go(): void {
    const timing = this.#timing;
    if (timing === null || timing.step === 0) {
      this.#loop();
      return;
    }
    const epoch = this.#epoch;
    timing.clock.after(timing.step, () => {
      const w = this.#work;
      if (epoch === this.#epoch && w !== null) this.#resume(w, this.#piecework());
    });
  }

  /** Synchronous answers come back while a piece is in work: a loop instead of recursion. */
  #loop(): void {
    if (this.#running) return;
    this.#running = true;
    const epoch = this.#epoch;
    while (this.#work !== null && epoch === this.#epoch && this.#piecework()) {
      if (this.#memory.upstream?.work?.spent !== true) continue;
      this.#putOff();
      break;
    }
    if (epoch === this.#epoch) this.#running = false;
  }

  /** The access under way may not cost more: the next piece comes soon, or when the guest looks. */
  #putOff(): void {
    if (this.#work === null || this.#waits) return;
    this.#waits = true;
    const epoch = this.#epoch;
    this.#memory.upstream?.work?.later(() => {
      if (epoch === this.#epoch) this.goOn();
    });
  }

  /** An occasion for what an earlier access could not do. */
  goOn(): void {
    if (!this.#waits) return;
    this.#waits = false;
    this.#loop();
  }

  /** Bytes to the end of the page in which either address sits. */
  #pieceBytes(): number {
    const w = this.#work!;
    let n = Math.min(w.bytes - this.#at, PAGE - ((w.dstLo + this.#at) & (PAGE - 1)));
    if (w.op !== WORK_OP.FILL) n = Math.min(n, PAGE - ((w.srcLo + this.#at) & (PAGE - 1)));
    return n;
  }

  /** One page's worth. @returns whether there is more to do right now; false: an answer is awaited. */
  #piecework(): boolean {
    const w = this.#work!;
    if (w.op === WORK_OP.NOP) return this.#finish(WORK_STATUS.SUCCESS);
    if (w.op > WORK_OP.COMPARE || w.bytes === 0 || w.bytes > MOST_BYTES) return this.#finish(WORK_STATUS.BAD);
    const m = this.#memory;
    const n = this.#pieceBytes();
    if (w.op === WORK_OP.FILL) fillPattern(this.#piece, w.pattern, this.#at);
    else {
      const from = this.#step(w.srcLo, w.srcHi);
      const read = m.read(w.pasid, from.lo, from.hi, this.#piece, 0, n);
      if (read !== DMA.OK) return this.#onward(read, n, ACCESS.READ);
    }
    const to = this.#step(w.dstLo, w.dstHi);
    if (w.op === WORK_OP.COMPARE) {
      const read = m.read(w.pasid, to.lo, to.hi, this.#other, 0, n);
      if (read !== DMA.OK) return this.#onward(read, n, ACCESS.READ);
      const same = firstDifference(this.#piece, this.#other, n);
      if (same < n) {
        this.#at += same;
        return this.#finish(WORK_STATUS.DIFFERENT);
      }
      return this.#onward(DMA.OK, n, ACCESS.READ);
    }
    const timing = this.#timing;
    if (timing === null || timing.flight === 0) {
      return this.#onward(m.write(w.pasid, to.lo, to.hi, this.#piece, 0, n), n, ACCESS.WRITE);
    }
    const epoch = this.#epoch;
    const { clock, flight } = timing;
    m.writeLater({ clock, flight, pasid: w.pasid, ...to, bytes: this.#piece.slice(0, n) }, (outcome) => {
      if (epoch === this.#epoch) this.#resume(w, this.#onward(outcome, n, ACCESS.WRITE));
    });
    return false;
  }

  #step(lo: number, hi: number): { readonly lo: number; readonly hi: number } {
    const low = (lo >>> 0) + this.#at;
    return { lo: low | 0, hi: (hi + (low >= 0x1_0000_0000 ? 1 : 0)) | 0 };
  }

  /**
   * After a piece: the next one, or ask for the page, wait for the stall's end, give up.
   * @returns whether there is more to do right now.
   */
  #onward(outcome: number, n: number, access: number): boolean {
    const w = this.#work!;
    const m = this.#memory;
    if (outcome === DMA.OK) {
      this.#at += n;
      this.#asks = 0;
      return this.#at < w.bytes ? true : this.#finish(WORK_STATUS.SUCCESS);
    }
    if (outcome === DMA.STALLED) {
      this.#stall = m.upstream?.stallToken ?? 0;
      return false;
    }
    if (outcome !== PAGE_FAULT || !w.ask || this.#asks++ >= MOST_ASKS) return this.#finish(WORK_STATUS.FAULT);
    let inside = true;
    let answer = -1;
    const later = this.#answered(w);
    const { faultLo: lo, faultHi: hi } = m;
    const asked = m.pageRequest(w.pasid, m.faultLo, m.faultHi, access, (code) => {
      if (inside) answer = code;
      else later(code);
    });
    inside = false;
    if (asked && answer === -1) {
      this.#group = m.group;
      this.#asked = { lo, hi, access };
      return false;
    }
    return answer === PRG.SUCCESS ? true : this.#finish(WORK_STATUS.FAULT);
  }

  /** Writes the completion record and reports. @returns true: the next descriptor may have been started meanwhile. */
  #finish(status: number): boolean {
    const w = this.#work!;
    const finished = this.#finished!;
    this.#work = null;
    this.#finished = null;
    if (w.doneLo !== 0 || w.doneHi !== 0) {
      const m = this.#memory;
      const failed = status === WORK_STATUS.FAULT;
      const record = Int32Array.of(status, this.#at, failed ? m.faultLo : 0, failed ? m.faultHi : 0);
      m.write(w.pasid, w.doneLo, w.doneHi, new Uint8Array(record.buffer), 0, 16);
    }
    finished(status);
    return this.#work !== null;
  }
}
