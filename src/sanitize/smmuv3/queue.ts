import { OP } from '../../spec/smmuv3/commands.ts';
import type { Smmuv3Invalidations } from './commands.ts';
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

  constructor(shared: Smmuv3Shared, run: Smmuv3Invalidations) {
    this.#shared = shared;
    this.#run = run;
  }

  setup(base: number, log2: number): void {
    this.#base = base - (base % 2 ** Math.max(5, log2 + 4));
    this.#log2 = log2;
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
    for (let n = 0; n < Math.min(count, entries); n++) this.#command((this.#prod + n) % entries);
    this.#prod = prod;
    course.batch++;
    if (this.#unread) this.consumed(prod);
  }

  #command(index: number): void {
    const { memory, course } = this.#shared;
    const at = this.#base + 16 * index;
    const page = memory.seen(Math.floor(at / 4096));
    this.#issued++;
    const seq = ++this.#seq;
    if (page === undefined) {
      course.findings.cannotJudge('missing-invalidation', 'the command queue was not told');
      return;
    }
    this.#unread = page.late;
    const i = (at % 4096) / 4;
    const w = page.words;
    const w0 = w === null ? 0 : w[i]!;
    if ((w0 & 0xff) === OP.SYNC) {
      this.#syncs.push({ position: this.#issued, seq, event: course.event });
      this.#shared.devices.barrier = seq;
      return;
    }
    if (w !== null) this.#run.run(seq, w0, w[i + 1]!, w[i + 2]!, w[i + 3]!);
  }

  /** The guest knows that CMDQ_CONS is `value`. */
  consumed(value: number): void {
    const size = 2 ** (this.#log2 + 1);
    const cons = value & (size - 1);
    const count = (cons - this.#cons + size) % size;
    if (count === 0 || this.#consumed + count > this.#issued) return;
    this.#cons = cons;
    this.#consumed += count;
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
