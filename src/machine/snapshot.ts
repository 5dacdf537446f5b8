import type { RootComplex } from '../../bus/root-complex.ts';
import { pathOf, type Slot } from '../../bus/topology.ts';
import { Shell } from '../../devices/endpoints/shell.ts';
import { ViommuError } from '../core/errors.ts';

/** A machine without its memory: that is the emulator's to save. */
export interface MachineState {
  readonly unit: unknown;
  /** By place: devfns from the root bus down, as `1c.0/00.0`. */
  readonly functions: Readonly<Record<string, unknown>>;
}

function placeOf(slot: Slot): string {
  const devfns = pathOf(slot).slice(1);
  return devfns.map((d) => `${(d >>> 3).toString(16).padStart(2, '0')}.${d & 7}`).join('/');
}

/** State of every function below a complex. */
export function saveFunctions(complex: RootComplex): Readonly<Record<string, unknown>> {
  const out: Record<string, unknown> = {};
  for (const slot of complex.slots()) out[placeOf(slot)] = slot.fn.save?.() ?? null;
  return out;
}

/**
 * Gives every function its state back. Translation caches stay empty: the host makes its tables anew after a load, and
 * nothing cached may outlive the old ones.
 * @throws ViommuError `EINVAL` when other functions are plugged in than were saved; nothing is changed then.
 */
export function loadFunctions(complex: RootComplex, state: Readonly<Record<string, unknown>>): () => void {
  const slots = [...complex.slots()];
  const here = slots.map(placeOf).sort().join(' ');
  const saved = Object.keys(state).sort().join(' ');
  if (here !== saved) {
    throw new ViommuError('EINVAL', 'caller', `the state has functions at [${saved}], this machine at [${here}]`);
  }
  return () => {
    for (const slot of slots) {
      const own = state[placeOf(slot)];
      if (own !== null) slot.fn.load?.(own);
      if (slot.fn instanceof Shell) slot.fn.memory.atc.clear();
    }
    complex.generation++;
  };
}
