import type { Course } from './course.ts';

/** The rule about the order in which ATS is switched on and off, in the function and in the IOMMU (PCIe ATS §10.2; IHI 0070 §3.9.2; VT-d §4.2). */
export class AtsOrder {
  readonly #course: Course;
  /** ATS is on for the stream, as the IOMMU is told. */
  readonly #allowed: (stream: number) => boolean;
  /** Functions whose ATS is on, and the event that made it so. */
  readonly #on = new Map<number, number>();

  #told = false;

  constructor(course: Course, allowed: (stream: number) => boolean) {
    this.#course = course;
    this.#allowed = allowed;
  }

  /** ATS was switched in the function. */
  function(stream: number, on: boolean): void {
    const { event } = this.#course;
    this.#told = true;
    if (!on) this.#on.delete(stream);
    else {
      this.#on.set(stream, event);
      if (!this.#allowed(stream))
        this.#found(
          stream,
          'function',
          [event],
          'ATS was switched on in the function before the IOMMU allows it: the IOMMU first, then the function',
        );
    }
  }

  /** @param any some stream may use ATS. */
  finish(any: boolean): void {
    if (any && !this.#told)
      this.#course.findings.cannotJudge(
        'ats-order',
        'configuration space was not recorded: only what the IOMMU refused was judged',
      );
  }

  /** The IOMMU's entry of the stream was changed, and does not allow ATS any more. */
  forbidden(stream: number): void {
    const since = this.#on.get(stream);
    if (since === undefined) return;
    this.#found(
      stream,
      'entry',
      [since, this.#course.event],
      'ATS was switched off in the IOMMU while it is on in the function: the function first, its invalidation, then the IOMMU',
    );
  }

  /** The IOMMU refused what only a function with ATS on sends. */
  refused(stream: number): void {
    this.#found(
      stream,
      'request',
      [this.#course.event],
      'the function used ATS although the IOMMU does not allow it for the stream: switch it off in the function first',
    );
  }

  #found(stream: number, kind: string, events: readonly number[], message: string): void {
    this.#course.findings.add('ats-order', { stream, kind, events, message });
  }
}
