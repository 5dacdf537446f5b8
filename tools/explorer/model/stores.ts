import type { TraceEvent } from '../../../src/trace/index.ts';

const PAGE = 4096;

/** Whether an event gave `bytes` bytes of guest memory at `at`, or some of them, their content. */
export function touches(e: TraceEvent, at: number, bytes: number): boolean {
  if (e.t === 'st') return e.gpa < at + bytes && e.gpa + e.size > at;
  if (e.t === 'page') return e.gpa < at + bytes && e.gpa + PAGE > at;
  return false;
}

/** Number of the last event before `n` that stored to one of `bytes` bytes at `at`; -1: none. */
export function lastStore(events: readonly TraceEvent[], n: number, at: number, bytes: number): number {
  for (let i = Math.min(n, events.length) - 1; i >= 0; i--) if (touches(events[i]!, at, bytes)) return i;
  return -1;
}
