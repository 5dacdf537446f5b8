import { ViommuError } from '../../core/errors.ts';

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

/** `given` has the members `own` has, of the same types. @param exact names of lists whose length is fixed. */
function checkForm(given: unknown, own: unknown, path: string, exact: readonly string[]): void {
  if (own === null || given === null) return;
  if (Array.isArray(own)) {
    if (!Array.isArray(given)) refuse('a saved state is damaged: no list', { at: path });
    const name = path.slice(path.lastIndexOf('.') + 1);
    if (exact.includes(name) && given.length !== own.length) {
      refuse('a saved state is damaged: a list has another length', {
        at: path,
        expected: String(own.length),
        found: String(given.length),
      });
    }
    for (const [i, entry] of given.entries()) if (own.length > 0) checkForm(entry, own[0], `${path}.${i}`, exact);
    return;
  }
  if (typeof given !== typeof own || (typeof given === 'number' && !Number.isFinite(given))) {
    refuse(`a saved state is damaged: ${typeof own} expected`, { at: path, found: String(given) });
  }
  if (typeof own !== 'object') return;
  for (const [key, member] of Object.entries(own)) {
    const value = (given as Readonly<Record<string, unknown>>)[key];
    if (value === undefined) refuse('a saved state is damaged: something is missing', { at: `${path}.${key}` });
    checkForm(value, member, `${path}.${key}`, exact);
  }
}

/**
 * Whether a device can go on from a saved state; it looks before anything is changed.
 * @param given what somebody wants to load. @param own the device's state now: its form is what a state must have.
 * @param exact names of lists whose length is fixed.
 * @throws ViommuError `EINVAL` the state is another kind's, of a device with other properties, or damaged; `E_VERSION` its form is
 *   another version's. The message says what differs.
 */
export function checkState(name: string, given: unknown, own: StateOrigin, exact: readonly string[]): void {
  if (typeof given !== 'object' || given === null) refuse(`${name}: no saved state`, { found: String(given) });
  const { iommu, version, identity } = given as Partial<StateOrigin>;
  if (iommu !== own.iommu) {
    refuse(`${name}: the state is another device's`, { expected: own.iommu, found: String(iommu) });
  }
  if (version !== own.version) {
    const at = { expected: String(own.version), found: String(version) };
    throw new ViommuError('E_VERSION', 'caller', `${name}: the state was saved by another version`, at);
  }
  checkForm(given, own, name, exact);
  const differs = own.identity.findIndex((word, i) => word !== identity![i]);
  if (differs >= 0 || identity!.length !== own.identity.length) {
    refuse(`${name}: the state is of a device with other properties: give this one the same`, {
      expected: sorted([own.identity[differs]! >>> 0]),
      found: sorted([identity![differs]! >>> 0]),
    });
  }
}

/**
 * The functions of a saved state are there. A machine may have them only after its bridges are loaded, so this comes later.
 * @throws ViommuError `EINVAL` otherwise; it names both.
 */
export function checkFunctions(name: string, given: StateOrigin, functions: readonly number[]): void {
  const [here, there] = [sorted(functions), sorted(given.functions)];
  if (here === there) return;
  refuse(`${name}: the state is of a machine with functions [${there}], this one has [${here}]: plug in the same`);
}
