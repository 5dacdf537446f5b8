import { ViommuError } from '../src/core/errors.ts';
import { checkFormOf, type FormOf } from '../src/lib/saved/state-form.ts';
import type { Link } from './link.ts';
import { pathOf, type Slot } from './topology.ts';

/** A function's state, by its place. */
export interface SavedFunction {
  /** Devices and functions on each bus on the way down, as `1c.0/00.0`; before it the number of a root bus that is not 0. */
  readonly place: string;
  /** What the function saved; null: it saves nothing. */
  readonly state: unknown;
  /** INTA to INTD as the function drives them. */
  readonly pins: readonly boolean[];
  /** Another function brings it to life (a virtual function): nobody plugs it in before a load. */
  readonly spawned: boolean;
}

/** Saved state of a root complex: every function's, bridges before what is behind them, and the wires. */
export interface RootComplexState {
  readonly functions: readonly SavedFunction[];
  /** Pins that hold INTA to INTD up. */
  readonly lines: readonly number[];
}

/** Where a function is plugged in, whatever bus numbers a guest has given. */
export function placeOf(slot: Slot): string {
  const [root, ...devfns] = pathOf(slot);
  const way = devfns.map((d) => `${(d >>> 3).toString(16).padStart(2, '0')}.${d & 7}`).join('/');
  return root === 0 ? way : `${root!.toString(16)}:${way}`;
}

/** State of every function, in the order of `slots`. @param linkOf the way up of a function that is plugged in. */
export function saveFunctions(slots: Iterable<Slot>, linkOf: (slot: Slot) => Link): SavedFunction[] {
  return [...slots].map((slot) => ({
    place: placeOf(slot),
    state: slot.fn.save?.() ?? null,
    pins: linkOf(slot).savePins(),
    spawned: slot.spawned,
  }));
}

/** What a function saved is checked by that function. */
const FORM: FormOf<RootComplexState> = {
  members: {
    functions: {
      each: { members: { place: 'text', state: 'anything', pins: { each: 'boolean', length: 4 }, spawned: 'boolean' } },
    },
    lines: { each: { from: 0, to: 0x1_0000 }, length: 4 },
  },
};

/** @throws ViommuError `EINVAL` when a field is damaged, or other functions are plugged in than were saved. */
export function checkPlaces(slots: Iterable<Slot>, state: RootComplexState): void {
  checkFormOf<RootComplexState>(state, FORM, 'bus');
  const list = (places: string[]) => places.sort().join(' ');
  const here = list([...slots].filter((s) => !s.spawned).map(placeOf));
  const saved = list(state.functions.filter((f) => !f.spawned).map((f) => f.place));
  if (here === saved) return;
  const what = 'no function at a saved place, or one that was not saved';
  throw new ViommuError(
    'EINVAL',
    'caller',
    `${what}: the state has functions at [${saved}], this machine at [${here}]`,
  );
}
