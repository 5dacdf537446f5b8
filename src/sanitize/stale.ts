import { POW2 } from '../core/bits.ts';

/** Why a cached entry is not what the tables say any more. */
export const STALE = {
  /** The mapping is gone from the tables. */
  UNMAPPED: 0,
  /** Another mapping stands in its place. */
  REPLACED: 1,
  /** The same output with fewer permissions. */
  LOWERED: 2,
  /** The same output with more permissions. */
  RAISED: 3,
  /** Nothing was mapped, which hardware in caching mode may cache as well. */
  ABSENT: 4,
} as const;

/** One entry that hardware may still hold although the tables say something else. */
export interface StaleEntry {
  readonly why: number;
  /** Page number of the first input address, and log2 bytes of the input addresses it stands for. */
  readonly base: number;
  readonly shift: number;
  /** log2 bytes of the leaf that a level hint names; of both stages together that of the first one. */
  readonly level: number;
  /** log2 bytes of the granule of the tables it is of. */
  readonly granule: number;
  /** Of both stages together: the intermediate page; -1: it is of one stage. */
  readonly middle: number;
  /** It points to a table: what walks through it reach is stale as well. */
  readonly table: boolean;
  /** Page number of the output, or of the table. */
  readonly out: number;
  /** ACCESS bits. */
  readonly perm: number;
  /** Invalidations by address-space id do not reach it. */
  readonly global: boolean;
  /** Number of the event that changed the tables, and of the submission it was before. */
  readonly event: number;
  readonly batch: number;
  readonly completions: number;
  /** How many invalidations by address the tag had seen. */
  readonly ranged: number;
  /** Sequence number of the invalidation that covers it; -1: none was issued. */
  seq: number;
  /** Number of the event that issued it, and of the submission it was in. */
  issued: number;
  issuedBatch: number;
  /** A table: an invalidation that reaches walk caches named an address below it. */
  walked: boolean;
  /** A table: which of its 512 parts an invalidation named; null: none (or, with `below`, all). */
  parts: Uint32Array | null;
  /** A table: nothing below it is cached any more. */
  below: boolean;
  /** It was told late: what was issued between change and telling is not known to come after the change. */
  readonly late: boolean;
  /** It is no longer cached. */
  done: boolean;
  /** A function's copy: what the IOMMU may hold of the same entry. */
  readonly twin: StaleEntry | null;
  /** A function's copy: the event that told it to forget too early; -1: none. */
  early: number;
  /** The new entry took its place before anything was invalidated: what to say when that is. */
  unbroken: ((issued: number) => void) | null;
}

/** An invalidation of translations, as both architectures can say it. */
export interface SeenInvalidation {
  event: number;
  batch: number;
  /** Position in the order in which the queue (or a register) takes invalidations. */
  seq: number;
  /** Bit s: it reaches translations of stage kind s. */
  stages: number;
  /** VMID or domain id, and ASID or PASID; -1: any. */
  a: number;
  b: number;
  /** First and last page number; 0 and Infinity: everything. */
  from: number;
  to: number;
  /** Only the last level of a walk is reached. */
  leafOnly: boolean;
  /** It is said to be at this level (log2 bytes), and in tables of this granule (log2 bytes); 0: at any, in any. */
  shift: number;
  granule: number;
  /** Global entries stay. */
  keepsGlobal: boolean;
  /** How many stale entries it reached, and the first and last event that made them. */
  reached: number;
  firstEvent: number;
  lastEvent: number;
  /** An entry it was meant for was found that it did not reach. */
  missed: boolean;
}

/** An invalidation of everything under a tag; to be narrowed. */
export function wholeInvalidation(seq: number, stages: number, a: number, b: number): SeenInvalidation {
  return {
    event: 0,
    batch: 0,
    seq,
    stages,
    a,
    b,
    from: 0,
    to: Number.POSITIVE_INFINITY,
    leafOnly: false,
    shift: 0,
    granule: 0,
    keepsGlobal: false,
    reached: 0,
    firstEvent: 0,
    lastEvent: 0,
    missed: false,
  };
}

export function isWhole(i: SeenInvalidation): boolean {
  return i.from === 0 && i.to === Number.POSITIVE_INFINITY;
}

/** The stale entries of one tag, by size and address. */
export class StaleSet {
  /** [log2 bytes, tables?] of the maps in `#maps`. */
  readonly #kinds: { readonly shift: number; readonly table: boolean; readonly map: Map<number, StaleEntry> }[] = [];
  size = 0;

  add(e: StaleEntry): void {
    const map = this.#map(e.shift, e.table);
    if (!map.has(e.base)) this.size++;
    map.set(e.base, e);
  }

  delete(e: StaleEntry): void {
    const map = this.#map(e.shift, e.table);
    if (map.get(e.base) !== e) return;
    map.delete(e.base);
    this.size--;
  }

  get(base: number, shift: number, table: boolean): StaleEntry | undefined {
    return this.#map(shift, table).get(base);
  }

  clear(): void {
    for (const k of this.#kinds) k.map.clear();
    this.size = 0;
  }

  #map(shift: number, table: boolean): Map<number, StaleEntry> {
    for (const k of this.#kinds) if (k.shift === shift && k.table === table) return k.map;
    const map = new Map<number, StaleEntry>();
    this.#kinds.push({ shift, table, map });
    return map;
  }

  /** Calls `each` for every entry that overlaps the pages [from, to]: as many steps as there are entries or pages, the fewer. */
  overlapping(from: number, to: number, each: (e: StaleEntry) => void): void {
    if (this.size === 0) return;
    for (const k of this.#kinds) {
      if (k.map.size === 0) continue;
      const pages = POW2[k.shift - 12]!;
      const first = from - (from % pages);
      if ((to - first) / pages < k.map.size) {
        for (let base = first; base <= to; base += pages) {
          const e = k.map.get(base);
          if (e !== undefined) each(e);
        }
      } else for (const e of k.map.values()) if (e.base <= to && e.base + pages > from) each(e);
    }
  }

  /** The stale leaf that hardware would use for page `page`, and the output page it gives; undefined: none. */
  leafAt(page: number): StaleEntry | undefined {
    if (this.size === 0) return undefined;
    for (const k of this.#kinds) {
      if (k.table || k.map.size === 0) continue;
      const e = k.map.get(page - (page % POW2[k.shift - 12]!));
      if (e !== undefined) return e;
    }
    return undefined;
  }

  all(each: (e: StaleEntry) => void): void {
    for (const k of this.#kinds) for (const e of k.map.values()) each(e);
  }
}
