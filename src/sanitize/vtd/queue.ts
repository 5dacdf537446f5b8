import { fromWords } from '../../core/bits.ts';
import { INV, inv, invType } from '../../spec/vtd/invalidation.ts';
import type { VtdInvalidations } from './commands.ts';
import type { VtdShared } from './shared.ts';

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
 * them (VT-d §6.5.2.8), or by registers, complete when the register says so (§6.5.1).
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

  constructor(shared: VtdShared, run: VtdInvalidations) {
    this.#shared = shared;
    this.#run = run;
  }

  /** The queue is switched on. @param iqa words of IQA. */
  start(lo: number, hi: number): void {
    this.#base = fromWords(lo & ~0xfff, hi & 0xf_ffff);
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
    for (let n = 0; n < count; n++) this.#descriptor((this.#tail + n) % this.#entries);
    this.#tail = tail;
    this.#shared.course.batch++;
  }

  #descriptor(index: number): void {
    const { memory, course } = this.#shared;
    const at = this.#base + index * (this.#wide ? 32 : 16);
    const page = memory.seen(Math.floor(at / 4096));
    this.#issued++;
    const seq = ++this.#seq;
    if (page === undefined) {
      course.findings.cannotJudge('missing-invalidation', 'the invalidation queue was not told');
      return;
    }
    const w = page.words;
    if (w === null) return;
    const i = (at % 4096) / 4;
    const w0 = w[i]!;
    const w1 = w[i + 1]!;
    if (invType(w0) !== INV.WAIT) {
      this.#run.run(seq, w0, w1, w[i + 2]!, w[i + 3]!);
      return;
    }
    const status = inv.waitSW(w0) ? fromWords(w[i + 2]! & ~3, w[i + 3]! & 0xf_ffff) : -1;
    const wait = { position: this.#issued, seq, status, data: w1, interrupt: inv.waitIF(w0), event: course.event };
    this.#waits.push(wait);
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
    return ++this.#seq;
  }

  /** The register says that it is done. */
  registerDone(seq: number): void {
    this.#complete(seq);
  }
}
