/** A submission queue of the guest (§4.1). `head` is ours, `tail` the guest's. */
export interface SubmissionQueue {
  readonly id: number;
  readonly entries: number;
  readonly lo: number;
  readonly hi: number;
  readonly cq: number;
  head: number;
  tail: number;
}

/** A completion queue. `tail` is ours, `head` the guest's. */
export interface CompletionQueue {
  readonly id: number;
  readonly entries: number;
  readonly lo: number;
  readonly hi: number;
  readonly vector: number;
  readonly interrupts: boolean;
  head: number;
  tail: number;
  phase: number;
}

/** Queue pairs a guest can have, the admin queue included. */
export const QUEUE_LIMIT = 9;

/** Asynchronous event requests that wait at once. */
export const EVENT_LIMIT = 4;

export function full(q: CompletionQueue): boolean {
  return (q.tail + 1) % q.entries === q.head;
}
