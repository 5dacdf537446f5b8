import { ringEmpty, ringFull, ringMask, ringNext, ringSlot } from '../../src/lib/queue/ring.ts';
import { FAILURE_STEP, type FailureSource } from '../../src/ports/failures.ts';
import type { Memory } from '../../src/ports/memory.ts';
import type { Tell } from '../../src/ports/tell.ts';
import { EVENT_BYTES, EVENT_WORDS, evStall } from '../../src/spec/smmuv3/events.ts';
import { CR0, GERROR, PAGE0, PAGE1 } from '../../src/spec/smmuv3/registers.ts';
import type { Smmuv3Core } from './core.ts';
import { QUEUE_LOG2_MAX } from './identity.ts';
import type { Smmuv3Interrupts } from './interrupts.ts';
import type { Smmuv3Deviations } from './profile.ts';
import type { Smmuv3Registers } from './registers.ts';

const OVERFLOW = 1 << 31;

/** The event queue's producer side (IHI 0070 §7.2–§7.4). */
export class Smmuv3Records {
  readonly #regs: Smmuv3Registers;
  readonly #memory: Memory;
  readonly #interrupts: Smmuv3Interrupts;
  readonly #d: Smmuv3Deviations;
  readonly #tell: Tell | null;
  readonly #source: FailureSource | null;
  readonly #name: string;
  /** The newest record, to merge repetitions with while the guest has not read it. */
  readonly #last = new Int32Array(EVENT_WORDS);
  #lastProd = -1;

  constructor(core: Smmuv3Core) {
    this.#regs = core.registers;
    this.#memory = core.deps.memory;
    this.#interrupts = core.interrupts;
    this.#d = core.deviations;
    this.#tell = core.deps.tell;
    this.#source = core.deps.failures ?? null;
    this.#name = core.name;
  }

  #log2(): number {
    return Math.min(this.#regs.get(PAGE0.EVENTQ_BASE.at) & 31, QUEUE_LOG2_MAX);
  }

  /** Whether the queue takes the record of a stall now: enabled, not full, no EVENTQ_ABT_ERR (IHI 0070 §7.2). */
  get writable(): boolean {
    if (!this.#regs.enabled(CR0.EVENTQEN) || this.#interrupts.active(GERROR.EVENTQ_ABT_ERR)) return false;
    return !ringFull(this.#regs.get(PAGE1.EVENTQ_PROD.at), this.#regs.get(PAGE1.EVENTQ_CONS.at), this.#log2());
  }

  /**
   * Offers a record to the guest. One of a stalled transaction is never discarded: its owner offers it again when the queue is
   * writable.
   * @param e 8 words. @param merge STE.MEV: a repetition the guest has not read yet may be left out.
   * @returns false: the record of a stall has to wait.
   */
  record(e: Int32Array, merge: boolean): boolean {
    if (evStall(e) && !this.writable) return false;
    this.#offer(e, merge);
    return true;
  }

  #offer(e: Int32Array, merge: boolean): void {
    if (!this.#regs.enabled(CR0.EVENTQEN)) return;
    if (!this.#d.abortDoesNotStop && this.#interrupts.active(GERROR.EVENTQ_ABT_ERR)) return;
    const log2 = this.#log2();
    const prod = this.#regs.get(PAGE1.EVENTQ_PROD.at);
    const cons = this.#regs.get(PAGE1.EVENTQ_CONS.at);
    if (merge && !ringEmpty(prod, cons, log2) && prod === this.#lastProd && this.#repeats(e)) return;
    if (ringFull(prod, cons, log2) || (!evStall(e) && this.#source?.failures?.fails(FAILURE_STEP.QUEUE) === true)) {
      this.#overflow(prod, cons);
      return;
    }
    if (!this.#store(e, log2, prod)) {
      this.#interrupts.raise(GERROR.EVENTQ_ABT_ERR);
      return;
    }
    // What a guest wrote above the index and OVFLG goes with the next record under QEMU.
    const next = (this.#d.rawRegisters ? 0 : prod & ~ringMask(log2)) | ringNext(prod, log2);
    this.#regs.set(PAGE1.EVENTQ_PROD.at, next);
    this.#last.set(e);
    this.#lastProd = next;
    if (this.#d.interruptPerRecord || ringEmpty(prod, cons, log2)) this.#interrupts.eventQueue();
  }

  #overflow(prod: number, cons: number): void {
    if (this.#d.fullQueueIsAbort) {
      this.#interrupts.raise(GERROR.EVENTQ_ABT_ERR);
    } else if (((prod ^ cons) & OVERFLOW) === 0) {
      this.#regs.set(PAGE1.EVENTQ_PROD.at, prod ^ OVERFLOW);
    }
  }

  /** Same fault of the same stream on the same page. */
  #repeats(e: Int32Array): boolean {
    const l = this.#last;
    if (evStall(e) || e[0] !== l[0] || e[1] !== l[1] || e[3] !== l[3]) return false;
    return (((e[4]! ^ l[4]!) & ~0xfff) | (e[5]! ^ l[5]!) | ((e[6]! ^ l[6]!) & ~0xfff) | (e[7]! ^ l[7]!)) === 0;
  }

  #store(e: Int32Array, log2: number, prod: number): boolean {
    const base = this.#regs.address(PAGE0.EVENTQ_BASE.at, this.#d.queueBase64 ? 6 : 5);
    const size = EVENT_BYTES * 2 ** log2;
    const at = (this.#d.queueBase64 ? base : base - (base % size)) + ringSlot(prod, log2) * EVENT_BYTES;
    for (let i = 0; i < EVENT_WORDS; i += 2) {
      if (!this.#memory.store64(at + 4 * i, e[i]!, e[i + 1]!)) return false;
    }
    if (this.#tell !== null) {
      this.#tell({ what: 'record', device: this.#name, address: at, words: Array.from(e, (w) => w >>> 0) });
    }
    return true;
  }

  reset(): void {
    this.#lastProd = -1;
  }

  save(): { last: number[]; lastProd: number } {
    return { last: Array.from(this.#last), lastProd: this.#lastProd };
  }

  load(s: { last: number[]; lastProd: number }): void {
    this.#last.set(s.last);
    this.#lastProd = s.lastProd;
  }
}
