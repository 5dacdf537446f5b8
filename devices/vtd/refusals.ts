import type { VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';

/** What the device was doing when the host refused something. */
export type RefusedDuring =
  | 'invalidation'
  | 'register invalidation'
  | 'switch of translation'
  | 'first use'
  | 'page request'
  | 'page response'
  | 'freed PASID'
  | 'undoing';

/**
 * The one place where every refusal of the host arrives that is no caller's to handle: who holds an outcome either returns it or
 * notes it here. The guest is not told yet; what it sees is what follows from the refusal (an access that is aborted, or one that
 * still translates).
 */
export class VtdRefusals {
  readonly #counts = new Map<RefusedDuring, number>();

  /** @param outcome of a verb, or the first refusal of several. @returns whether it is a refusal. */
  note(during: RefusedDuring, outcome: VerbOutcome): boolean {
    if (outcome >= 0) return false;
    this.#counts.set(during, (this.#counts.get(during) ?? 0) + 1);
    return true;
  }

  /** How often the host refused something so far. */
  counts(): ReadonlyMap<RefusedDuring, number> {
    return this.#counts;
  }
}
