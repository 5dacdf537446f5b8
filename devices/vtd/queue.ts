import { fromWords } from '../../src/core/bits.ts';
import type { RegisterFile } from '../../src/core/registers.ts';
import type { Memory } from '../../src/ports/memory.ts';
import type { Tell } from '../../src/ports/tell.ts';
import { INV, INV_NAME, inv, invType } from '../../src/spec/vtd/invalidation.ts';
import { ICS_IWC, IQEI, PAGE, TTM } from '../../src/spec/vtd/registers.ts';
import { pointer } from '../../src/spec/vtd/tables.ts';
import type { Backend } from './backend.ts';
import type { InterruptRemapper } from './interrupt-remapper.ts';
import type { EventMessage } from './interrupts.ts';
import { judge, perform } from './legality.ts';
import type { VtdShape } from './properties.ts';
import type { FaultLog } from './records.ts';

/** Waits that may be outstanding at once; the fetch stops until some complete. */
const MAX_WAITS = 256;
const WAIT_WORDS = 4;

export interface QueueDeps {
  readonly regs: RegisterFile;
  readonly shape: VtdShape;
  readonly memory: Memory;
  readonly faults: FaultLog;
  readonly completion: EventMessage;
  readonly backend: Backend;
  readonly remapper: InterruptRemapper;
  /** TTM as the last SRTP latched it. */
  readonly tableMode: () => number;
  readonly device: string;
}

export interface QueueState {
  readonly enabled: boolean;
  readonly wide: boolean;
  readonly base: number;
  readonly size: number;
  readonly head: number;
  readonly tail: number;
  readonly last: number;
  readonly waits: readonly number[];
  readonly counts: readonly number[];
}

/** The invalidation queue (VT-d §6.5.2): fetches descriptors, judges them, and hands each to the backend. */
export class InvalidationQueue {
  readonly #d: QueueDeps;
  tell: Tell | null = null;
  /** Descriptors executed, by type. */
  readonly counts = new Float64Array(10);
  readonly #w = new Int32Array(8);
  #enabled = false;
  #wide = false;
  #base = 0;
  /** Entries. */
  #size = 0;
  #head = 0;
  #tail = 0;
  #lastType = 0;
  #running = false;
  /** Waits fetched but not complete: words 0 to 3 each, in order. */
  readonly #waits = new Int32Array(MAX_WAITS * WAIT_WORDS);
  #waiting = 0;
  /** A wait with FN, or with nothing else to hold it: nothing behind it starts. */
  #fenced = false;
  /** IQEI of the descriptor being judged. */
  #why = 0;

