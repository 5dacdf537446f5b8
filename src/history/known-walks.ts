import type { FaultEvent, IommuKind, ReplayTarget, XlatEvent } from '../trace/index.ts';
import { type GuestWalk, type StepPool, stepPool, WalkedTables, type WalkStep } from './walk.ts';
import { walkSmmuv3Tables } from './walk-smmuv3.ts';
import { walkVtdTables } from './walk-vtd.ts';

/** Stores are remembered by aligned 8 bytes: the size of most entries of tables, and the unit of the smallest. */
const UNIT = 8;
const PAGE_BYTES = 4096;
/** Walks that are remembered at most; a guest decides how many there are. */
const MOST_WALKS = 4096;

/** The walk there is when guest memory was not recorded. */
export const NO_MEMORY: GuestWalk = { steps: [], out: -1, perm: 0, end: 'guest memory was not recorded' };

/** A walk that was made, as long as it holds: until somebody stores to an entry on it, or writes a register that may matter. */
export interface KnownWalk {
  /** Where the entries lie: address, bytes, address, bytes, … */
  readonly entries: readonly number[];
  /** See `GuestWalk.end`. */
  readonly end: string;
  /** The last store to any of the entries; -1: none is known. */
  readonly cause: number;
  /** Register writes that may matter, when it was made. */
  readonly writes: number;
}

/** Who stored to guest memory last, and the ways of accesses through the guest's tables with the last store to each. */
export class KnownWalks {
  readonly #kind: IommuKind;
  /** Null: nothing is replayed. */
  readonly #target: ReplayTarget | null;
  /** Last moment that stored to each unit of guest memory; of each page, that gave all of it. */
  readonly #stores = new Map<number, number>();
  readonly #pages = new Map<number, number>();
  /** Walks of accesses, by stream and page. */
  readonly #walks = new Map<number, Map<number, KnownWalk>>();
  #walkCount = 0;
  /** Resets, and register writes that may lead accesses elsewhere, so far. */
  #writes = 0;
  /** Entries of the walk at hand are read into these: only their places are kept. */
  readonly #pool: StepPool = stepPool();

  constructor(kind: IommuKind, target: ReplayTarget | null) {
    this.#kind = kind;
    this.#target = target;
  }

  /** Moment `n` stored `bytes` bytes at `gpa`. */
  stored(gpa: number, bytes: number, n: number): void {
    if (gpa % UNIT === 0 && bytes === UNIT) this.#stores.set(gpa / UNIT, n);
    else for (let at = Math.floor(gpa / UNIT); at * UNIT < gpa + bytes; at++) this.#stores.set(at, n);
  }

  /** Moment `n` gave the whole page at `gpa` its content. */
  paged(gpa: number, n: number): void {
    this.#pages.set(gpa / PAGE_BYTES, n);
  }

  /** A register was written that may lead accesses elsewhere, or the machine was reset. */
  turned(): void {
    this.#writes++;
  }

  /** Number of the last moment that stored to one of `bytes` bytes at `gpa`; -1: none is known. */
  lastStore(gpa: number, bytes: number): number {
    let last = -1;
    for (let at = Math.floor(gpa / UNIT); at * UNIT < gpa + bytes; at++) {
      const n = this.#stores.get(at);
      if (n !== undefined && n > last) last = n;
    }
    for (let page = Math.floor(gpa / PAGE_BYTES); page * PAGE_BYTES < gpa + bytes; page++) {
      const n = this.#pages.get(page);
      if (n !== undefined && n > last) last = n;
    }
    return last;
  }

  #lastOf(entries: readonly number[]): number {
    let last = -1;
    for (let i = 0; i < entries.length; i += 2) {
      const n = this.lastStore(entries[i]!, entries[i + 1]!);
      if (n > last) last = n;
    }
    return last;
  }

  /** The walk of an access, remembered: most accesses go where one went before. */
  of(e: XlatEvent | FaultEvent): KnownWalk {
    let pages = this.#walks.get(e.sid);
    const page = (e.hi >>> 0) * 2 ** 20 + (e.lo >>> 12);
    const known = pages?.get(page);
    if (known !== undefined && known.writes === this.#writes && this.#lastOf(known.entries) === known.cause)
      return known;
    if (this.#walkCount++ >= MOST_WALKS) {
      this.#walks.clear();
      this.#walkCount = 0;
      pages = undefined;
    }
    if (pages === undefined) {
      pages = new Map();
      this.#walks.set(e.sid, pages);
    }
    const { steps, end } = this.#walk(e.sid, e.lo, e.hi);
    const entries = placesOf(steps);
    const walk = { entries, end, cause: this.#lastOf(entries), writes: this.#writes };
    pages.set(page, walk);
    return walk;
  }

  #walk(stream: number, lo: number, hi: number): Pick<GuestWalk, 'steps' | 'end'> {
    if (this.#target === null) return NO_MEMORY;
    const tables = new WalkedTables(this.#target, this.#pool);
    return (this.#kind === 'smmuv3' ? walkSmmuv3Tables : walkVtdTables)(tables, stream, lo, hi);
  }
}

function placesOf(steps: readonly WalkStep[]): number[] {
  const places: number[] = [];
  for (const { at, bytes } of steps) places.push(at, bytes);
  return places;
}
