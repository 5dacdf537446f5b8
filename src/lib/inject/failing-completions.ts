import type { Clock } from '../../ports/clock.ts';
import type { AtsPort } from '../../ports/dma.ts';
import { FAILURE_STEP, type FailurePlan } from '../../ports/failures.ts';

/** The way of functions to their IOMMU, on which completions of device-TLB invalidations are lost, late or doubled. */
export class FailingCompletions implements AtsPort {
  readonly #ats: AtsPort;
  readonly #plan: FailurePlan & { readonly delay: number };
  readonly #clock: Clock;

  /** @param plan with the nanoseconds by which a late completion is late. */
  constructor(ats: AtsPort, plan: FailurePlan & { readonly delay: number }, clock: Clock) {
    this.#ats = ats;
    this.#plan = plan;
    this.#clock = clock;
  }

  get atsOut(): number {
    return this.#ats.atsOut;
  }
  get atsShift(): number {
    return this.#ats.atsShift;
  }
  get atsPerm(): number {
    return this.#ats.atsPerm;
  }
  get atsUntranslated(): boolean {
    return this.#ats.atsUntranslated;
  }
  get atsNoSnoop(): boolean {
    return this.#ats.atsNoSnoop;
  }

  translationRequest(rid: number, pasid: number, lo: number, hi: number, access: number): number {
    return this.#ats.translationRequest(rid, pasid, lo, hi, access);
  }

  invalidateCompletion(rid: number, itags: number, count: number): void {
    // All three are asked about for every completion, so that what one kind does moves no other one.
    const lost = this.#plan.fails(FAILURE_STEP.COMPLETION_LOST);
    const late = this.#plan.fails(FAILURE_STEP.COMPLETION_LATE);
    const twice = this.#plan.fails(FAILURE_STEP.COMPLETION_DOUBLED);
    if (lost) return;
    const complete = () => this.#ats.invalidateCompletion(rid, itags, count);
    if (late) this.#clock.after(this.#plan.delay, complete);
    else complete();
    if (!twice) return;
    if (late) this.#clock.after(this.#plan.delay, complete);
    else complete();
  }

  pageRequest(rid: number, pasid: number, lo: number, hi: number, access: number, group: number, last: boolean): void {
    this.#ats.pageRequest(rid, pasid, lo, hi, access, group, last);
  }
}
