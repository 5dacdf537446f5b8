import type { RootComplex } from '../../bus/root-complex.ts';
import type { Slot } from '../../bus/topology.ts';
import { Shell } from '../../devices/endpoints/shell.ts';
import { ViommuError } from '../core/errors.ts';

/** What can be packed: plain data out, the same plain data in. */
export interface Saved {
  save(): unknown;
  load(state: never): void;
}

/** A machine without its memory: that is the emulator's to save. */
export interface MachineState {
  readonly unit: unknown;
  /** By place: devfns from the root bus down, as `1c.0/00.0`. */
  readonly functions: Readonly<Record<string, unknown>>;
}

/** Where a function is plugged in, independent of bus numbers a guest may have changed. */
export function placeOf(slot: Slot): string {
  const own = `${(slot.devfn >>> 3).toString(16).padStart(2, '0')}.${slot.devfn & 7}`;
  return slot.bus.parent === null ? own : `${placeOf(slot.bus.parent)}/${own}`;
}

/** What saves a function: what it was plugged in with, else the function itself. Null: it keeps nothing worth saving. */
export function saverOf(slot: Slot, own: Saved | undefined): Saved | null {
  if (own !== undefined) return own;
  const fn = slot.fn as Partial<Saved>;
  return typeof fn.save === 'function' && typeof fn.load === 'function' ? (fn as Saved) : null;
}

/** State of every function below a complex. */
export function saveFunctions(
  complex: RootComplex,
  saver: (slot: Slot) => Saved | null,
): Readonly<Record<string, unknown>> {
  const out: Record<string, unknown> = {};
  for (const slot of complex.slots()) out[placeOf(slot)] = saver(slot)?.save() ?? null;
  return out;
}

/**
 * Gives every function its state back. Translation caches stay empty: the host makes its tables anew after a load, and
 * nothing cached may outlive the old ones.
 * @throws ViommuError `EINVAL` when other functions are plugged in than were saved; nothing is changed then.
 */
export function loadFunctions(
  complex: RootComplex,
  saver: (slot: Slot) => Saved | null,
  state: Readonly<Record<string, unknown>>,
): () => void {
  const slots = [...complex.slots()];
  const here = slots.map(placeOf).sort().join(' ');
  const saved = Object.keys(state).sort().join(' ');
  if (here !== saved) {
    throw new ViommuError('EINVAL', 'caller', `the state has functions at [${saved}], this machine at [${here}]`);
  }
  return () => {
    for (const slot of slots) {
      const own = state[placeOf(slot)];
      if (own !== null) saver(slot)?.load(own as never);
      if (slot.fn instanceof Shell) slot.fn.memory.atc.clear();
    }
    complex.generation++;
  };
}
