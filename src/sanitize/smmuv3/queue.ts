import { OP } from '../../spec/smmuv3/commands.ts';
import type { PageUse } from '../memory.ts';
import { reservedBits } from '../register-rules.ts';
import { COMMAND_RULES } from '../rules.ts';
import type { Smmuv3Invalidations } from './commands.ts';
import { reservedOf } from './reserved.ts';
import type { Smmuv3Shared } from './shared.ts';

interface Sync {
  /** Position in the queue since it was set up, and sequence number. */
  readonly position: number;
  readonly seq: number;
  readonly event: number;
}

/**
 * The command queue as the guest drives it: commands count as issued when CMDQ_PROD passes them, and as complete when
 * the guest can know that a CMD_SYNC behind them was consumed (IHI 0070 §4.7.3).
 */
export class Smmuv3CommandQueue {
  readonly #shared: Smmuv3Shared;
  readonly #run: Smmuv3Invalidations;
  #base = 0;
  #log2 = 0;
  /** Indices with wrap as last written and read, and positions since the queue was set up. */
  #prod = 0;
  #cons = 0;
  #issued = 0;
  #consumed = 0;
  #seq = 0;
  #syncs: Sync[] = [];
  /** Nobody tells the guest's reads: a command is consumed when it is issued. */
  #unread = false;
  #everUnread = false;
  /** Commands were submitted that nobody told. */
  #untold = false;
  /** Event of the first invalidation no CMD_SYNC follows, and the submission it was in; -1: none. */
  #unsynced = -1;
  #unsyncedBatch = 0;
  #bytes = 0;
  /** Something was stored over a command that may not have been fetched, since the last submission. */
  #overwritten = false;
  readonly #use: PageUse = {
    changed: (page, at) => {
      const offset = page.pfn * 4096 + 8 * at - this.#base;
      if (offset >= 0 && offset < this.#bytes) this.#stored(offset);
    },
  };

  constructor(shared: Smmuv3Shared, run: Smmuv3Invalidations) {
    this.#shared = shared;
    this.#run = run;
  }

