/** Reading the lines of QEMU's log. */

export const hex = (value: number | bigint): string => `0x${value.toString(16)}`;

/** The number after `name=`, `name:` or `name `; a line without it is not of the form that is known. */
export function number(line: string, name: string): bigint {
  const found = new RegExp(`\\b${name}[=: ]\\s*(0x[0-9a-fA-F]+|-?\\d+)`).exec(line)?.[1];
  if (found === undefined) throw new Unreadable(`no ${name} in "${line.slice(0, 120)}"`);
  return BigInt(found);
}

/** The same, of numbers that are small. */
export const small = (line: string, name: string): number => Number(number(line, name));

/** A line does not have the form that QEMU 9.2 to 11 give its event. */
export class Unreadable extends Error {}

export const PERMS = ['', 'r', 'w', 'rw'] as const;
/** Fields of a translation that lines before it have told. */
export type Told = { [field: string]: string | number };
