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

/**
 * Invalidation through CCMD and IOTLB: it belongs to legacy mode with the queue off (VT-d §6.5.1, §11.4.6). One request is
 * carried out after the other, behind a switch of tables that is under way; the guest reads each as busy until it is done.
 */
export class RegisterInvalidation {
  readonly #core: VtdCore;
  readonly #commands: VtdCommands;
  readonly #queue: VtdQueue;
  readonly #streams: VtdStreams;
  readonly #held: () => boolean;
  /** The registers (CCMD, IOTLB) whose requests are to be done, in order. */
  readonly #requests: number[] = [];
  /** The first of them was begun and goes on. */
  #begun = false;

  /** @param held whether requests wait for a switch of tables that is under way. */
  constructor(core: VtdCore, commands: VtdCommands, queue: VtdQueue, streams: VtdStreams, held: () => boolean) {
    this.#core = core;
    this.#commands = commands;
    this.#queue = queue;
    this.#streams = streams;
    this.#held = held;
  }

  /** A request is not done yet. Descriptors of a queue that has been switched on behind it wait. */
  get busy(): boolean {
    return this.#requests.length > 0;
  }

  /** The high word of CCMD was written (§11.4.6.1). */
  context(): void {
    this.#written(PAGE.CCMD.at);
  }

  /** The high word of IOTLB was written (§11.4.6.3). */
  iotlb(): void {
    this.#written(PAGE.IOTLB.at);
  }

  /** An occasion. @returns whether all requests are done. */
  goOn(): boolean {
    for (let register = this.#requests[0]; register !== undefined; register = this.#requests[0]) {
      const { work } = this.#core;
      // Behind the last part of another request, or of a switch, there may be nothing left of the budget.
      if (this.#held() || work.over) {
        work.pause();
        return false;
      }
      work.operation(this.#begun);
      const done = register === PAGE.CCMD.at ? this.#context() : this.#iotlb();
      this.#begun = !done;
      if (!done) {
        work.pause();
        return false;
      }
      this.#requests.shift();
    }
    return true;
  }

  /** Reset, or a state was loaded: nobody waits. */
  reset(): void {
    this.#requests.length = 0;
    this.#begun = false;
  }

  #written(register: number): void {
    const { registers, deviations } = this.#core;
    const busy = (registers.get(register + 4) & BUSY) !== 0;
    const at = this.#requests.indexOf(register);
    if (at >= 0) {
      // The guest may not touch a request that is under way (§11.4.6.1). What the register says now is what is done.
      if (at === 0) this.#begun = false;
      if (!busy) this.#requests.splice(at, 1);
      return;
    }
    if (!busy) return;
    if (this.#allowed()) {
      this.#requests.push(register);
      if (this.#requests.length === 1) this.goOn();
    } else if (!deviations.refusedRequestHangs) this.#answer(register, 0);
  }

  /** ICC or IVT is cleared, CAIG or IAIG says what was done. */
  #answer(register: number, done: number): void {
    const { registers } = this.#core;
    const shift = register === PAGE.CCMD.at ? 27 : 25;
    const hi = registers.get(register + 4);
    registers.set(register + 4, (hi & ~BUSY & ~(3 << shift)) | (done << shift));
  }

  /** @returns whether the request is done; else it is to be called again. */
  #context(): boolean {
    const { registers: regs, deviations } = this.#core;
    const lo = regs.get(PAGE.CCMD.at);
    const hi = regs.get(PAGE.CCMD.at + 4);
    const g = (hi >>> 29) & 3;
    let done = 0;
    if (g !== 0) {
      const r = this.#commands.contextCache(g, lo & 0xffff, lo >>> 16, g === CONTEXT_G.DEVICE ? hi & 3 : 0);
      const actual = g === CONTEXT_G.DOMAIN && deviations.contextDomainIsGlobal ? CONTEXT_G.GLOBAL : g;
      done = this.#granularity(actual, r);
      if (this.#core.work.unfinished) return false;
    }
    this.#answer(PAGE.CCMD.at, done);
    return true;
  }

  /** See `#context`. */
  #iotlb(): boolean {
    const { registers: regs, features, work } = this.#core;
    const hi = regs.get(PAGE.IOTLB.at + 4);
    const g = (hi >>> 28) & 3;
    const iva = regs.get(PAGE.IVA.at);
    const am = inv.am(iva);
    let done = 0;
    if (g !== 0 && !(g === IOTLB_G.PAGE && am > features.mamv)) {
      done = this.#granularity(g, this.#commands.iotlb(g, hi & 0xffff, inv.page(iva, regs.get(PAGE.IVA.at + 4)), am));
      if (work.unfinished) return false;
    }
    this.#answer(PAGE.IOTLB.at, done);
    return true;
  }

  #allowed(): boolean {
    const { deviations, root } = this.#core;
    return !this.#queue.enabled && (deviations.tableModeBitOnly || root.mode === TTM.LEGACY);
  }

  /**
   * What CAIG or IAIG says: 0 when the request was not performed, here because the host refused (§11.4.6.1, §11.4.6.3). With
   * `work.unfinished` it says nothing yet.
   */
  #granularity(done: number, performed: VerbOutcome): number {
    const { work, refusals } = this.#core;
    if (work.unfinished) return 0;
    const outcome = isRefusal(performed) ? performed : this.#streams.confirmed();
    if (work.unfinished || !isRefusal(outcome)) return done;
    refusals.note('register invalidation', outcome);
    return 0;
  }
}
