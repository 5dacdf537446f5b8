import { ViommuError } from '../src/core/errors.ts';
import { checkFormOf, type FormOf, refuseField } from '../src/lib/saved/state-form.ts';
import type { PciFunction } from '../src/ports/pci.ts';
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

/** A place that is `offset` requester ids behind a function's, on the same bus; null: that is another bus. */
function placeBehind(slot: Slot, offset: number): string | null {
  const devfn = slot.devfn + offset;
  if (devfn > 0xff) return null;
  const place = placeOf(slot);
  const cut = Math.max(place.lastIndexOf('/'), place.lastIndexOf(':')) + 1;
  return `${place.slice(0, cut)}${(devfn >>> 3).toString(16).padStart(2, '0')}.${devfn & 7}`;
}

/**
 * Every function takes its state, functions that others bring to life are those that they will bring to life, and the lines
 * are held up by the pins.
 * @param line which line pin 1 to 4 of a function ends at.
 * @throws ViommuError `EINVAL` names the field that does not fit.
 */
export function checkSavedFunctions(
  slots: readonly Slot[],
  state: RootComplexState,
  line: (slot: Slot, pin: number) => number,
): void {
  const here = new Map(slots.filter((s) => !s.spawned).map((s) => [placeOf(s), s]));
  const spawned = new Map<string, PciFunction>();
  const lines = [0, 0, 0, 0];
  let known = true;
  state.functions.forEach((f, i) => {
    const slot = f.spawned ? undefined : here.get(f.place);
    if (slot === undefined) return;
    const path = `bus.functions.${i}`;
    const { fn } = slot;
    checkFunction(fn, f.state, `${path}.state`);
    f.pins.forEach((up, pin) => {
      if (up) lines[line(slot, pin + 1)]!++;
    });
    known &&= fn.respawn === undefined || fn.spawnedBy !== undefined;
    for (const v of fn.spawnedBy?.(f.state) ?? []) {
      const place = placeBehind(slot, v.offset);
      if (place !== null) spawned.set(place, v.fn);
    }
  });
  const plugged = new Set(state.functions.filter((f) => !f.spawned).map((f) => f.place));
  for (const place of plugged) spawned.delete(place);
  state.functions.forEach((f, i) => {
    if (!f.spawned) return;
    const path = `bus.functions.${i}`;
    const fn = spawned.get(f.place);
    if (fn !== undefined) checkFunction(fn, f.state, `${path}.state`);
    else if (known) refuseField(`${path}.place`, f.place, 'a place of a virtual function, and only once');
    spawned.delete(f.place);
    const pin = f.pins.indexOf(true);
    if (pin >= 0) refuseField(`${path}.pins.${pin}`, true, 'false: a virtual function has no pins');
  });
  const [missing] = spawned.keys();
  if (missing !== undefined) refuseField('bus.functions', state.functions, `one at ${missing}, a virtual function`);
  lines.forEach((n, i) => {
    const given = state.lines[i]!;
    if (given !== n) refuseField(`bus.lines.${i}`, given, `${n}, by the pins of bus.functions`);
  });
}

function checkFunction(fn: PciFunction, state: unknown, path: string): void {
  if ((fn.save === undefined) !== (state === null)) {
    refuseField(path, state, fn.save === undefined ? 'null: the function saves nothing' : 'what the function saved');
  }
  if (state !== null) fn.checkState?.(state, path);
}
