import { ACCESS } from '../../ports/dma.ts';
import { E } from '../../spec/iommufd/errno.ts';
import type { HostVerbs, VerbOutcome } from '../uapi/host-verbs.ts';
import { ShadowAreas } from './shadow-areas.ts';
import type { ShadowMember, ShadowPieces } from './shadow-pieces.ts';
import { SHADOW_PIECES } from './shadow-work.ts';

const PAGE = 4096;
const RW = ACCESS.READ | ACCESS.WRITE;

/** Finds the leaf of a guest-owned stage. The fields are those of the last `find` that answered true. */
export interface ShadowWalk {
  /**
   * @param ipa input address of the stage, bytes. @param access ACCESS bits wanted there; a translation request wants both
   *   and takes a leaf that allows one.
   * @returns false: the guest's tables allow none of it.
   */
  find(ipa: number, access: number): boolean;
  /** Guest-physical address of `ipa`, bytes. */
  readonly gpa: number;
  /** log2 bytes of the leaf, at least 12. */
  readonly shift: number;
  /** ACCESS.READ and ACCESS.WRITE as the leaf allows them, and SHADOW_NEVER bits. */
  readonly perm: number;
}

/** Where guest memory is in the process that has the host's file open. Addresses and lengths in bytes. */
export interface ShadowMemory {
  /** Virtual address of what DMA may reach at `gpa`; negative when nothing is there. */
  userVa(gpa: number): bigint;
  /** Bytes from `gpa` on whose virtual addresses follow each other; 0 when nothing is there. */
  roomAt(gpa: number): number;
}

/** What a shadow works with. */
export interface ShadowConfig {
  readonly verbs: HostVerbs;
  /** An IOAS of its own that is empty. */
  readonly ioasId: number;
  readonly walk: ShadowWalk;
  readonly memory: ShadowMemory;
  /**
   * What one invalidation takes away. `leaf`: the whole leaf that has the named address, as the architecture lets one TLB
   * entry stand for it (SMMUv3). `range`: exactly the named pages; who changes a large leaf names all of it (VT-d).
   */
  readonly unit: 'leaf' | 'range';
  /** Counts the pieces of all shadows of the machine. Default: nobody counts. */
  readonly pieces?: ShadowPieces;
}

/**
 * The host's copy of a stage of translation that belongs to the guest: an IOAS that starts empty and, like a TLB, holds what
 * the hardware has asked for until the guest invalidates it. What was taken away too much comes back with the next miss.
 * Page numbers count 4 KiB pages; verbs that change the host return 0 or the first -errno.
 */
export class Shadow implements ShadowMember {
  readonly ioasId: number;
  readonly areas: ShadowAreas;
  /** What the host refused of the last `miss` (-errno); 0: nothing, the guest's tables or its memory say no. */
  refused: VerbOutcome = 0;
  readonly #verbs: HostVerbs;
  readonly #walk: ShadowWalk;
  readonly #memory: ShadowMemory;
  readonly #leaves: boolean;
  readonly #pieces: ShadowPieces | null;

  constructor(config: ShadowConfig) {
    this.ioasId = config.ioasId;
    this.#verbs = config.verbs;
    this.#walk = config.walk;
    this.#memory = config.memory;
    this.#leaves = config.unit === 'leaf';
    const pieces = config.pieces ?? null;
    this.#pieces = pieces;
    this.areas = new ShadowAreas(pieces === null ? null : (by) => pieces.changed(this, by));
  }

  /**
   * The hardware missed `ipa` (bytes, < 2^57): maps the guest's leaf there, as large as the leaf and RAM allow.
   * @param access ACCESS bits it wants.
   * @returns whether more of `access` is granted than before; why not is for the fault record to say.
   */
  miss(ipa: number, access: number): boolean {
    this.refused = 0;
    const w = this.#walk;
    if (!w.find(ipa, access)) return false;
    this.#pieces?.grow(this);
    const need = wanted(access) & w.perm;
    if (need === 0) return false;
    const page = Math.floor(ipa / PAGE);
    const pages = 2 ** (w.shift - 12);
    const leaf = page - (page % pages);
    const i = this.areas.at(page);
    if (i >= 0 && (need & ~this.areas.perm(i)) === 0) return false;
    // A leaf that allows more than when it was mapped, or that took the place of another, makes room first.
    if (i >= 0 || this.#leaves) {
      const refused = this.#leaves ? this.#replace(leaf, leaf + pages, i >= 0) : this.unmap(leaf, pages);
      if (refused < 0) {
        this.refused = refused;
        return false;
      }
    }
    return this.#mapAround(page, Math.floor(w.gpa / PAGE), leaf, leaf + pages, w.perm & RW);
  }

