import type { ReplayTarget } from '../../../src/trace/index.ts';

/** What an entry of a paging structure is. */
export type EntryKind = 'nothing' | 'table' | 'leaf';

/** A level of a paging structure. */
export interface PagingLevel {
  /** As the architecture calls it. */
  readonly name: string;
  /** log2 of the bytes an entry maps. */
  readonly shift: number;
  /** Entries of a table of this level. */
  readonly entries: number;
}

/** How the entries of a paging structure are read. */
export interface PagingFormat {
  kind(lo: number, hi: number, depth: number): EntryKind;
  /** Where the next table or the mapped range begins (bytes). */
  address(lo: number, hi: number, depth: number): number;
  /** What a leaf allows. */
  rights(lo: number, hi: number): string;
}

/** One translation structure of the guest: a tree of tables. */
export interface Paging {
  /** `TTB0`, `stage 2`, `first stage`, … */
  readonly what: string;
  /** Where its top table lies (bytes, as the structure above says). */
  readonly base: number;
  /** From the top. */
  readonly levels: readonly PagingLevel[];
  /** First input address. */
  readonly from: bigint;
  readonly format: PagingFormat;
  /** The stage that the addresses of its tables go through; null: they are guest-physical. */
  readonly through: Paging | null;
}

/** An entry that is not empty. */
export interface PagingEntry {
  readonly index: number;
  /** Where it lies in guest memory (bytes). */
  readonly at: number;
  readonly kind: EntryKind;
  /** First input address it stands for. */
  readonly input: bigint;
  readonly bytes: bigint;
  /** Where the next table or the range begins (bytes). */
  readonly to: number;
  readonly rights: string;
  readonly lo: number;
  readonly hi: number;
}

const ENTRY = 8;

/** Guest memory, read in words of 32 bits. */
export class Words {
  readonly #target: ReplayTarget;

  constructor(target: ReplayTarget) {
    this.#target = target;
  }

  /** `count` words from `at` on (bytes); null where there is no RAM. */
  read(at: number, count: number): Int32Array | null {
    const words = new Int32Array(count);
    return this.#target.load(at, new Uint8Array(words.buffer)) ? words : null;
  }

  /** A register of 4 or 8 bytes, as words. */
  register(offset: number, size: 4 | 8): readonly [number, number] {
    this.#target.read(offset, size);
    return [this.#target.lo | 0, size === 8 ? this.#target.hi | 0 : 0];
  }
}

/** Where an address given by a structure lies in guest memory; -1: the stage it goes through does not map it. */
export function placed(words: Words, paging: Paging, address: number): number {
  return paging.through === null ? address : lookup(words, paging.through, BigInt(address));
}

/** Where a structure sends an input address; -1: nowhere. */
export function lookup(words: Words, paging: Paging, input: bigint): number {
  let table = paging.base;
  for (const [depth, level] of paging.levels.entries()) {
    const index = Number((input - paging.from) >> BigInt(level.shift));
    if (depth === 0 && index >= level.entries) return -1;
    const at = placed(words, paging, table + (depth === 0 ? index : index % level.entries) * ENTRY);
    const w = at < 0 ? null : words.read(at, 2);
    if (w === null) return -1;
    const kind = paging.format.kind(w[0]!, w[1]!, depth);
    if (kind === 'nothing') return -1;
    table = paging.format.address(w[0]!, w[1]!, depth);
    if (kind === 'leaf') return table + Number(input & ((1n << BigInt(level.shift)) - 1n));
  }
  return -1;
}

/** The entries of one table that are not empty, in ascending order. @param table where it lies, as the entry above says. */
export function entriesOf(words: Words, paging: Paging, depth: number, table: number, from: bigint): PagingEntry[] {
  const level = paging.levels[depth];
  if (level === undefined) return [];
  const at = placed(words, paging, table);
  const w = at < 0 ? null : words.read(at, level.entries * 2);
  if (w === null) return [];
  const found: PagingEntry[] = [];
  for (let index = 0; index < level.entries; index++) {
    const lo = w[2 * index]!;
    const hi = w[2 * index + 1]!;
    const kind = paging.format.kind(lo, hi, depth);
    if (kind === 'nothing') continue;
    found.push({
      index,
      at: at + index * ENTRY,
      kind,
      input: from + (BigInt(index) << BigInt(level.shift)),
      bytes: 1n << BigInt(level.shift),
      to: paging.format.address(lo, hi, depth),
      rights: kind === 'leaf' ? paging.format.rights(lo, hi) : '',
      lo,
      hi,
    });
  }
  return found;
}

/** A guest can build tables that loop; nobody reads more tables of one structure than this. */
const MOST_TABLES = 4096;

/** Leaves of a structure in ascending order. */
export function* leavesOf(words: Words, paging: Paging): Generator<PagingEntry> {
  let budget = MOST_TABLES;
  function* table(depth: number, at: number, from: bigint): Generator<PagingEntry> {
    if (budget-- <= 0) return;
    for (const e of entriesOf(words, paging, depth, at, from)) {
      if (e.kind === 'leaf') yield e;
      else yield* table(depth + 1, e.to, e.input);
    }
  }
  yield* table(0, paging.base, paging.from);
}

/** A range of input addresses that lies in one piece. */
export interface MappedRange {
  readonly from: bigint;
  readonly to: number;
  readonly bytes: bigint;
  readonly rights: string;
  /** Where its first entry lies (bytes). */
  readonly at: number;
}

/** Joins leaves that continue each other. */
export function rangesOf(leaves: Iterable<PagingEntry>): MappedRange[] {
  const out: MappedRange[] = [];
  for (const e of leaves) {
    const last = out.at(-1);
    const follows = last !== undefined && last.from + last.bytes === e.input && last.to + Number(last.bytes) === e.to;
    if (follows && last.rights === e.rights) out[out.length - 1] = { ...last, bytes: last.bytes + e.bytes };
    else out.push({ from: e.input, to: e.to, bytes: e.bytes, rights: e.rights, at: e.at });
  }
  return out;
}
