import { fromWords } from '../../core/bits.ts';
import { INV, INV_NAME, INV_RESERVED, inv, invType, WAIT_PD } from '../../spec/vtd/invalidation.ts';
import type { PageUse } from '../memory.ts';
import { reservedBits } from '../register-rules.ts';
import { COMMAND_RULES, type RuleId } from '../rules.ts';
import type { VtdInvalidations } from './commands.ts';
import type { VtdShared } from './shared.ts';

/** Rules that need to know when waits are done. */
const WAITED: readonly RuleId[] = [
  'use-after-unmap',
  'invalidation-not-awaited',
  'queue-overrun',
  'command-overwritten',
];

interface Wait {
  /** Descriptors up to and with this one, since the queue was set up; and its sequence number. */
  readonly position: number;
  readonly seq: number;
  /** Where the status goes, -1: nowhere; and what it is. */
  readonly status: number;
  readonly data: number;
  readonly interrupt: boolean;
  readonly event: number;
}

/**
 * Invalidations as the guest orders them: by descriptors, issued when IQT passes them and complete with a wait behind
 * them (VT-d §6.5.2.9), or by registers, complete when the register says so (§6.5.1).
 */
export class VtdDescriptorQueue {
  readonly #shared: VtdShared;
  readonly #run: VtdInvalidations;
  #base = 0;
  #entries = 256;
  #wide = false;
  #tail = 0;
  #issued = 0;
  #consumed = 0;
  #seq = 0;
  #waits: Wait[] = [];
  /** Event of the first invalidation no wait follows, and the submission it was in; -1: none. */
  #unsynced = -1;
  #unsyncedBatch = 0;
  #bytes = 0;
  /** Something was stored over a command that may not have been fetched, since the last submission. */
  #overwritten = false;
  /** Descriptors were submitted that nobody told. */
  #untold = false;
  /** A status was asked for, and something told that a wait was done. */
  #asked = false;
  #answered = false;
  readonly #use: PageUse = {
    changed: (page, at) => {
      const offset = page.pfn * 4096 + 8 * at - this.#base;
      if (offset >= 0 && offset < this.#bytes && !page.late) this.#stored(offset);
    },
  };

  constructor(shared: VtdShared, run: VtdInvalidations) {
    this.#shared = shared;
    this.#run = run;
  }

