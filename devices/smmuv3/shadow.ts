import type { HostVerbs, VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { VmsaWalker } from '../../src/lib/walk/vmsa.ts';
import { PERM_READ, PERM_WRITE, permNeeded, stage2Regime } from '../../src/lib/walk/vmsa-regime.ts';
import { ACCESS } from '../../src/ports/dma.ts';
import { E } from '../../src/spec/iommufd/errno.ts';
import { CLASS } from '../../src/spec/smmuv3/events.ts';
import type { Smmuv3Core } from './core.ts';
import type { Smmuv3Deps } from './deps.ts';
import { readGuestStage2, vmsaCheckOrderOf, vmsaChoicesOf } from './qemu/choices.ts';

/** A piece of the guest's stage 2 that the host's stage 2 repeats. */
interface Area {
  readonly ipa: number;
  readonly bytes: number;
  /** Guest-physical address behind it. */
  readonly gpa: number;
  /** Extent of the guest's leaf it comes from: the whole leaf goes when any address of it is invalidated. */
  readonly leaf: number;
  readonly leafEnd: number;
  readonly perm: number;
}

const PAGE = 4096;
const RW = ACCESS.READ | ACCESS.WRITE;

/**
 * The host's copy of one guest-owned stage 2, filled on demand: an IOAS that holds what the hardware has asked for, like a
 * TLB, and forgets what the guest invalidates. An invalidation drops whole guest leaves, as the architecture lets it drop
 * the whole TLB entry (IHI 0070 §4.4.1); what was dropped too much comes back with the next miss.
 */
export class Smmuv3Shadow {
  readonly ioasId: number;
  readonly regime = stage2Regime();
  readonly #host: HostVerbs;
  readonly #deps: Smmuv3Deps;
  readonly #walker: VmsaWalker;
  /** Ascending by `leaf`; different leaves do not overlap. */
  #areas: Area[] = [];

  /** @param ste the STE whose stage-2 fields are shadowed. */
  constructor(core: Smmuv3Core, ioasId: number, ste: Int32Array) {
    this.ioasId = ioasId;
    this.#host = core.host;
    this.#deps = core.deps;
    this.#walker = new VmsaWalker(core.deps.memory);
    this.#walker.choose(vmsaChoicesOf(core.deviations), vmsaCheckOrderOf(core.deviations));
    readGuestStage2(this.regime, ste, core.features, core.deviations);
  }

  /** Pieces now mapped. */
  get size(): number {
    return this.#areas.length;
  }

  /** First area that ends behind `ipa`, by leaf extent. */
  #from(ipa: number): number {
    let lo = 0;
    let hi = this.#areas.length;
    while (lo < hi) {
      const mid = (lo + hi) >>> 1;
      if (this.#areas[mid]!.leafEnd <= ipa) lo = mid + 1;
      else hi = mid;
    }
    return lo;
  }

  /**
   * The hardware missed `ipa`.
   * @param access ACCESS bits it wants there.
   * @returns true: mapped now; false: the guest's tables do not allow it, or nothing is behind them.
   */
  fill(ipa: number, access: number): boolean {
    const w = this.#walker;
    if (!this.#walk(ipa, access)) return false;
    const gpa = w.out;
    // What the leaf allows is there already: the rest stays refused.
    const there = this.#areas[this.#from(ipa)];
    if (there !== undefined && ipa >= there.ipa && ipa < there.ipa + there.bytes && (w.perm & ~there.perm) === 0) {
      if ((access & RW) === RW) return false;
    }
    const size = 2 ** w.outShift;
    const leaf = ipa - (ipa % size);
    return this.#map(ipa, gpa, leaf, size, w.perm);
  }

  /** A translation request asks for both and takes what it gets: then a leaf that allows one of them will do. */
  #walk(ipa: number, access: number): boolean {
    const w = this.#walker;
    if (w.stage2(this.regime, ipa, permNeeded(access), CLASS.IN) === 0) return true;
    if ((access & RW) !== RW) return false;
    return (
      w.stage2(this.regime, ipa, permNeeded(access & ~ACCESS.WRITE), CLASS.IN) === 0 ||
      w.stage2(this.regime, ipa, permNeeded(access & ~ACCESS.READ), CLASS.IN) === 0
    );
  }

  /** Maps as much of the leaf around `ipa` as memory with contiguous addresses allows. */
  #map(ipa: number, gpa: number, leaf: number, size: number, perm: number): boolean {
    const read = (perm & PERM_READ) !== 0;
    const write = (perm & PERM_WRITE) !== 0;
    if (!read && !write) return false;
    const va = this.#deps.userVa(gpa);
    if (va < 0n) return false;
    let start = leaf;
    for (let part = size; part > PAGE; part /= 2) {
      start = ipa - (ipa % part);
      const first = gpa - (ipa - start);
      // One region must reach from there to the address: neighbours may be next to each other with holes between.
      const joined = first >= 0 && this.#deps.userVa(first) === va - BigInt(ipa - start);
      if (joined && this.#deps.userRoom(first) > ipa - start) break;
      start = ipa - (ipa % PAGE);
    }
    const first = gpa - (ipa - start);
    const room = this.#deps.userRoom(first);
    const bytes = Math.min(leaf + size - start, room - (room % PAGE));
    if (bytes <= ipa - start) return false;
    if (this.#makeRoom(leaf, leaf + size, start, start + bytes) < 0) return false;
    const keep = (from: number, count: number): number => {
      const gpaFrom = first + (from - start);
      const va0 = this.#deps.userVa(gpaFrom);
      let kept = perm;
      let r = this.#host.map(this.ioasId, va0, from, count, read, write);
      if (r === -E.FAULT && read && write) {
        // Memory that cannot be written (ROM): what the guest may read of it stays readable.
        kept = perm & ~PERM_WRITE;
        r = this.#host.map(this.ioasId, va0, from, count, true, false);
      }
      if (r < 0) return r;
      const area: Area = { ipa: from, bytes: count, gpa: gpaFrom, leaf, leafEnd: leaf + size, perm: kept };
      this.#areas.splice(this.#from(from), 0, area);
      return 0;
    };
    let r = keep(start, bytes);
    // A large leaf may cover what the kernel keeps for itself (the page of the MSI doorbell): then less of it.
    for (let part = 2 ** Math.floor(Math.log2(bytes - 1)); r === -E.INVAL && part >= PAGE; part /= 2) {
      const from = Math.max(start, ipa - (ipa % part));
      r = keep(from, Math.min(ipa - (ipa % part) + part, start + bytes) - from);
    }
    return r === 0;
  }

  /**
   * Before [from, to) of the leaf [leaf, leafEnd) is mapped: what is there already is out of date, because the guest has
   * replaced it or allows more than before. Other pieces of the same leaf stay.
   */
  #makeRoom(leaf: number, leafEnd: number, from: number, to: number): VerbOutcome {
    for (let i = this.#from(leaf); i < this.#areas.length && this.#areas[i]!.leaf < leafEnd; ) {
      const a = this.#areas[i]!;
      if (a.leaf === leaf && a.leafEnd === leafEnd && (a.ipa >= to || a.ipa + a.bytes <= from)) {
        i++;
        continue;
      }
      const r = this.#host.unmap(this.ioasId, a.ipa, a.bytes);
      if (r < 0) return r;
      this.#areas.splice(i, 1);
    }
    return 0;
  }

  /** log2 bytes of the guest's leaf that what is mapped at `ipa` comes from; 0: nothing is mapped there. */
  leafShift(ipa: number): number {
    const a = this.#areas[this.#from(ipa)];
    return a === undefined || ipa < a.ipa || ipa >= a.ipa + a.bytes ? 0 : Math.log2(a.leafEnd - a.leaf);
  }

  /**
   * Takes away every leaf that has an address in [from, to), bytes. What the host refuses to take away stays known, so that
   * the next invalidation tries it again.
   * @returns 0 or the first -errno.
   */
  drop(from: number, to: number): VerbOutcome {
    const first = this.#from(from);
    let end = first;
    let kept = first;
    let result = 0;
    for (; end < this.#areas.length && this.#areas[end]!.leaf < to; end++) {
      const a = this.#areas[end]!;
      const r = this.#host.unmap(this.ioasId, a.ipa, a.bytes);
      if (r >= 0) continue;
      result ||= r;
      this.#areas[kept++] = a;
    }
    if (end > kept) this.#areas.splice(kept, end - kept);
    return result;
  }

  /** Takes away what lies on guest-physical memory that goes. @returns 0 or the first -errno. */
  forget(gpa: number, bytes: number): VerbOutcome {
    let result = 0;
    for (let i = this.#areas.length - 1; i >= 0; i--) {
      const a = this.#areas[i]!;
      if (a.gpa >= gpa + bytes || a.gpa + a.bytes <= gpa) continue;
      const r = this.#host.unmap(this.ioasId, a.ipa, a.bytes);
      if (r < 0) result ||= r;
      else this.#areas.splice(i, 1);
    }
    return result;
  }

  /** Takes everything away. @returns 0 or -errno. */
  dropAll(): VerbOutcome {
    if (this.#areas.length === 0) return 0;
    const r = this.#host.unmapAll(this.ioasId);
    if (r >= 0) this.#areas = [];
    return r;
  }
}
