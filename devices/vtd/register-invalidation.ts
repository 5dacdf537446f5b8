import type { VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { isRefusal } from '../../src/lib/uapi/refusals.ts';
import { CONTEXT_G, IOTLB_G, inv } from '../../src/spec/vtd/invalidation.ts';
import { PAGE, TTM } from '../../src/spec/vtd/registers.ts';
import type { VtdCommands } from './commands.ts';
import type { VtdCore } from './core.ts';
import type { VtdQueue } from './queue.ts';
import type { VtdStreams } from './streams.ts';

/** ICC of CCMD and IVT of IOTLB: the guest sets it, the unit clears it when the request is done. */
const BUSY = 0x8000_0000 | 0;

/** Invalidation through CCMD and IOTLB: it belongs to legacy mode with the queue off (VT-d §6.5.1, §11.4.6). */
export class RegisterInvalidation {
  readonly #core: VtdCore;
  readonly #commands: VtdCommands;
  readonly #queue: VtdQueue;
  readonly #streams: VtdStreams;
  /** The register of a request that was begun and goes on: CCMD or IOTLB; 0: none. */
  #begun = 0;

  constructor(core: VtdCore, commands: VtdCommands, queue: VtdQueue, streams: VtdStreams) {
    this.#core = core;
    this.#commands = commands;
    this.#queue = queue;
    this.#streams = streams;
  }

  /** A request that was begun goes on; the guest still reads it as busy. */
  goOn(): void {
    if (this.#begun === 0) return;
    this.#core.work.operation(true);
    if (this.#begun === PAGE.CCMD.at) this.#context();
    else this.#iotlb();
  }

  /** The high word of CCMD was written (§11.4.6.1). */
  context(): void {
    this.#core.work.operation();
    this.#context();
  }

  #context(): void {
    const { registers: regs, deviations } = this.#core;
    const lo = regs.get(PAGE.CCMD.at);
    const hi = regs.get(PAGE.CCMD.at + 4);
    if ((hi & BUSY) === 0) return;
    const allowed = this.#allowed();
    if (!allowed && deviations.refusedRequestHangs) return;
    const g = (hi >>> 29) & 3;
    let done = 0;
    if (allowed && g !== 0) {
      const r = this.#commands.contextCache(g, lo & 0xffff, lo >>> 16, g === CONTEXT_G.DEVICE ? hi & 3 : 0);
      if (this.#waits(PAGE.CCMD.at)) return;
      const actual = g === CONTEXT_G.DOMAIN && deviations.contextDomainIsGlobal ? CONTEXT_G.GLOBAL : g;
      done = this.#granularity(actual, r);
    }
    regs.set(PAGE.CCMD.at + 4, (hi & ~BUSY & ~(3 << 27)) | (done << 27));
  }

  /** The high word of IOTLB was written (§11.4.6.3). */
  iotlb(): void {
    this.#core.work.operation();
    this.#iotlb();
  }

  #iotlb(): void {
    const { registers: regs, deviations, features } = this.#core;
    const hi = regs.get(PAGE.IOTLB.at + 4);
    if ((hi & BUSY) === 0) return;
    const allowed = this.#allowed();
    if (!allowed && deviations.refusedRequestHangs) return;
    const g = (hi >>> 28) & 3;
    const iva = regs.get(PAGE.IVA.at);
    const am = inv.am(iva);
    let done = 0;
    if (allowed && g !== 0 && !(g === IOTLB_G.PAGE && am > features.mamv)) {
      const r = this.#commands.iotlb(g, hi & 0xffff, inv.page(iva, regs.get(PAGE.IVA.at + 4)), am);
      if (this.#waits(PAGE.IOTLB.at)) return;
      done = this.#granularity(g, r);
    }
    regs.set(PAGE.IOTLB.at + 4, (hi & ~BUSY & ~(3 << 25)) | (done << 25));
  }

  /** Whether a request that has just been carried on is to go on at the next occasion. */
  #waits(register: number): boolean {
    const { work } = this.#core;
    this.#begun = work.unfinished ? register : 0;
    if (work.unfinished) work.pause();
    return work.unfinished;
  }

  #allowed(): boolean {
    const { deviations, root } = this.#core;
    return !this.#queue.enabled && (deviations.tableModeBitOnly || root.mode === TTM.LEGACY);
  }

  /** What CAIG or IAIG says: 0 when the request was not performed, here because the host refused (§11.4.6.1, §11.4.6.3). */
  #granularity(done: number, performed: VerbOutcome): number {
    const outcome = isRefusal(performed) ? performed : this.#streams.confirmed();
    if (!isRefusal(outcome)) return done;
    this.#core.refusals.note('register invalidation', outcome);
    return 0;
  }
}
