import type { WorkBudget } from '../../src/lib/access/work-budget.ts';
import { ringEmpty, ringMask, ringNext, ringSlot } from '../../src/lib/queue/ring.ts';
import { RingFinder } from '../../src/lib/queue/ring-finder.ts';
import type { Memory } from '../../src/ports/memory.ts';
import type { Tell } from '../../src/ports/tell.ts';
import { COMMAND_BYTES, COMMAND_NAMES, COMMAND_WORDS, cmdOp } from '../../src/spec/smmuv3/commands.ts';
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
  /** The host refused the last command, which is legal. */
  readonly refusal: boolean;
  /** A command was not done because the host refused. The guest may have it done again, or put another one in its place. */
  refused(cons: number, w0: number, w1: number, w2: number, w3: number): void;
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
  /** Words of the command in hand. */
  readonly #words = new Int32Array(COMMAND_WORDS);
  readonly #ring: RingFinder;
  /** A CMD_SYNC waits for completions, or a command was begun and goes on: `tell` hears of it once. */
  #waiting = false;

  readonly #held: () => boolean;

  /** @param held whether commands wait for a switch of translation that is under way. */
  constructor(core: Smmuv3Core, sink: CommandSink, held: () => boolean) {
    this.#held = held;
    this.#regs = core.registers;
    this.#memory = core.deps.memory;
    this.#ring = new RingFinder(core.deps.memory);
    this.#interrupts = core.interrupts;
    this.#d = core.deviations;
    this.#tell = core.deps.tell;
    this.#name = core.name;
    this.#sink = sink;
    this.#work = core.work;
  }

  /** ATS completions are in: an occasion, unless the queue is what they were sent from. */
  drained(): void {
    if (this.#running) return;
    this.#work.begin();
    this.run();
  }

  /** Runs until the queue is empty, stops at an error, waits, or has spent the budget of the occasion. What a command causes runs no second loop inside this one. */
  run(): void {
    if (this.#running || this.#held()) return;
    this.#running = true;
    this.#loop();
    this.#running = false;
  }

  /**
   * What the guest set up cannot change meanwhile, since a device at work lets nobody in: base, size and PROD are read once. CONS
   * is written where the loop ends, and before anybody hears of a command.
   */
  #loop(): void {
    const regs = this.#regs;
    const work = this.#work;
    if (!regs.enabled(CR0.CMDQEN) || this.#interrupts.active(GERROR.CMDQ_ERR)) {
      this.#flush();
      return;
    }
    const log2 = Math.min(regs.get(PAGE0.CMDQ_BASE.at) & 31, QUEUE_LOG2_MAX);
    const mask = ringMask(log2);
    const prod = regs.get(PAGE0.CMDQ_PROD.at);
    const before = regs.get(PAGE0.CMDQ_CONS.at);
    const upper = before & ~mask;
    let cons = before;
    if (!ringEmpty(prod, cons, log2)) {
      const start = this.#start(log2);
      const w = this.#words;
      while (!ringEmpty(prod, cons, log2)) {
        if (work.over) {
          work.pause();
          break;
        }
        work.spend(COMMAND_WORK);
        let outcome: number = CERROR.ABT;
        if (this.#fetch(start, ringSlot(cons, log2), log2)) {
          if (this.#tell !== null && !this.#waiting) {
            regs.set(PAGE0.CMDQ_CONS.at, cons);
            this.#announce(w[0]!, w[1]!, w[2]!, w[3]!);
          }
          this.#waiting = false;
          outcome = this.#sink.execute(cons & mask, w[0]!, w[1]!, w[2]!, w[3]!);
        }
        if (outcome !== DONE) {
          regs.set(PAGE0.CMDQ_CONS.at, cons);
          this.#stop(outcome, cons);
          return;
        }
        cons = upper | ringNext(cons, log2);
      }
      regs.set(PAGE0.CMDQ_CONS.at, cons);
    }
    this.#flush();
  }

  #flush(): void {
    if (this.#sink.flush() === REFUSED) this.#refused();
  }

  /** The host refused a command that was collected earlier: its entry is still what the guest wrote. */
  #refused(): void {
    this.#owe(this.#sink.refusedAt);
    this.#error(CERROR.ILL, this.#sink.refusedAt);
  }

  /** The command that was collected from slot `at` was not done. */
  #owe(at: number): void {
    const log2 = Math.min(this.#regs.get(PAGE0.CMDQ_BASE.at) & 31, QUEUE_LOG2_MAX);
    const w = this.#words;
    // What cannot be read again counts as skipped with whatever comes next.
    if (!this.#fetch(this.#start(log2), ringSlot(at, log2), log2)) w.fill(-1);
    this.#sink.refused(at, w[0]!, w[1]!, w[2]!, w[3]!);
  }

  /** The command at `cons` was not done. */
  #stop(outcome: number, cons: number): void {
    if (outcome === AGAIN || outcome === WAIT) {
      this.#waiting = true;
      if (outcome === AGAIN) this.#work.pause();
    } else if (outcome === REFUSED) this.#refused();
    else {
      const w = this.#words;
      if (this.#sink.refusal)
        this.#sink.refused(cons & ringMask(this.#regs.get(PAGE0.CMDQ_BASE.at) & 31), w[0]!, w[1]!, w[2]!, w[3]!);
      this.#error(outcome, cons);
    }
  }

  /** Fetches the entry in a slot into `#words`. */
  #fetch(start: number, slot: number, log2: number): boolean {
    const w = this.#words;
    const ring = this.#ring;
    if (ring.find(start, COMMAND_WORDS << log2)) {
      const from = ring.words;
      const i = ring.first + slot * COMMAND_WORDS;
      w[0] = from[i]!;
      w[1] = from[i + 1]!;
      w[2] = from[i + 2]!;
      w[3] = from[i + 3]!;
      return true;
    }
    const memory = this.#memory;
    const at = start + slot * COMMAND_BYTES;
    if (!memory.load64(at)) return false;
    w[0] = memory.lo;
    w[1] = memory.hi;
    if (!memory.load64(at + 8)) return false;
    w[2] = memory.lo;
    w[3] = memory.hi;
    return true;
  }

  /** Address of slot 0. */
  #start(log2: number): number {
    const base = this.#regs.address(PAGE0.CMDQ_BASE.at, this.#d.queueBase64 ? 6 : 5);
    return this.#d.queueBase64 ? base : base - (base & ((COMMAND_BYTES << log2) - 1));
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
      this.#owe(at);
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
