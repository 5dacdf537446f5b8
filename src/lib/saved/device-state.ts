import { ViommuError } from '../../core/errors.ts';
import { checkFormOf, type FormOf } from './state-form.ts';

/** What the saved state of a device says about the machine it was saved on. */
export interface StateOrigin {
  /** Kind of IOMMU. */
  readonly iommu: string;
  /** Of the state's form. */
  readonly version: number;
  /** Words of the identification registers. */
  readonly identity: readonly number[];
  /** Requester ids (StreamIDs) of the functions behind it. */
  readonly functions: readonly number[];
}

function refuse(what: string, at: Readonly<Record<string, string>> = {}): never {
  throw new ViommuError('EINVAL', 'caller', what, at);
}

function sorted(list: readonly number[]): string {
  return [...list]
    .sort((a, b) => a - b)
    .map((n) => `0x${n.toString(16)}`)
    .join(' ');
}

/**
 * Whether a device can go on from a saved state; it looks before anything is changed.
 * @param given what somebody wants to load. @param own the device's state now. @param form what each field may hold.
 * @throws ViommuError `EINVAL` the state is another kind's, of a device with other properties, or damaged; `E_VERSION` its form is
 *   another version's. The message says which field differs, and how.
 */
export function checkState<T extends StateOrigin>(name: string, given: unknown, own: T, form: FormOf<T>): void {
  if (typeof given !== 'object' || given === null)
    refuse(`${name}: no saved state`, { at: name, found: String(given) });
  const { iommu, version, identity } = given as Partial<StateOrigin>;
  if (iommu !== own.iommu) {
    const at = { at: `${name}.iommu`, expected: own.iommu, found: String(iommu) };
    refuse(`${name}: the state is another device's`, at);
  }
  if (version !== own.version) {
    const at = { at: `${name}.version`, expected: String(own.version), found: String(version) };
    const what = `${name}: the state has another version: this package loads version ${own.version}`;
    throw new ViommuError('E_VERSION', 'caller', what, at);
  }
  const differs = Array.isArray(identity) ? own.identity.findIndex((word, i) => word !== identity[i]) : -1;
  if (differs >= 0 && typeof identity![differs] === 'number') {
    refuse(`${name}: the state is of a device with other properties: give this one the same`, {
      at: `${name}.identity.${differs}`,
      expected: sorted([own.identity[differs]! >>> 0]),
      found: sorted([identity![differs]! >>> 0]),
    });
  }
  checkFormOf(given, form, name);
}

/**
 * The functions of a saved state are there. A machine may have them only after its bridges are loaded, so this comes later.
 * @throws ViommuError `EINVAL` otherwise; it names both.
 */
export function checkFunctions(name: string, given: StateOrigin, functions: readonly number[]): void {
  const [here, there] = [sorted(functions), sorted(given.functions)];
  if (here === there) return;
  refuse(`${name}: the state is of a machine with functions [${there}], this one has [${here}]: plug in the same`, {
    at: `${name}.functions`,
  });
}
