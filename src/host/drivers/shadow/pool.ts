import type { PageAllocator } from '../page-allocator.ts';

/** A table that can give its pages back, because all it holds comes back with the next misses. */
export interface PoolMember {
  /** When it last took a page: the pool's count of pages taken until then. */
  readonly taken: number;
  /** Pages it has from the pool. */
  readonly pages: number;
  /** Empties it and gives every page back. @returns 0; -errno: the hardware may still read them, and they stay. */
  surrender(): number;
}

/** Table pages of all shadows together where nobody says how many: 128 MiB. */
const LIMIT = 32_768;

/**
 * The pages of the tables that repeat the stages of a VM's guest, for all of its IOMMUs. They are bounded like a cache: who
 * needs one more than there are takes those of the table that has not grown for the longest time.
 */
export class ShadowPool {
  /** Pages that are taken. */
  pages = 0;
  /** How often there was no page left, so that the oldest table gave its own. */
  met = 0;
  /** Most pages at once. */
  readonly limit: number;
  readonly #memory: PageAllocator;
  readonly #members = new Set<PoolMember>();
  #taken = 0;

  /** @param memory where the pages are from. @param limit most pages at once, at least 1. */
  constructor(memory: PageAllocator, limit: number = LIMIT) {
    this.#memory = memory;
    this.limit = limit;
  }

  /** A table that may take pages from now on. */
  join(member: PoolMember): void {
    this.#members.add(member);
  }

  /** A table that is gone; what it still has is its own to give back. */
  leave(member: PoolMember): void {
    this.#members.delete(member);
  }

  /** Pages taken so far, by anybody: the time of `PoolMember.taken`. */
  get now(): number {
    return this.#taken;
  }

  /** A zeroed page for `member`. @returns its host-physical address; -1: there is none, and nobody else has one to give. */
  take(member: PoolMember): number {
    for (;;) {
      const page = this.pages < this.limit ? this.#memory.allocate() : -1;
      if (page >= 0) {
        this.pages++;
        this.#taken++;
        return page;
      }
      this.met++;
      if (!this.dropOldest(member)) return -1;
    }
  }

  /** Pages come back. @param pages not used by the caller any more. */
  give(pages: number[]): void {
    this.pages -= pages.length;
    this.#memory.freeAll(pages);
  }

  /**
   * Empties the table that has not grown for the longest time and takes its pages back.
   * @param except this one is left alone. @returns false: nobody else has pages to give.
   */
  dropOldest(except: PoolMember | null): boolean {
    let oldest: PoolMember | null = null;
    for (const m of this.#members) {
      if (m !== except && m.pages > 0 && (oldest === null || m.taken < oldest.taken)) oldest = m;
    }
    return oldest !== null && oldest.surrender() === 0;
  }
}