  /** The queue is switched on. @param iqa words of IQA. */
  start(lo: number, hi: number): void {
    const { memory } = this.#shared;
    if (this.#bytes > 0) memory.unuse(this.#base / 4096, (this.#base + this.#bytes) / 4096 - 1, this.#use);
    this.#base = fromWords(lo & ~0xfff, hi & 0xf_ffff);
    this.#bytes = 2 ** ((lo & 7) + 12);
    memory.use(this.#base / 4096, (this.#base + this.#bytes) / 4096 - 1, this.#use);
    this.#wide = (lo & 0x800) !== 0;
    this.#entries = 2 ** ((lo & 7) + (this.#wide ? 7 : 8));
    this.#tail = 0;
    this.#issued = 0;
    this.#consumed = 0;
    this.#waits = [];
  }

  #index(offset: number): number {
    return (offset & 0x7_ffff) >>> (this.#wide ? 5 : 4);
  }

  /** The guest wrote IQT while the queue is on. */
  submit(offset: number): void {
    const tail = this.#index(offset);
    if (tail >= this.#entries) return;
    const count = (tail - this.#tail + this.#entries) % this.#entries;
    // One entry stays free: a queue that is full looks empty (VT-d §6.5.2).
    const lost = count + this.#issued - this.#consumed >= this.#entries && this.#overrun(count);
    for (let n = 0; n < count; n++) this.#descriptor((this.#tail + n) % this.#entries);
    this.#tail = tail;
    this.#shared.course.batch++;
    this.#overwritten = false;
    // How far the unit is after an overrun nobody can tell: what follows is counted from here.
    if (lost) this.#consumed = this.#issued;
  }

  #descriptor(index: number): void {
    const { memory, course } = this.#shared;
    const at = this.#base + index * (this.#wide ? 32 : 16);
    const page = memory.seen(Math.floor(at / 4096));
    this.#issued++;
    const seq = ++this.#seq;
    if (page === undefined || (!page.known && page.since < 0)) {
      this.#untold = true;
      return;
    }
    const w = page.words;
    if (w === null) return;
    const i = (at % 4096) / 4;
    const w0 = w[i]!;
    const w1 = w[i + 1]!;
    this.#reserved(w, i);
    if (invType(w0) !== INV.WAIT) {
      if (this.#run.run(seq, w0, w1, w[i + 2]!, w[i + 3]!) && this.#unsynced < 0) {
        this.#unsynced = course.event;
        this.#unsyncedBatch = course.batch;
      }
      return;
    }
    if (inv.waitSW(w0) || inv.waitIF(w0)) {
      this.#unsynced = -1;
      course.barrier = seq;
    }
    if (inv.waitPD(w0)) this.#shared.requests.drained();
    const status = inv.waitSW(w0) ? fromWords(w[i + 2]! & ~3, w[i + 3]! & 0xf_ffff) : -1;
    const wait = { position: this.#issued, seq, status, data: w1, interrupt: inv.waitIF(w0), event: course.event };
    this.#waits.push(wait);
    this.#asked ||= status >= 0;
  }

  /** VT-d §6.5.2.11: what is not defined for the type stops the queue on hardware that looks. */
  #reserved(w: Int32Array, i: number): void {
    const type = invType(w[i]!);
    const mask = INV_RESERVED[type];
    if (mask === undefined || type === 0) return;
    let bits = type === INV.WAIT ? w[i]! & mask[0] & ~WAIT_PD : w[i]! & mask[0];
    for (let n = 1; n < 4; n++) bits |= w[i + n]! & mask[n]!;
    if (this.#wide) for (let n = 4; n < 8; n++) bits |= w[i + n]!;
    reservedBits(this.#shared.course, `${INV_NAME[type]} descriptor`, bits);
  }

  /** @returns whether it is judged. */
  #overrun(count: number): boolean {
    const { course } = this.#shared;
    if (course.completions === 0) return false;
    // That it goes over what may not have been fetched was said when it was stored.
    if (this.#overwritten) return true;
    course.findings.add('queue-overrun', {
      events: [course.event],
      message: `${count} descriptors were submitted while the queue had room for ${this.#entries - 1 - (this.#issued - this.#consumed)}: wait for those before`,
    });
    return true;
  }

  /** A word of the queue was stored. @param offset bytes from its start. */
  #stored(offset: number): void {
    const waiting = this.#issued - this.#consumed;
    if (waiting === 0) return;
    const index = this.#index(offset);
    const behind = (this.#tail - index + this.#entries) % this.#entries;
    if (behind === 0 || behind > waiting) return;
    const { course } = this.#shared;
    this.#overwritten = true;
    course.findings.add('command-overwritten', {
      events: [course.event],
      message: `the descriptor at index ${index} was stored over although nothing says that it was fetched: wait for a wait behind it`,
    });
  }

  finish(): void {
    const { course } = this.#shared;
    const { findings } = course;
    if (this.#untold) findings.withdraw(COMMAND_RULES, 'the invalidation queue was not recorded');
    if (this.#asked && !this.#answered) findings.withdraw(WAITED, 'what the unit wrote for waits was not recorded');
    if (this.#unsynced < 0 || course.batch < this.#unsyncedBatch + 2) return;
    course.findings.add('command-without-sync', {
      events: [this.#unsynced],
      message:
        'invalidations were issued and no wait with a status or interrupt followed: nothing says when they take effect',
    });
  }

  /** The IOMMU wrote a status word. */
  status(gpa: number, data: number): void {
    const n = this.#waits.findIndex((w) => w.status === gpa && w.data === data);
    if (n >= 0) this.#done(n);
  }

  /** An interrupt or ICS.IWC says that a wait is done. */
  signalled(): void {
    const n = this.#waits.findIndex((w) => w.interrupt);
    if (n >= 0) this.#done(n);
  }

  /** The guest knows IQH: everything before it was fetched, and waits among it are done. */
  head(offset: number): void {
    const behind = (this.#tail - this.#index(offset) + this.#entries) % this.#entries;
    this.#consumed = Math.max(this.#consumed, this.#issued - behind);
    const n = this.#waits.findLastIndex((w) => w.position <= this.#consumed);
    if (n >= 0) this.#done(n);
  }

  #done(n: number): void {
    this.#answered = true;
    const wait = this.#waits[n]!;
    this.#waits = this.#waits.slice(n + 1);
    this.#consumed = Math.max(this.#consumed, wait.position);
    this.#complete(wait.seq);
  }

  #complete(seq: number): void {
    const { caches, config, course, devices } = this.#shared;
    caches.complete(seq);
    devices.complete(seq);
    config.complete(seq);
    course.completions++;
  }

  /** CCMD or the IOTLB register was told to invalidate. @returns sequence number. */
  byRegister(): number {
    this.#shared.course.batch++;
    this.#shared.course.begun(++this.#seq);
    return this.#seq;
  }

  /** The guest looks at the register. */
  registerRead(seq: number): void {
    const { course } = this.#shared;
    course.barrier = Math.max(course.barrier, seq);
  }

  /** The register says that it is done. */
  registerDone(seq: number): void {
    this.#shared.course.awaited(seq);
    this.#complete(seq);
  }
}
