import type { WorkBudget } from '../../src/lib/access/work-budget.ts';
import { ringEmpty, ringMask, ringNext, ringSlot } from '../../src/lib/queue/ring.ts';
import type { Memory } from '../../src/ports/memory.ts';
import type { Tell } from '../../src/ports/tell.ts';
import { COMMAND_BYTES, COMMAND_NAMES, cmdOp } from '../../src/spec/smmuv3/commands.ts';
import { CERROR, CR0, GERROR, PAGE0 } from '../../src/spec/smmuv3/registers.ts';
import type { Smmuv3Core } from './core.ts';
import { QUEUE_LOG2_MAX } from './identity.ts';
import type { Smmuv3Interrupts } from './interrupts.ts';
import type { Smmuv3Deviations } from './profile.ts';
import type { Smmuv3Registers } from './registers.ts';

/** What a command did to the queue: gone on, not yet complete, or a CERROR (> 0) at it. */
export const DONE = 0;
export const WAIT = -1;
/** The budget of this access ends in the middle of the command: it is executed again at the next occasion. */
export const AGAIN = -3;
/** A CERROR_ILL that belongs to an earlier command, at `CommandSink.refusedAt`. */
export const REFUSED = -2;

/** Where commands go. */
export interface CommandSink {
  /** @param cons CMDQ_CONS index of the command. @returns DONE, WAIT, AGAIN, REFUSED or a CERROR. */
  execute(cons: number, w0: number, w1: number, w2: number, w3: number): number;
  /** Hands over what was collected. @returns DONE or REFUSED. */
  flush(): number;
  readonly refusedAt: number;
}

/** Units of work of a command, beside what it finds to do. */
const COMMAND_WORK = 4;

/** The command queue's consumer side: fetch, execute, and only then CONS + 1; errors stop it (IHI 0070 §7.1). */
export class Smmuv3Queue {
  readonly #regs: Smmuv3Registers;
  readonly #memory: Memory;
  readonly #interrupts: Smmuv3Interrupts;
  readonly #d: Smmuv3Deviations;
  readonly #tell: Tell | null;
  readonly #name: string;
  readonly #sink: CommandSink;
  readonly #work: WorkBudget;
  #running = false;
  /** A CMD_SYNC waits for completions, or a command was begun and goes on: `tell` hears of it once. */
  #waiting = false;

  constructor(core: Smmuv3Core, sink: CommandSink) {
    this.#regs = core.registers;
    this.#memory = core.deps.memory;
    this.#interrupts = core.interrupts;
    this.#d = core.deviations;
    this.#tell = core.deps.tell;
    this.#name = core.name;
    this.#sink = sink;
    this.#work = core.work;
  }

  /** Runs until the queue is empty, stops at an error, waits, or has spent the budget of the occasion. What a command causes runs no second loop inside this one. */
  run(): void {
    if (this.#running) return;
    this.#running = true;
    this.#work.begin();
    this.#loop();
    this.#running = false;
  }

  #loop(): void {
    const regs = this.#regs;
    for (;;) {
      if (!regs.enabled(CR0.CMDQEN) || this.#interrupts.active(GERROR.CMDQ_ERR)) break;
      const baseLo = regs.get(PAGE0.CMDQ_BASE.at);
      const log2 = Math.min(baseLo & 31, QUEUE_LOG2_MAX);
      const cons = regs.get(PAGE0.CMDQ_CONS.at);
      if (ringEmpty(regs.get(PAGE0.CMDQ_PROD.at), cons, log2)) break;
      if (this.#work.over) {
        this.#work.pause();
        break;
      }
      this.#work.spend(COMMAND_WORK);
      const at = this.#entry(log2, cons);
      if (!this.#memory.load64(at)) {
        this.#error(CERROR.ABT, cons);
        return;
      }
      const w0 = this.#memory.lo;
      const w1 = this.#memory.hi;
      if (!this.#memory.load64(at + 8)) {
        this.#error(CERROR.ABT, cons);
        return;
      }
      const w2 = this.#memory.lo;
      const w3 = this.#memory.hi;
      if (this.#tell !== null && !this.#waiting) this.#announce(w0, w1, w2, w3);
      this.#waiting = false;
      const outcome = this.#sink.execute(cons & ringMask(log2), w0, w1, w2, w3);
      if (outcome === AGAIN) {
        this.#waiting = true;
        this.#work.pause();
        return;
      }
      if (outcome === WAIT) {
        this.#waiting = true;
        return;
      }
      if (outcome === REFUSED) {
        this.#error(CERROR.ILL, this.#sink.refusedAt);
        return;
      }
      if (outcome !== DONE) {
        this.#error(outcome, cons);
        return;
      }
      regs.set(PAGE0.CMDQ_CONS.at, (cons & ~ringMask(log2)) | ringNext(cons, log2));
    }
    if (this.#sink.flush() === REFUSED) this.#error(CERROR.ILL, this.#sink.refusedAt);
  }

  #entry(log2: number, cons: number): number {
    const base = this.#regs.address(PAGE0.CMDQ_BASE.at, this.#d.queueBase64 ? 6 : 5);
    const start = this.#d.queueBase64 ? base : base - (base & ((COMMAND_BYTES << log2) - 1));
    return start + ringSlot(cons, log2) * COMMAND_BYTES;
  }

  #announce(w0: number, w1: number, w2: number, w3: number): void {
    const words = [w0 >>> 0, w1 >>> 0, w2 >>> 0, w3 >>> 0];
    this.#tell?.({ what: 'command', device: this.#name, name: COMMAND_NAMES[cmdOp(w0)]!, words, error: 0 });
  }

  /** Stops at `cons`: ERR is in place before the guest can see CMDQ_ERR. Whatever was collected before it is in force. */
  #error(code: number, cons: number): void {
    let error = code;
    let at = cons;
    if (this.#sink.flush() === REFUSED) {
      error = CERROR.ILL;
      at = this.#sink.refusedAt;
    }
    const log2 = Math.min(this.#regs.get(PAGE0.CMDQ_BASE.at) & 31, QUEUE_LOG2_MAX);
    const upper = this.#d.staleConsError ? this.#regs.get(PAGE0.CMDQ_CONS.at) & ~ringMask(log2) & ~(0x7f << 24) : 0;
    this.#regs.set(PAGE0.CMDQ_CONS.at, upper | (error << 24) | (at & ringMask(log2)));
    this.#interrupts.raise(GERROR.CMDQ_ERR);
  }

  /** GERRORN was written: the error field has no meaning any more once the error is acknowledged. */
  acknowledged(): void {
    if (this.#d.staleConsError || this.#interrupts.active(GERROR.CMDQ_ERR)) return;
    this.#regs.set(PAGE0.CMDQ_CONS.at, this.#regs.get(PAGE0.CMDQ_CONS.at) & ~(0x7f << 24));
  }

  reset(): void {
    this.#waiting = false;
  }

  save(): boolean {
    return this.#waiting;
  }

  load(waiting: boolean): void {
    this.#waiting = waiting;
  }
}