  setup(base: number, log2: number): void {
    const { memory } = this.#shared;
    if (this.#bytes > 0)
      memory.unuse(Math.floor(this.#base / 4096), Math.floor((this.#base + this.#bytes - 1) / 4096), this.#use);
    this.#base = base - (base % 2 ** Math.max(5, log2 + 4));
    this.#log2 = log2;
    this.#bytes = 16 * 2 ** log2;
    memory.use(Math.floor(this.#base / 4096), Math.floor((this.#base + this.#bytes - 1) / 4096), this.#use);
  }

  /** CMDQ_PROD or CMDQ_CONS were given a start while the queue is off. */
  restart(prod: number, cons: number): void {
    const mask = 2 ** (this.#log2 + 1) - 1;
    this.#prod = prod & mask;
    this.#cons = cons & mask;
    this.#issued = 0;
    this.#consumed = 0;
    this.#syncs = [];
  }

  /** The guest wrote CMDQ_PROD while the queue is on. */
  submit(value: number): void {
    const { course } = this.#shared;
    const size = 2 ** (this.#log2 + 1);
    const prod = value & (size - 1);
    const count = (prod - this.#prod + size) % size;
    const entries = 2 ** this.#log2;
    const lost = count + this.#issued - this.#consumed > entries && this.#overrun(count);
    for (let n = 0; n < Math.min(count, entries); n++) this.#command((this.#prod + n) % entries);
    this.#prod = prod;
    course.batch++;
    this.#overwritten = false;
    // How far the SMMU is after an overrun nobody can tell: what follows is counted from here.
    if (lost) this.#resume(prod);
    if (this.#unread) this.consumed(prod);
  }

  #command(index: number): void {
    const { memory, course } = this.#shared;
    const at = this.#base + 16 * index;
    const page = memory.seen(Math.floor(at / 4096));
    this.#issued++;
    const seq = ++this.#seq;
    if (page === undefined || (!page.known && page.since < 0)) {
      this.#untold = true;
      return;
    }
    this.#unread = page.late || !this.reads;
    this.#everUnread ||= this.#unread;
    const i = (at % 4096) / 4;
    const w = page.words;
    const w0 = w === null ? 0 : w[i]!;
    if ((w0 & 0xff) === OP.SYNC) {
      if (w !== null) reservedBits(course, 'CMD_SYNC', reservedOf(w0, w[i + 1]!, w[i + 2]!, w[i + 3]!));
      this.#syncs.push({ position: this.#issued, seq, event: course.event });
      course.barrier = seq;
      this.#unsynced = -1;
      return;
    }
    if (w !== null)
      reservedBits(course, `opcode 0x${(w0 & 0xff).toString(16)}`, reservedOf(w0, w[i + 1]!, w[i + 2]!, w[i + 3]!));
    if (w !== null && this.#run.run(seq, w0, w[i + 1]!, w[i + 2]!, w[i + 3]!) && this.#unsynced < 0) {
      this.#unsynced = course.event;
      this.#unsyncedBatch = course.batch;
    }
  }

  /** PROD never passes CONS by more than the queue holds (IHI 0070 §3.5.1). @returns whether it is judged. */
  #overrun(count: number): boolean {
    const { course } = this.#shared;
    // A guest that was not seen to ask how far the SMMU is may know, but more at once than the queue holds is never right.
    if (this.#unread || (course.completions === 0 && count <= 2 ** this.#log2)) return false;
    // That it goes over what may not have been fetched was said when it was stored.
    if (this.#overwritten) return true;
    course.findings.add('queue-overrun', {
      events: [course.event],
      message: `${count} commands were submitted while the queue had room for ${2 ** this.#log2 - (this.#issued - this.#consumed)}: read CMDQ_CONS and wait for room`,
    });
    return true;
  }

  #resume(cons: number): void {
    this.#cons = cons;
    this.#consumed = this.#issued;
    this.#complete();
  }

  /** The guest's register reads are told. */
  reads = false;
  /** A command stopped the queue: until that is acknowledged nothing is fetched, and commands may be mended. */
  stopped = false;

  /** A word of the queue was stored. @param offset bytes from its start. */
  #stored(offset: number): void {
    const waiting = this.#issued - this.#consumed;
    if (waiting === 0 || this.#unread || this.stopped) return;
    const entries = 2 ** this.#log2;
    const index = offset >>> 4;
    const ahead = (index - (this.#cons % entries) + entries) % entries;
    if (ahead >= waiting) return;
    const { course } = this.#shared;
    this.#overwritten = true;
    course.findings.add('command-overwritten', {
      events: [course.event],
      message: `the command at index ${index} was stored over although CMDQ_CONS is not known to have passed it: wait for it`,
    });
  }

  finish(): void {
    const { course } = this.#shared;
    const { findings } = course;
    if (this.#untold) findings.withdraw(COMMAND_RULES, 'the command queue was not recorded');
    if (this.#everUnread)
      for (const rule of ['invalidation-not-awaited', 'queue-overrun', 'command-overwritten'] as const)
        findings.cannotJudge(rule, 'when the guest learned that commands were consumed was not recorded');
    if (this.#unsynced < 0 || course.batch < this.#unsyncedBatch + 2) return;
    course.findings.add('command-without-sync', {
      events: [this.#unsynced],
      message: 'invalidations were issued and no CMD_SYNC followed: nothing says when they take effect',
    });
  }

  /** The guest knows that CMDQ_CONS is `value`. */
  consumed(value: number): void {
    const size = 2 ** (this.#log2 + 1);
    const cons = value & (size - 1);
    const count = (cons - this.#cons + size) % size;
    if (count === 0 || this.#consumed + count > this.#issued) return;
    this.#cons = cons;
    this.#consumed += count;
    this.#complete();
  }

  /** What stands before a CMD_SYNC that was consumed has taken effect. */
  #complete(): void {
    let done = -1;
    while (this.#syncs.length > 0 && this.#syncs[0]!.position <= this.#consumed) done = this.#syncs.shift()!.seq;
    if (done < 0) return;
    const { caches, config, course, devices } = this.#shared;
    caches.complete(done);
    devices.complete(done);
    config.complete(done);
    course.completions++;
  }

  /** An interrupt or a message tells the guest that the last CMD_SYNC is done. */
  signalled(): void {
    if (this.#syncs.length > 0) this.consumed(this.#prod);
  }
}
