import { fromWords } from '../../src/core/bits.ts';
import { inv } from '../../src/spec/vtd/invalidation.ts';
import { ICS_IWC, IQEI, PAGE } from '../../src/spec/vtd/registers.ts';
import type { VtdCore } from './core.ts';

/** Waits that may be outstanding at once; the fetch stops until some complete. */
export const MAX_WAITS = 256;
/** Words of a wait. */
export const WAIT_WORDS = 4;

/** Wait descriptors (VT-d §6.5.2.9): each completes once every device-TLB invalidation before it has. */
export class Waits {
  readonly #core: VtdCore;
  readonly #outstanding: () => number;
  /** Waits fetched but not complete: words 0 to 3 each, in order. */
  readonly #words = new Int32Array(MAX_WAITS * WAIT_WORDS);
  #count = 0;
  /** The last of them has FN: nothing behind it starts. */
  #fenced = false;

  /** @param outstanding how many device-TLB completions are still missing. */
  constructor(core: VtdCore, outstanding: () => number) {
    this.#core = core;
    this.#outstanding = outstanding;
  }

  /** Whether the descriptor behind the last wait may be fetched. The last answer that is missing lets a queue go on that found no room. */
  get open(): boolean {
    if (this.#fenced || this.#count >= MAX_WAITS) return false;
    const { invalidations } = this.#core.quotas;
    return this.#outstanding() === 0 || invalidations.room();
  }

  /** A wait was fetched; it completes at once when nothing is outstanding. @returns 0, or an IQEI code. */
  add(w0: number, w1: number, w2: number, w3: number): number {
    const does = inv.waitIF(w0) || inv.waitSW(w0) || inv.waitFN(w0);
    if (!does) return this.#core.deviations.emptyWaitIsError ? IQEI.RESERVED : 0;
    if (this.#count === 0 && this.#outstanding() === 0) return this.#complete(w0, w1, w2, w3);
    const at = this.#count++ * WAIT_WORDS;
    this.#words[at] = w0;
    this.#words[at + 1] = w1;
    this.#words[at + 2] = w2;
    this.#words[at + 3] = w3;
    this.#fenced = inv.waitFN(w0);
    return 0;
  }

  /** Completes what was waiting if nothing is outstanding any more. @returns 0, or an IQEI code. */
  settle(): number {
    if (this.#count === 0 || this.#outstanding() !== 0) return 0;
    const n = this.#count;
    this.clear();
    let error = 0;
    for (let at = 0; at < n * WAIT_WORDS; at += WAIT_WORDS) {
      const w = this.#words;
      error = this.#complete(w[at]!, w[at + 1]!, w[at + 2]!, w[at + 3]!) || error;
    }
    return error;
  }

  /** Status write, then the interrupt that pushes it. */
  #complete(w0: number, w1: number, w2: number, w3: number): number {
    const { registers, deviations, interrupts, name } = this.#core;
    const { memory, tell } = this.#core.deps;
    let written = true;
    if (inv.waitSW(w0)) {
      const address = fromWords(w2 & ~3, w3);
      written = w3 >>> 20 === 0 && memory.store32(address, w1);
      if (!written && !deviations.failedWaitSignals) return IQEI.RESERVED;
      if (written && tell !== null) tell({ what: 'record', device: name, address, words: [w1 >>> 0] });
    }
    if (inv.waitIF(w0) && (registers.get(PAGE.ICS.at) & ICS_IWC) === 0) {
      registers.set(PAGE.ICS.at, ICS_IWC);
      interrupts.completion.raise();
    }
    return written ? 0 : IQEI.RESERVED;
  }

  /** What was waiting is given up, without status and interrupt. */
  clear(): void {
    this.#count = 0;
    this.#fenced = false;
  }

  save(): readonly number[] {
    return Array.from(this.#words.subarray(0, this.#count * WAIT_WORDS));
  }

  load(words: readonly number[]): void {
    this.#words.set(words);
    this.#count = words.length / WAIT_WORDS;
    this.#fenced = this.#count > 0 && inv.waitFN(words[words.length - WAIT_WORDS]!);
  }
}
