import { E } from '../../spec/iommufd/errno.ts';
import type { VerbOutcome } from './host-verbs.ts';

/** Whether the host did not do what it was asked for. That there was nothing to take away (ENOENT) is no refusal. */
export function isRefusal(outcome: VerbOutcome): boolean {
  return outcome < 0 && outcome !== -E.NOENT;
}

/** Whether the host did not take an answer. EINVAL: nobody waits for it any more, since the host has answered itself. */
export function isAnswerRefused(outcome: VerbOutcome): boolean {
  return isRefusal(outcome) && outcome !== -E.INVAL;
}

/**
 * Where the refusals of the host arrive that no caller can answer for: a register write, a first use, an undoing. Who holds an
 * outcome returns it or notes it here. The guest sees what follows from the refusal (an access that is aborted or asks again).
 */
export class HostRefusals<During extends string> {
  readonly #counts = new Map<During, number>();

  /** @param outcome of a verb, or the first refusal of several. @returns whether it is a refusal. */
  note(during: During, outcome: VerbOutcome): boolean {
    if (outcome >= 0) return false;
    this.#counts.set(during, (this.#counts.get(during) ?? 0) + 1);
    return true;
  }

  /** How often the host refused something so far, by what the device was doing. */
  get counts(): ReadonlyMap<During, number> {
    return this.#counts;
  }
}

/**
 * Refusals that the same request may not meet a second time: the host had no memory (ENOMEM), or its hardware did not do what it
 * was told (EIO; ETIMEDOUT where a command was not answered in time), or it says so itself (EAGAIN, EINTR). Everything else says
 * what was asked for cannot be while things are as they are, whoever asks and how often: EADDRINUSE (guest memory lies where the
 * device has a reserved region), EPERM, ENODEV, EINVAL and so on. So does EBUSY: Linux says it of a device that somebody else has
 * attached, or whose mode another attachment forbids, and that ends by what its owner does, not by waiting.
 */
const SHORTAGES: ReadonlySet<number> = new Set([-E.NOMEM, -E.IO, -E.TIMEDOUT, -E.AGAIN, -E.INTR]);

/** Whether the host may do later what it refuses now: it is out of something, or failed. */
export function isShortage(outcome: VerbOutcome): boolean {
  return SHORTAGES.has(outcome);
}
