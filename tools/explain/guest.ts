import type { RegisterTable } from '../../src/core/registers.ts';
import type { ReplayTarget } from '../../src/trace/index.ts';

/** Bits [at + count - 1 : at]. */
export function bits(w: bigint, at: number, count: number): number {
  return Number((w >> BigInt(at)) & ((1n << BigInt(count)) - 1n));
}

export function hex(v: number | bigint): string {
  return `0x${v.toString(16)}`;
}

/** Guest memory for listings: 64-bit words, null where there is no RAM. */
export class Guest {
  readonly #target: ReplayTarget;
  readonly #word = new Uint8Array(8);
  readonly #view = new DataView(this.#word.buffer);

  constructor(target: ReplayTarget) {
    this.#target = target;
  }

  q(gpa: number): bigint | null {
    return this.#target.load(gpa, this.#word) ? this.#view.getBigUint64(0, true) : null;
  }

  /** `count` words from `gpa` on. */
  words(gpa: number, count: number): bigint[] | null {
    const out: bigint[] = [];
    for (let n = 0; n < count; n++) {
      const w = this.q(gpa + 8 * n);
      if (w === null) return null;
      out.push(w);
    }
    return out;
  }

  register(offset: number, size: number): bigint {
    this.#target.read(offset, size);
    const lo = BigInt(this.#target.lo >>> 0);
    return size === 8 ? (BigInt(this.#target.hi >>> 0) << 32n) | lo : lo;
  }
}

/** A register as it reads, with its fields. */
export interface DecodedRegister {
  readonly name: string;
  /** Offset in the window (bytes). */
  readonly at: number;
  readonly value: bigint;
  readonly fields: readonly { readonly name: string; readonly value: number }[];
}

/** Registers of a table that lie in the window, as they read now. @param base of the table, @param limit size of the window. */
export function registersOf(guest: Guest, tableOf: RegisterTable, base: number, limit: number): DecodedRegister[] {
  return Object.entries(tableOf).flatMap(([name, r]) => {
    if (base + r.at + r.size > limit) return [];
    const value = guest.register(base + r.at, r.size);
    const fields = Object.entries(r.fields ?? {}).map(([f, [at, count]]) => ({
      name: f,
      value: bits(value, at, count),
    }));
    return [{ name, at: base + r.at, value, fields }];
  });
}

/** The registers that are not zero, with their fields that are not. */
export function registerLines(guest: Guest, tableOf: RegisterTable, base: number, limit: number): string[] {
  return registersOf(guest, tableOf, base, limit)
    .filter(({ value }) => value !== 0n)
    .map(({ name, value, fields }) => {
      const set = fields.filter((f) => f.value !== 0);
      const texts = set.map((f) => (f.value === 1 ? f.name : `${f.name}=${f.value < 10 ? f.value : hex(f.value)}`));
      return `  ${name.padEnd(16)} ${hex(value)}${texts.length === 0 ? '' : `  ${texts.join(' ')}`}`;
    });
}

/** One mapping of a table: `bytes` from `from` on lie at `to`. */
export interface Mapping {
  readonly from: bigint;
  readonly to: bigint;
  readonly bytes: bigint;
  readonly rights: string;
}

/** Joins neighbours that continue each other. */
export function joined(mappings: Iterable<Mapping>): Mapping[] {
  const out: Mapping[] = [];
  for (const m of mappings) {
    const last = out.at(-1);
    const follows = last !== undefined && last.from + last.bytes === m.from && last.to + last.bytes === m.to;
    if (follows && last.rights === m.rights) out[out.length - 1] = { ...last, bytes: last.bytes + m.bytes };
    else out.push(m);
  }
  return out;
}

/** A table's mappings as lines, at most `limit` of them. */
export function mappingLines(mappings: Iterable<Mapping>, limit: number, indent: string): string[] {
  const list = joined(mappings);
  const lines = list
    .slice(0, limit)
    .map((m) => `${indent}${hex(m.from)}..${hex(m.from + m.bytes - 1n)} -> ${hex(m.to)} ${m.rights}`);
  if (list.length > limit) lines.push(`${indent}and ${list.length - limit} more ranges (--all shows them)`);
  if (list.length === 0) lines.push(`${indent}nothing mapped`);
  return lines;
}
