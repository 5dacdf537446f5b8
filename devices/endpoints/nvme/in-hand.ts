import type { SubmissionQueue } from './queues.ts';
import type { StalledStep } from './stalls.ts';

/** What is to be done next for a command. Each can be done again from its beginning. */
export const STEP = { FETCH: 0, EXECUTE: 1, COMPLETE: 2 } as const;

/** The command in hand. */
export interface CommandInHand {
  readonly sq: SubmissionQueue;
  step: number;
  status: number;
  result: number;
}

/** A command whose access is stalled, as plain data. */
export interface NvmeWaiting {
  /** Submission queue. */
  readonly queue: number;
  /** What is done again: 0 its fetch, 1 its execution, 2 its completion. */
  readonly step: number;
  /** NVME_STATUS value of its completion. */
  readonly status: number;
  /** Dword 0 of its completion. */
  readonly result: number;
  /** Its words. */
  readonly sqe: readonly number[];
  /** The access that is stalled, and what was decided about others of the step. */
  readonly stall: StalledStep;
}
