import { ViommuError } from '../../core/errors.ts';

/** What a property of a device may be. Numbers are whole; a list of values is all there are. */
export type PropertyRule =
  | 'text'
  | 'switch'
  | { readonly min: number; readonly max: number }
  | { readonly values: readonly (string | number)[] };

/** Each property of a device with its rule, under the name of its field. */
export type PropertyRules<P> = { readonly [K in keyof P]-?: PropertyRule };

/** A device's properties as its owner orders them. */
export interface PropertyTable<P> {
  /** The device in QEMU's words. */
  readonly device: string;
  /** What gives a complete set to change single properties of. */
  readonly defaults: string;
  readonly rules: PropertyRules<P>;
  /** What a field is called on a command line, where that is not the field's own name. */
  readonly spelled: Readonly<Record<string, string>>;
}

/** A field's name on a command line: the name QEMU's users know. */
export function spelledOf<P>(table: PropertyTable<P>, field: string): string {
  return table.spelled[field] ?? field;
}

/** @throws ViommuError `E_PROFILE`: a property has a value it cannot have; it names both, what is possible, and the device. */
export function refuseProperty<P>(table: PropertyTable<P>, field: string, value: unknown, want: string): never {
  const name = spelledOf(table, field);
  throw new ViommuError('E_PROFILE', 'caller', `${table.device}: property '${name}' ${want}`, { value: shown(value) });
}

function shown(value: unknown): string {
  return typeof value === 'string' ? `'${value}'` : String(value);
}

/** What a rule wants that a value is not; null: it is that. */
function wanted(rule: PropertyRule, value: unknown): string | null {
  if (rule === 'text') return typeof value === 'string' ? null : 'is a text';
  if (rule === 'switch') return typeof value === 'boolean' ? null : 'is true or false (on or off)';
  if ('values' in rule) {
    return rule.values.includes(value as string | number) ? null : `must be ${rule.values.join(', ')}`;
  }
  const { min, max } = rule;
  const fits = typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max;
  return fits ? null : `is a number from ${min} to ${max}`;
}

/**
 * Holds a set of properties against a device's rules, one by one.
 * @throws ViommuError `E_PROFILE` (blame `caller`): one is missing, is none of the device's, or has a value it cannot have. The
 *   message names property, value, what is possible and where to get it.
 */
export function checkProperties<P extends object>(table: PropertyTable<P>, properties: P): void {
  const { device, defaults, rules } = table;
  const given = properties as Readonly<Record<string, unknown>>;
  for (const field of Object.keys(given)) {
    if (Object.hasOwn(rules, field)) continue;
    const known = Object.keys(rules).join(', ');
    throw new ViommuError('E_PROFILE', 'caller', `${device} has no property '${field}'; it has ${known}`, {
      value: shown(given[field]),
    });
  }
  for (const [field, rule] of Object.entries<PropertyRule>(rules)) {
    if (given[field] === undefined) {
      const remedy = `is missing: take it from ${defaults}`;
      throw new ViommuError('E_PROFILE', 'caller', `${device}: property '${spelledOf(table, field)}' ${remedy}`);
    }
    const want = wanted(rule, given[field]);
    if (want !== null) refuseProperty(table, field, given[field], want);
  }
}
