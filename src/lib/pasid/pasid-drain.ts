/**
 * Who may still be working with a PASID that was given back: functions with queued work, page requests on their way. It is
 * given out again only when all of them are through.
 */
export interface PasidDrain {
  /**
   * @param pasid the host's name of it, as functions send it.
   * @param idle called once nothing of it is in flight: before this returns, or later.
   */
  drain(pasid: number, idle: () => void): void;
}

/** Nothing is ever in flight: functions that work synchronously. */
export const DRAINED: PasidDrain = { drain: (_pasid, idle) => idle() };
