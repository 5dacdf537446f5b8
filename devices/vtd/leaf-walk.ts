import type { LeafSink } from '../../src/lib/shadow/shadow-fill.ts';
import type { Memory } from '../../src/ports/memory.ts';
import { type PagingLimits, SecondStageReserved, SS, vtdLevelShift } from '../../src/spec/vtd/paging.ts';
import { pointer } from '../../src/spec/vtd/tables.ts';

const RW = SS.R | SS.W;

/** Enumerates the leaves of a guest's second stage in ascending order, as far as asked for, and goes on there later. */
export class SecondStageLeaves {
  readonly #memory: Memory;
  readonly #reserved: SecondStageReserved;
  #left = 0;
  #next = 0;
  #first = 0;
  #end = 0;

  constructor(memory: Memory, limits: PagingLimits) {
    this.#memory = memory;
    this.#reserved = new SecondStageReserved(limits);
  }

  /** Entries the last `leaves` did not need of those it was allowed. */
  get left(): number {
    return this.#left;
  }

  /**
   * @param entries entries that may be read: a guest can make its tables point at each other.
   * @returns the page where the next call goes on; `first + pages`: there is nothing left.
   */
  leaves(root: number, levels: number, first: number, pages: number, sink: LeafSink, entries: number): number {
    this.#left = entries;
    this.#first = first;
    this.#end = Math.min(first + pages, 2 ** (9 * levels));
    return this.#table(root, levels, 0, RW, sink) ? first + pages : this.#next;
  }

  /** @param base first page the table translates. @returns false: stop. */
  #table(table: number, level: number, base: number, perm: number, sink: LeafSink): boolean {
    const memory = this.#memory;
    const span = 2 ** (vtdLevelShift(level) - 12);
    const from = Math.max(0, Math.floor((this.#first - base) / span));
    const to = Math.min(511, Math.ceil((this.#end - base) / span) - 1);
    for (let i = from; i <= to; i++) {
      if (this.#left-- <= 0) {
        this.#next = Math.max(this.#first, base + i * span);
        return false;
      }
      if (!memory.load64(table + 8 * i)) return true;
      const lo = memory.lo;
      const hi = memory.hi;
      const granted = perm & lo;
      if (granted === 0) continue;
      const leaf = level === 1 || (lo & SS.PS) !== 0;
      const badLo = leaf ? this.#reserved.leafLo[level]! : this.#reserved.pointerLo[level]!;
      const badHi = leaf ? this.#reserved.leafHi : this.#reserved.pointerHi;
      if (((lo & badLo) | (hi & badHi)) !== 0) continue;
      const page = base + i * span;
      if (!leaf) {
        if (!this.#table(pointer(lo, hi), level - 1, page, granted, sink)) return false;
        continue;
      }
      const start = Math.max(page, this.#first);
      const n = Math.min(page + span, this.#end) - start;
      this.#next = start + n;
      const gpa = Math.floor(pointer(lo, hi) / 4096 / span) * span + (start - page);
      if (!sink.leaf(start, n, gpa, granted)) return false;
    }
    return true;
  }
}
