import { E } from '../../spec/iommufd/errno.ts';
import type { VerbOutcome } from '../uapi/host-verbs.ts';
import type { Shadow, ShadowMemory } from './shadow.ts';
import type { ShadowPieces } from './shadow-pieces.ts';

const PAGE = 4096;

/** Where a walk puts the leaves that it finds. */
export interface LeafSink {
  /**
   * Pages [page, page + pages) of the stage lie at guest-physical pages from `gpa` on.
   * @param perm ACCESS.READ and ACCESS.WRITE. @returns false: stop here.
   */
  leaf(page: number, pages: number, gpa: number, perm: number): boolean;
}

/** Walks a guest-owned stage over a range of pages and reports every leaf in it, in ascending order. */
export interface LeafSource {
  /** @returns the page where it stopped, because the sink said so or it has read enough; `first + pages`: it is done. */
  leaves(first: number, pages: number, sink: LeafSink): number;
}

/** What a fill works with. */
export interface ShadowFillConfig {
  /** Where it goes; see `Shadow.map`. */
  readonly shadow: Pick<Shadow, 'map'>;
  readonly source: LeafSource;
  readonly memory: ShadowMemory & {
    /** Bytes without RAM from `gpa` on (a positive multiple of 4096; 2^52 when none follows). */
    gapAt(gpa: number): number;
  };
  /** IOAS_MAPs one fill may make by default; the rest waits for another, or for misses. */
  readonly limit: number;
  /** Pieces of all shadows of the machine: where they have no room, a fill ends. */
  readonly pieces?: ShadowPieces;
  /** Pages that requests never come for, so that no host maps anything there. */
  readonly hole: { readonly first: number; readonly end: number };
}

/**
 * Fills a shadow ahead of use, as a guest expects that announces every new mapping (caching mode) or a host needs that
 * cannot ask: leaves that follow each other in both address spaces become one mapping.
 */
export class ShadowFill implements LeafSink {
  readonly #c: ShadowFillConfig;
  /** The run of leaves being collected. */
  #page = 0;
  #pages = 0;
  #gpa = 0;
  #perm = 0;
  /** IOAS_MAPs of the last `fill`, and runs of leaves it found. */
  maps = 0;
  runs = 0;
  /** The page where the last `fill` stopped. */
  next = 0;
  #limit = 0;
  #mostRuns = 0;
  #refused: VerbOutcome = 0;

  constructor(config: ShadowFillConfig) {
    this.#c = config;
  }

  /**
   * Maps what the guest's tables hold in [first, first + pages), where nothing is mapped now; `next` tells how far it came.
   * @param limit IOAS_MAPs it may make. @param mostRuns runs of leaves it may find: one that lies outside of RAM maps nothing and
   * costs all the same.
   */
  fill(first: number, pages: number, limit = this.#c.limit, mostRuns = Number.POSITIVE_INFINITY): VerbOutcome {
    this.#pages = 0;
    this.maps = this.runs = 0;
    this.#limit = limit;
    this.#mostRuns = mostRuns;
    this.#refused = 0;
    this.next = first + pages;
    if (!this.#room()) return 0;
    const next = this.#c.source.leaves(first, pages, this);
    this.#flush();
    // Where there is no room it ends: no later part would find more.
    if (this.#room()) this.next = next;
    return this.#refused;
  }

  #room(): boolean {
    return this.#c.pieces === undefined || this.#c.pieces.room;
  }

  leaf(page: number, pages: number, gpa: number, perm: number): boolean {
    const { first, end } = this.#c.hole;
    if (page >= end || page + pages <= first) return this.#collect(page, pages, gpa, perm);
    const before = first - page;
    if (before > 0 && !this.#collect(page, before, gpa, perm)) return false;
    const after = page + pages - end;
    return after <= 0 || this.#collect(end, after, gpa + (end - page), perm);
  }

  #collect(page: number, pages: number, gpa: number, perm: number): boolean {
    const follows = page === this.#page + this.#pages && gpa === this.#gpa + this.#pages;
    if (this.#pages > 0 && follows && perm === this.#perm) {
      this.#pages += pages;
      return true;
    }
    this.#flush();
    this.#page = page;
    this.#pages = pages;
    this.#gpa = gpa;
    this.#perm = perm;
    return this.maps < this.#limit && this.runs < this.#mostRuns && this.#room();
  }

  /** Maps the collected run, piece by piece where RAM has holes. */
  #flush(): void {
    const { memory } = this.#c;
    this.runs++;
    let page = this.#page;
    let gpa = this.#gpa;
    let left = this.#pages;
    this.#pages = 0;
    while (left > 0) {
      const room = Math.min(left, Math.floor(memory.roomAt(gpa * PAGE) / PAGE));
      const n = room > 0 ? room : Math.min(left, memory.gapAt(gpa * PAGE) / PAGE);
      if (room > 0) {
        this.maps++;
        this.#map(page, n, gpa);
      }
      page += n;
      gpa += n;
      left -= n;
    }
  }

  /** A run that the host refuses because it keeps a part of it for itself is mapped in halves. */
  #map(page: number, pages: number, gpa: number): void {
    const r = this.#c.shadow.map(page, pages, gpa, this.#perm);
    if (r >= 0 || (r === -E.INVAL && pages === 1)) return;
    if (r !== -E.INVAL || this.maps >= this.#limit) {
      this.#refused ||= r;
      return;
    }
    const half = pages >>> 1;
    this.maps += 2;
    this.#map(page, half, gpa);
    this.#map(page + half, pages - half, gpa + half);
  }
}
