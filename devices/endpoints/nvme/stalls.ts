import { DMA, NO_PASID } from '../../../src/ports/dma.ts';
import type { Requester } from '../requester.ts';
import type { DmaPath } from './transfer.ts';

/** What was decided about an access of a step: it is not made again. */
export interface Verdict {
  /** Which access of the step, from 1. */
  readonly call: number;
  /** DMA value: an abort, or reading zeros and writing nothing. */
  readonly outcome: number;
}

/** A step of the controller that waits for a stalled access, as plain data. */
export interface StalledStep {
  /** Names the stalled access; -1: none is stalled. */
  readonly token: number;
  /** Which access of the step it is, from 1. */
  readonly call: number;
  /** What was decided about those before it. */
  readonly verdicts: readonly Verdict[];
}

/**
 * The controller's memory requests, some of which an IOMMU stalls. The controller works in steps that can be repeated (fetch a
 * command, execute it, post its completion): a stalled access ends the step, and after the decision the step is done again
 * from its beginning.
 */
export class StallableDma implements DmaPath {
  readonly #memory: Requester;
  #token = -1;
  #call = 0;
  #verdicts: Verdict[] = [];

  constructor(memory: Requester) {
    this.#memory = memory;
  }

  /** A stalled access ended the step. */
  get waits(): boolean {
    return this.#token >= 0;
  }

  /** A new step begins. */
  begin(): void {
    this.#token = -1;
    this.#call = 0;
    this.#verdicts = [];
  }

  /** The step in hand begins again. */
  again(): void {
    this.#token = -1;
    this.#call = 0;
  }

  /** An access was decided. @param outcome DMA value; OK: it is to be made again. @returns whether it is the one that is waited for. */
  decided(token: number, outcome: number): boolean {
    if (token !== this.#token) return false;
    if (outcome !== DMA.OK) this.#verdicts.push({ call: this.#call, outcome });
    this.again();
    return true;
  }

  read(lo: number, hi: number, into: Uint8Array, start: number, count: number): boolean {
    const verdict = this.#next();
    if (verdict === DMA.OK) return this.#made(this.#memory.read(NO_PASID, lo, hi, into, start, count));
    if (verdict === DMA.RAZ_WI) into.fill(0, start, start + count);
    return verdict === DMA.RAZ_WI;
  }

  write(lo: number, hi: number, from: Uint8Array, start: number, count: number): boolean {
    const verdict = this.#next();
    if (verdict === DMA.OK) return this.#made(this.#memory.write(NO_PASID, lo, hi, from, start, count));
    return verdict === DMA.RAZ_WI;
  }

  /** @returns what is known of the next access; OK: it is to be made. */
  #next(): number {
    const call = ++this.#call;
    for (const v of this.#verdicts) if (v.call === call) return v.outcome;
    return DMA.OK;
  }

  #made(outcome: number): boolean {
    if (outcome === DMA.STALLED) this.#token = this.#memory.upstream?.stallToken ?? 0;
    return outcome === DMA.OK;
  }

  /** What the step in hand waits for. */
  save(): StalledStep {
    return { token: this.#token, call: this.#call, verdicts: [...this.#verdicts] };
  }

  /** Goes back to a saved step. */
  load(s: StalledStep): void {
    this.#token = s.token;
    this.#call = s.call;
    this.#verdicts = [...s.verdicts];
  }
}
