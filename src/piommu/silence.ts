import type { HwEvents } from '../ports/hw.ts';

/** Interrupts of hardware that no kernel listens to: nothing is installed, nothing is read. */
export const SILENCE: HwEvents = {
  streamMiss: () => false,
  stageTwoMiss: () => false,
  fault() {},
  pageRequest() {},
  completed() {},
};
