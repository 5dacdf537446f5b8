import { FAILURE_STEP, type FailurePlan, type FailureStep } from '../../ports/failures.ts';
import type { ServerLimits } from './limits.ts';
import type { Session } from './session.ts';

/**
 * Which steps of a client's request fail: those that would take it beyond its limits, which is what a kernel without memory
 * would say, and the one it asked to fail (/proc/self/fail-nth).
 */
export class SessionQuota implements FailurePlan {
  /** Whose request is worked on; null: nothing fails. */
  session: Session | null = null;
  readonly #limits: ServerLimits;

  constructor(limits: ServerLimits) {
    this.#limits = limits;
  }

  fails(step: FailureStep): boolean {
    const s = this.session;
    if (s === null) return false;
    if (step === FAILURE_STEP.OBJECT && !s.takeObject(this.#limits.objectsPerSession)) return true;
    if (step === FAILURE_STEP.AREA && !s.takeArea(this.#limits.areasPerSession)) return true;
    return s.failNth > 0 && --s.failNth === 0;
  }
}