  constructor(deps: QueueDeps) {
    this.#d = deps;
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  /** Base the queue was enabled with (bytes); what QEMU's IQA shows. */
  get base(): number {
    return this.#base;
  }

  get waiting(): number {
    return this.#waiting;
  }

  reset(): void {
    this.#enabled = this.#wide = this.#fenced = false;
    this.#base = this.#size = this.#head = this.#tail = this.#lastType = this.#waiting = 0;
  }

  /** QIE 0→1: base and size are latched; a tail written before is honoured (Windows relies on it). @returns QIES. */
  enable(): boolean {
    const lo = this.#d.regs.get(PAGE.IQA.at);
    const hi = this.#d.regs.get(PAGE.IQA.at + 4);
    this.#wide = this.#width();
    const { props, deviations } = this.#d.shape;
    this.#base = deviations.queueBaseLatched ? pointer(lo, hi) % 2 ** props.awBits : pointer(lo, hi);
    this.#size = 1 << ((lo & 7) + (this.#wide ? 7 : 8));
    this.#enabled = true;
    if (this.#takeTail() && this.#tail !== 0) this.run();
    return true;
  }

  /** Whether descriptors are 256 bits wide: IQA.DW, with scalable mode. Without it QEMU ignores the bit. */
  #width(): boolean {
    const { shape, regs } = this.#d;
    return (shape.props.scalableMode || !shape.deviations.queueWidthUnchecked) && (regs.get(PAGE.IQA.at) & 0x800) !== 0;
  }

  /** QIE 1→0. @returns whether the queue is off now. */
  disable(): boolean {
    if (this.#d.shape.deviations.queueOffNeedsWait && (this.#head !== this.#tail || this.#lastType !== INV.WAIT)) {
      return false;
    }
    this.#enabled = this.#fenced = false;
    this.#head = this.#waiting = 0;
    this.#publish();
    return true;
  }

  /** IQA was written while the queue is on: QEMU follows DW at once. */
  baseWritten(): void {
    if (this.#d.shape.deviations.queueWidthUnchecked) this.#wide = this.#width();
  }

  #takeTail(): boolean {
    const value = this.#d.regs.get(PAGE.IQT.at);
    if (this.#wide && (value & 0x10) !== 0) {
      this.#d.faults.queueError(IQEI.TAIL_UNALIGNED);
      return false;
    }
    this.#tail = (value & 0x7_fff0) >>> (this.#wide ? 5 : 4);
    return true;
  }

  /** IQT was written. */
  tailWritten(): void {
    if (this.#takeTail() && this.#enabled && !this.#d.faults.queueHalted) this.run();
  }

  /** IQE or ITE was cleared by the guest: the fetch goes on where it stopped (§6.5.2). */
  resume(): void {
    if (this.#d.shape.deviations.resumeNeedsTail || !this.#enabled || this.#d.faults.queueHalted) return;
    if (this.#takeTail() && this.#head !== this.#tail) this.run();
  }

  /** Device-TLB completions are in. */
  drained(): void {
    this.#completeWaits();
    if (this.#enabled && !this.#d.faults.queueHalted && this.#head !== this.#tail) this.run();
  }

  /** A device-TLB invalidation timed out: waits fetched so far are aborted, without status and interrupt (§6.5.2.10). */
  abortWaits(): void {
    this.#waiting = 0;
    this.#fenced = false;
  }

  /** Fetches until head meets tail, an error, or a fence. At most one lap: the tail cannot move meanwhile. */
  run(): void {
    if (this.#running) return;
    this.#running = true;
    if (this.#mayFetch()) {
      while (this.#head !== this.#tail && !this.#fenced && this.#waiting < MAX_WAITS) {
        if (!this.#fetch() || !this.#execute()) {
          this.#d.faults.queueError(this.#why);
          break;
        }
        this.#head = this.#head + 1 === this.#size ? 0 : this.#head + 1;
        this.#publish();
        if (this.#d.faults.queueHalted) break;
      }
    }
    this.#running = false;
  }

  #mayFetch(): boolean {
    const { shape, faults } = this.#d;
    const ttm = this.#d.tableMode();
    if (this.#tail >= this.#size) {
      faults.queueError(IQEI.TAIL_BEYOND);
      return false;
    }
    if (shape.deviations.queueWidthUnchecked) return true;
    const scalable = ttm === TTM.SCALABLE || ttm === TTM.ABORT;
    if (this.#wide ? !shape.props.scalableMode : scalable) {
      faults.queueError(IQEI.WIDTH);
      return false;
    }
    if (ttm === TTM.RESERVED || (scalable && !shape.props.scalableMode)) {
      faults.queueError(IQEI.TTM);
      return false;
    }
    return true;
  }

  #publish(): void {
    this.#d.regs.set(PAGE.IQH.at, this.#head << (this.#wide ? 5 : 4));
  }

  #fetch(): boolean {
    const memory = this.#d.memory;
    const words = this.#wide ? 8 : 4;
    const at = this.#base + this.#head * words * 4;
    if (memory.locate(at)) {
      const from = memory.words;
      const i = memory.index;
      for (let k = 0; k < words; k++) this.#w[k] = from[i + k]!;
      return true;
    }
    this.#lastType = 0;
    this.#why = IQEI.FETCH;
    for (let k = 0; k < words; k++) {
      if (!memory.load32(at + 4 * k)) return false;
      this.#w[k] = memory.lo;
    }
    return true;
  }

  #execute(): boolean {
    const w = this.#w;
    const type = invType(w[0]!);
    this.#lastType = type;
    this.#why = judge(w, this.#wide, this.#d.tableMode(), this.#d.shape);
    if (this.#why === 0) {
      if (type === INV.WAIT) this.#why = this.#wait(w[0]!, w[1]!, w[2]!, w[3]!) ? 0 : IQEI.RESERVED;
      else perform(w, this.#d.backend, this.#d.remapper);
    }
    const ok = this.#why === 0;
    if (ok) this.counts[type]!++;
    if (this.tell !== null) {
      const name = INV_NAME[type] ?? `type ${type}`;
      const words = Array.from(w.subarray(0, this.#wide ? 8 : 4));
      this.tell({ what: 'command', device: this.#d.device, name, words, error: ok ? 0 : this.#why });
    }
    return ok;
  }

  #wait(w0: number, w1: number, w2: number, w3: number): boolean {
    if (!inv.waitIF(w0) && !inv.waitSW(w0) && !inv.waitFN(w0)) return !this.#d.shape.deviations.emptyWaitIsError;
    if (this.#waiting === 0 && this.#d.backend.outstanding() === 0) return this.#complete(w0, w1, w2, w3);
    const at = this.#waiting++ * WAIT_WORDS;
    this.#waits[at] = w0;
    this.#waits[at + 1] = w1;
    this.#waits[at + 2] = w2;
    this.#waits[at + 3] = w3;
    this.#fenced = inv.waitFN(w0);
    return true;
  }

  #completeWaits(): void {
    if (this.#waiting === 0 || this.#d.backend.outstanding() !== 0) return;
    const n = this.#waiting;
    this.#waiting = 0;
    this.#fenced = false;
    for (let i = 0; i < n; i++) {
      const at = i * WAIT_WORDS;
      const ok = this.#complete(this.#waits[at]!, this.#waits[at + 1]!, this.#waits[at + 2]!, this.#waits[at + 3]!);
      if (!ok) this.#d.faults.queueError(this.#why);
    }
  }

  /** Status write, then the interrupt that pushes it (§6.5.2.8). */
  #complete(w0: number, w1: number, w2: number, w3: number): boolean {
    let written = true;
    if (inv.waitSW(w0)) {
      const address = fromWords(w2 & ~3, w3);
      written = w3 >>> 20 === 0 && this.#d.memory.store32(address, w1);
      if (!written && !this.#d.shape.deviations.failedWaitSignals) return false;
      if (written && this.tell !== null) {
        this.tell({ what: 'record', device: this.#d.device, address, words: [w1 >>> 0] });
      }
    }
    if (inv.waitIF(w0) && (this.#d.regs.get(PAGE.ICS.at) & ICS_IWC) === 0) {
      this.#d.regs.set(PAGE.ICS.at, ICS_IWC);
      this.#d.completion.raise();
    }
    return written;
  }

  save(): QueueState {
    return {
      enabled: this.#enabled,
      wide: this.#wide,
      base: this.#base,
      size: this.#size,
      head: this.#head,
      tail: this.#tail,
      last: this.#lastType,
      waits: Array.from(this.#waits.subarray(0, this.#waiting * WAIT_WORDS)),
      counts: Array.from(this.counts),
    };
  }

  load(s: QueueState): void {
    this.#enabled = s.enabled;
    this.#wide = s.wide;
    this.#base = s.base;
    this.#size = s.size;
    this.#head = s.head;
    this.#tail = s.tail;
    this.#lastType = s.last;
    this.#waits.set(s.waits);
    this.#waiting = s.waits.length / WAIT_WORDS;
    this.#fenced = this.#waiting > 0 && inv.waitFN(s.waits[s.waits.length - WAIT_WORDS]!);
    this.counts.set(s.counts);
  }
}
