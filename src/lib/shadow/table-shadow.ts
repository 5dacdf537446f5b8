import { ACCESS } from '../../ports/dma.ts';
import { SHADOW_NEVER, type ShadowTable } from '../../ports/upcalls.ts';
import { E } from '../../spec/iommufd/errno.ts';
import type { VerbOutcome } from '../uapi/host-verbs.ts';
import { LargeLeaves } from './large-leaves.ts';
import { type Shadow, type ShadowWalk, wanted } from './shadow.ts';

const PAGE = 4096;
const RW = ACCESS.READ | ACCESS.WRITE;
/** Tables one `map` writes to; what is left comes with the misses. */
const TABLES = 4;
/**
 * Pieces beside a table. To the host each is a mapping of its own, which it looks for at every change and puts back behind every
 * flush. A guest needs one for each address at which it has a doorbell.
 */
const MOST_BESIDE = 64;

/** What a copy in a table of the host works with. */
export interface TableShadowConfig {
  readonly table: ShadowTable;
  readonly walk: ShadowWalk;
  /** The copy, by Linux's verbs, of what lies outside of the memory that the host fills the table from (a doorbell, a window). */
  readonly beside: Shadow;
  /** See `ShadowConfig.unit`. */
  readonly unit: 'leaf' | 'range';
}

/**
 * `Shadow` in a table that the host fills from the pins of guest RAM: a page costs an entry, and everything goes at once.
 * The table is the only record of what is mapped.
 */
export class TableShadow {
  /** What the host refused of the last `miss` (-errno); 0: nothing, the guest's tables or its memory say no. */
  refused: VerbOutcome = 0;
  /** Nothing was mapped since everything was taken away: no invalidation has anything to do. */
  empty = true;
  readonly #table: ShadowTable;
  readonly #walk: ShadowWalk;
  readonly #beside: Shadow;
  /** null: an invalidation takes exactly the pages it names. */
  readonly #large: LargeLeaves | null;

  constructor(config: TableShadowConfig) {
    this.#table = config.table;
    this.#walk = config.walk;
    this.#beside = config.beside;
    this.#large = config.unit === 'leaf' ? new LargeLeaves() : null;
  }

  /** See `Shadow.miss`. */
  miss(ipa: number, access: number): boolean {
    this.refused = 0;
    const w = this.#walk;
    if (!w.find(ipa, access)) return false;
    const need = wanted(access) & w.perm;
    if (need === 0) return false;
    const page = Math.floor(ipa / PAGE);
    const gpa = Math.floor(w.gpa / PAGE);
    const { shift, perm } = w;
    const granted = this.#table.perm(page);
    // A fetch that the leaf allows now, and did not when it was mapped.
    if ((need & ~granted) === 0 && !((access & RW) === 0 && (granted & forbidden(access)) !== 0)) return false;
    const pages = shift === 12 ? 1 : 2 ** (shift - 12);
    const first = page - (page % pages);
    if (granted !== 0 && !this.#room(first, pages)) return false;
    if (pages > 1 && this.#large !== null && !this.#remember(this.#large, first, shift - 12)) return false;
    this.empty = false;
    const r = this.#table.map(page, gpa, first, first + pages, perm);
    if (r === -E.FAULT) return this.#missBeside(ipa, access);
    // EINVAL: the host keeps that place for itself.
    if (r < 0 && r !== -E.INVAL) this.refused = r;
    return r > 0;
  }

  #missBeside(ipa: number, access: number): boolean {
    if (this.#beside.pieces >= MOST_BESIDE) this.refused = this.#beside.shrink(MOST_BESIDE / 2);
    if (this.refused < 0) return false;
    const mapped = this.#beside.miss(ipa, access);
    this.refused = this.#beside.refused;
    return mapped;
  }

  /** A leaf that allows more than when it was mapped makes room first. @returns false: the host refused. */
  #room(first: number, pages: number): boolean {
    this.refused = this.#beside.invalidate(first, pages) || this.invalidate(first, pages);
    return this.refused === 0;
  }

  /** @returns false: there was no room, and the host refused to make some. */
  #remember(large: LargeLeaves, first: number, shift: number): boolean {
    if (large.full) this.refused = this.clear();
    large.add(first, shift);
    return this.refused === 0;
  }

  /** Maps pages [first, first + pages) to guest-physical pages from `gpa` on: some of them, the rest comes with the misses. */
  map(first: number, pages: number, gpa: number, perm: number): VerbOutcome {
    let done = 0;
    this.empty = false;
    for (let n = 0; n < TABLES && done < pages; n++) {
      const r = this.#table.perm(first + done) === 0 ? this.#put(first, pages, gpa, perm, done) : 1;
      if (r < 0) return r;
      done += r;
    }
    return 0;
  }

  #put(first: number, pages: number, gpa: number, perm: number, done: number): number {
    const at = first + done;
    return this.#table.map(at, gpa + done, at, first + pages, perm);
  }

  /** An invalidation of pages [first, first + pages) (see `ShadowConfig.unit`), in the table. */
  invalidate(first: number, pages: number): VerbOutcome {
    if (this.empty) return 0;
    const large = this.#large;
    if (large === null) return this.#table.unmap(first, pages);
    large.widen(first, first + pages);
    return this.#table.unmap(large.first, large.end - large.first);
  }

  /** Takes everything in the table away. */
  clear(): VerbOutcome {
    if (this.empty) return 0;
    this.#large?.clear();
    const r = this.#table.clear();
    this.empty = r === 0;
    return r;
  }

  /** log2 bytes of the leaf that what is mapped at `ipa` (bytes) comes from; 0: nothing is mapped there. */
  leafShift(ipa: number): number {
    const page = Math.floor(ipa / PAGE);
    const beside = this.#beside.leafShift(ipa);
    if (beside > 0 || this.#table.perm(page) === 0) return beside;
    return 12 + (this.#large?.shiftAt(page) ?? 0);
  }
}

/** The SHADOW_NEVER bit that forbids a fetch of this privilege. */
function forbidden(access: number): number {
  return (access & ACCESS.PRIV) !== 0 ? SHADOW_NEVER.EXEC_PRIV : SHADOW_NEVER.EXEC_UNPRIV;
}