  /** Takes away what comes from other leaves than [leaf, end), and what comes from it too if it is `stale`. */
  #replace(leaf: number, end: number, stale: boolean): VerbOutcome {
    const { areas } = this;
    for (let i = areas.from(leaf); i < areas.count && areas.leaf(i) < end; ) {
      if (!stale && areas.leaf(i) === leaf && areas.leafEnd(i) === end) {
        i++;
        continue;
      }
      const r = this.#unmapArea(i);
      if (r < 0) return r;
      areas.remove(i);
    }
    return 0;
  }

  /** Maps as much of the leaf around `page` as is RAM there and not mapped yet. @returns whether `page` is mapped now. */
  #mapAround(page: number, gpa: number, leaf: number, leafEnd: number, perm: number): boolean {
    const { areas } = this;
    let low = leaf;
    let high = leafEnd;
    let i = areas.from(page);
    if (i > 0) low = Math.max(low, areas.end(i - 1));
    for (; i < areas.count && areas.end(i) <= page; i++) low = Math.max(low, areas.end(i));
    if (i < areas.count) high = Math.min(high, areas.first(i));
    let start = page;
    for (let part = leafEnd - leaf; part > 1; part /= 2) {
      start = Math.max(low, page - (page % part));
      // One region of RAM must reach from there to the page: between two of them there may be a hole.
      if (this.#room(gpa - (page - start)) > page - start) break;
      start = page;
    }
    const first = gpa - (page - start);
    const end = Math.min(high, start + this.#room(first));
    if (end <= page) return false;
    let r = this.#mapLeaf(start, end, first, perm, leaf, leafEnd);
    // A large leaf may cover what the kernel keeps for itself (a doorbell, the interrupt range): then less of it.
    for (let part = below(end - start); r === -E.INVAL && part >= 1; part /= 2) {
      const from = Math.max(start, page - (page % part));
      const to = Math.min(end, page - (page % part) + part);
      r = this.#mapLeaf(from, to, first + (from - start), perm, leaf, leafEnd);
    }
    // EINVAL: the host keeps that place for itself. EFAULT: it is nothing that DMA may reach.
    if (r < 0 && r !== -E.INVAL && r !== -E.FAULT) this.refused = r;
    return r >= 0;
  }

  /** A piece of a leaf; where invalidations name ranges, it is a leaf of its own. */
  #mapLeaf(first: number, end: number, gpa: number, perm: number, leaf: number, leafEnd: number): VerbOutcome {
    return this.#leaves ? this.#put(first, end, gpa, perm, leaf, leafEnd) : this.map(first, end - first, gpa, perm);
  }

  /** Pages of RAM from a guest-physical page on. */
  #room(gpa: number): number {
    return gpa < 0 ? 0 : Math.floor(this.#memory.roomAt(gpa * PAGE) / PAGE);
  }

  /** Maps pages [first, first + pages), where nothing is mapped, to guest-physical pages from `gpa` on. */
  map(first: number, pages: number, gpa: number, perm: number): VerbOutcome {
    return this.#put(first, first + pages, gpa, perm, first, first + pages);
  }

  #put(first: number, end: number, gpa: number, perm: number, leaf: number, leafEnd: number): VerbOutcome {
    const va = this.#memory.userVa(gpa * PAGE);
    if (va < 0n) return -E.FAULT;
    let granted = perm;
    for (;;) {
      const write = (granted & ACCESS.WRITE) !== 0;
      const read = (granted & ACCESS.READ) !== 0;
      const r = this.#verbs.map(this.ioasId, va, first * PAGE, (end - first) * PAGE, read, write);
      if (r >= 0) {
        this.areas.add(first, end, leaf, leafEnd, gpa, granted);
        return 0;
      }
      // Memory that cannot be written (ROM): what the guest may read of it stays readable.
      if (r !== -E.FAULT || granted !== RW) return r;
      granted = ACCESS.READ;
    }
  }

  #unmapArea(i: number): VerbOutcome {
    const first = this.areas.first(i);
    return this.#verbs.unmap(this.ioasId, first * PAGE, (this.areas.end(i) - first) * PAGE);
  }

  /**
   * An invalidation of pages [first, first + pages) (see `ShadowConfig.unit`). What the host refuses to take away stays
   * known, so that the next invalidation tries it again.
   */
  invalidate(first: number, pages: number): VerbOutcome {
    return this.#leaves ? this.#drop(first, first + pages) : this.unmap(first, pages);
  }

  /** Takes away every leaf that has a page in [first, end). */
  #drop(first: number, end: number): VerbOutcome {
    const { areas } = this;
    let refused = 0;
    for (let i = areas.from(first); i < areas.count && areas.leaf(i) < end; ) {
      let behind = i;
      let r = 0;
      while (behind < areas.count && areas.leaf(behind) < end) {
        r = this.#unmapArea(behind);
        if (r < 0) break;
        behind++;
      }
      areas.remove(i, behind);
      if (r < 0) {
        refused ||= r;
        i++;
      }
    }
    return refused;
  }

  /** Takes away exactly the pages [first, first + pages): areas that stick out are mapped again without them. */
  unmap(first: number, pages: number): VerbOutcome {
    const { areas } = this;
    const end = first + pages;
    let refused = 0;
    for (let i = areas.from(first); i < areas.count && areas.first(i) < end; ) {
      const areaFirst = areas.first(i);
      const areaEnd = areas.end(i);
      const gpa = areas.gpa(i);
      const perm = areas.perm(i);
      const r = this.#unmapArea(i);
      if (r < 0) {
        refused ||= r;
        i++;
        continue;
      }
      areas.remove(i);
      let kept = 0;
      if (areaFirst < first) {
        kept = this.map(areaFirst, first - areaFirst, gpa, perm);
        if (kept >= 0) i++;
      }
      if (kept >= 0 && areaEnd > end) kept = this.map(end, areaEnd - end, gpa + (end - areaFirst), perm);
      if (kept < 0) refused ||= kept;
    }
    return refused;
  }

  /** Takes away what lies on guest memory [gpa, gpa + bytes) that goes. */
  forget(gpa: number, bytes: number): VerbOutcome {
    const { areas } = this;
    const from = gpa / PAGE;
    const end = (gpa + bytes) / PAGE;
    let refused = 0;
    for (let i = areas.count - 1; i >= 0; i--) {
      if (areas.gpa(i) >= end || areas.gpa(i) + (areas.end(i) - areas.first(i)) <= from) continue;
      const r = this.#unmapArea(i);
      if (r < 0) refused ||= r;
      else areas.remove(i);
    }
    return refused;
  }

  /** Takes up to `most` pieces away, from the end. */
  shrink(most: number): VerbOutcome {
    const { areas } = this;
    for (let n = 0; n < most && areas.count > 0; n++) {
      const r = this.#unmapArea(areas.count - 1);
      if (r < 0) return r;
      areas.remove(areas.count - 1);
    }
    return 0;
  }

  /** Takes everything away. */
  clear(): VerbOutcome {
    if (this.areas.count === 0) return 0;
    const r = this.#verbs.unmapAll(this.ioasId);
    if (r >= 0) this.areas.clear();
    return r;
  }

  get pieces(): number {
    return this.areas.count;
  }

  /** Not all at once: the access that needs room pays for what goes. What the host does not take away stays, as the guest's tables say it. */
  surrender(): void {
    this.shrink(SHADOW_PIECES);
  }

  /** Its HWPT and its IOAS are gone, with all that was mapped. */
  gone(): void {
    this.areas.clear();
  }

  /** log2 bytes of the leaf that what is mapped at `ipa` (bytes) comes from; 0: nothing is mapped there. */
  leafShift(ipa: number): number {
    const i = this.areas.at(Math.floor(ipa / PAGE));
    return i < 0 ? 0 : Math.log2((this.areas.leafEnd(i) - this.areas.leaf(i)) * PAGE);
  }
}

/** ACCESS.READ and ACCESS.WRITE that a leaf has to allow for a miss to end: what is fetched has to be mapped, readable. */
export function wanted(access: number): number {
  const data = access & RW;
  return data === 0 && (access & ACCESS.EXEC) !== 0 ? ACCESS.READ : data;
}

/** The largest power of two below `n`; 0 for 1. */
function below(n: number): number {
  let part = 1;
  while (part * 2 < n) part *= 2;
  return n > 1 ? part : 0;
}
