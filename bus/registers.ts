import type { Slot } from './topology.ts';

/** A read of a function's registers through its gate. @returns unsigned; all ones when it lets nobody in. */
export function readBar(slot: Slot, bar: number, offset: number, size: number): number {
  if (!slot.gate.enter()) return 2 ** (8 * size) - 1;
  try {
    return slot.fn.barRead(bar, offset, size) >>> 0;
  } finally {
    slot.gate.leave();
  }
}

/** A write of a function's registers through its gate. @returns false: it lets nobody in. */
export function writeBar(slot: Slot, bar: number, offset: number, size: number, value: number): boolean {
  if (!slot.gate.enter()) return false;
  try {
    slot.fn.barWrite(bar, offset, size, value);
  } finally {
    slot.gate.leave();
  }
  return true;
}
