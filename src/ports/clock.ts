/** Virtual time. Nothing in this package looks at the wall clock, so every run repeats exactly. */
export interface Clock {
  /** Nanoseconds since the machine was made. */
  now(): number;
  /**
   * Runs `action` after `delay` nanoseconds (≥ 0). A delay of 0 runs at the next `advance`, never inside this call.
   * @returns takes the action back if it has not run.
   */
  after(delay: number, action: () => void): () => void;
}
