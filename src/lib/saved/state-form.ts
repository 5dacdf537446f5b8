import { ViommuError } from '../../core/errors.ts';

/** An integer of a saved state. */
export interface IntegerForm {
  /** The least and the greatest value. */
  readonly from: number;
  readonly to: number;
  /** It is a multiple of this. */
  readonly step?: number;
  /** Whether it may be this one of the range. Default: each. */
  readonly fits?: (value: number) => boolean;
}

/** A list of a saved state. */
export interface ListForm<T> {
  /** Of each entry, or of the one at an index. */
  readonly each: T | ((index: number) => T);
  /** How many entries there are. */
  readonly length?: number;
  /** How many there are at most. */
  readonly most?: number;
  /** Their number is a multiple of this. */
  readonly groups?: number;
}

/** What a saved value of type `T` must look like: a member without a form does not compile. */
export type FormOf<T> = unknown extends T
  ? 'anything'
  : null extends T
    ? { readonly orNull: FormOf<Exclude<T, null>> }
    : [T] extends [boolean]
      ? 'boolean'
      : [T] extends [number]
        ? IntegerForm
        : [T] extends [string]
          ? string extends T
            ? 'text'
            : { readonly words: readonly string[] }
          : [T] extends [readonly (infer E)[]]
            ? ListForm<FormOf<E>>
            : { readonly members: { readonly [K in keyof T]-?: FormOf<T[K]> } };

/** A form whose type is not known. */
type AnyForm =
  | 'anything'
  | 'text'
  | 'boolean'
  | IntegerForm
  | { readonly orNull: unknown }
  | { readonly words: readonly string[] }
  | ListForm<unknown>
  | { readonly members: Readonly<Record<string, unknown>> };

/** A register word, signed. */
export const WORD: IntegerForm = { from: -(2 ** 31), to: 2 ** 31 - 1 };

/** A word of 32 bits, unsigned. */
export const UNSIGNED: IntegerForm = { from: 0, to: 2 ** 32 - 1 };

/** A word of which only some bits can be set, signed. */
export function bits(mask: number): IntegerForm {
  return { ...WORD, fits: (word) => (word & ~mask) === 0 };
}

/** An address of 64 bits that is a multiple of 4096. */
export const PAGE_ADDRESS: IntegerForm = { from: 0, to: 2 ** 64 - 4096, step: 4096 };

/** A count of things that happened. */
export const COUNT: IntegerForm = { from: 0, to: Number.MAX_SAFE_INTEGER };

/** This value and no other. */
export function only(value: number): IntegerForm {
  return { from: value, to: value };
}

/** 0, or a power of two in a range. */
export function powerOrZero(least: number, most: number): IntegerForm {
  return { from: 0, to: most, fits: (n) => n === 0 || (n >= least && 2 ** Math.round(Math.log2(n)) === n) };
}

/** Refuses a saved state because of one field. @param path of the field, from the device's name on. @throws ViommuError always. */
export function refuseField(path: string, value: unknown, expected: string): never {
  const plain = typeof value === 'number' || typeof value === 'boolean';
  const found = plain ? value : typeof value === 'string' ? `'${value.slice(0, 40)}'` : kindOf(value);
  throw new ViommuError('EINVAL', 'caller', 'a saved state is damaged', { at: path, found, expected });
}

/** @throws ViommuError `EINVAL` the first field of `value` that is not as `form` says, with its path and value. */
export function checkFormOf<T>(value: unknown, form: FormOf<T>, path: string): void {
  check(value, form as AnyForm, path);
}

function check(value: unknown, form: AnyForm, path: string): void {
  if (form === 'anything') return;
  if (form === 'boolean') {
    if (typeof value !== 'boolean') refuseField(path, value, 'a boolean');
  } else if (form === 'text') {
    if (typeof value !== 'string') refuseField(path, value, 'a text');
  } else if ('orNull' in form) {
    if (value !== null) check(value, form.orNull as AnyForm, path);
  } else if ('words' in form) {
    if (!form.words.includes(value as string)) refuseField(path, value, `one of ${form.words.join(', ')}`);
  } else if ('members' in form) {
    members(value, form.members, path);
  } else if ('each' in form) {
    list(value, form, path);
  } else {
    integer(value, form, path);
  }
}

function integer(value: unknown, { from, to, step, fits }: IntegerForm, path: string): void {
  const good = typeof value === 'number' && Number.isInteger(value) && !Object.is(value, -0);
  if (good && value >= from && value <= to && value % (step ?? 1) === 0 && (fits?.(value) ?? true)) return;
  const range = from === to ? `${from}` : `an integer from ${from} to ${to}`;
  refuseField(path, value, step === undefined ? range : `${range}, a multiple of ${step}`);
}

function list(value: unknown, { each, length, most, groups }: ListForm<unknown>, path: string): void {
  if (!Array.isArray(value)) refuseField(path, value, 'a list');
  const n = value.length;
  if (length !== undefined && n !== length) refuseField(`${path}.length`, n, `${length} entries`);
  if (most !== undefined && n > most) refuseField(`${path}.length`, n, `at most ${most} entries`);
  if (groups !== undefined && n % groups !== 0) refuseField(`${path}.length`, n, `a multiple of ${groups} entries`);
  for (let i = 0; i < n; i++) check(value[i], (typeof each === 'function' ? each(i) : each) as AnyForm, `${path}.${i}`);
}

function members(value: unknown, forms: Readonly<Record<string, unknown>>, path: string): void {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) refuseField(path, value, 'an object');
  const given = value as Readonly<Record<string, unknown>>;
  for (const key of Object.keys(given)) {
    if (!Object.hasOwn(forms, key)) refuseField(`${path}.${key.slice(0, 40)}`, given[key], 'no such field');
  }
  for (const [key, form] of Object.entries(forms)) {
    if (!Object.hasOwn(given, key) || given[key] === undefined) refuseField(`${path}.${key}`, undefined, 'the field');
    check(given[key], form as AnyForm, `${path}.${key}`);
  }
}

function kindOf(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null';
  return Array.isArray(value) ? 'a list' : typeof value === 'object' ? 'an object' : typeof value;
}
