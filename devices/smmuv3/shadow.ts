import type { WorkBudget } from '../../src/lib/access/work-budget.ts';
import { Shadow, type ShadowWalk } from '../../src/lib/shadow/shadow.ts';
import type { ShadowPieces } from '../../src/lib/shadow/shadow-pieces.ts';
import { SHADOW_PIECES, shadowPiecesWork, shadowTableWork } from '../../src/lib/shadow/shadow-work.ts';
import { TableShadow } from '../../src/lib/shadow/table-shadow.ts';
import type { VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { VmsaWalker } from '../../src/lib/walk/vmsa.ts';
import { PERM_PRIV_SHIFT, PERM_READ, PERM_WRITE, permNeeded, stage2Regime } from '../../src/lib/walk/vmsa-regime.ts';
import { ACCESS } from '../../src/ports/dma.ts';
import { SHADOW_NEVER, type ShadowTable } from '../../src/ports/upcalls.ts';
import { CLASS } from '../../src/spec/smmuv3/events.ts';
import type { Smmuv3Core } from './core.ts';
import { readGuestStage2, vmsaCheckOrderOf, vmsaChoicesOf } from './qemu/choices.ts';

const PAGE = 4096;
const RW = ACCESS.READ | ACCESS.WRITE;

/** The walk of a stage 2 that the guest owns. */
class GuestStage2 implements ShadowWalk {
  readonly regime = stage2Regime();
  readonly #walker: VmsaWalker;

  constructor(core: Smmuv3Core, ste: Int32Array) {
    this.#walker = new VmsaWalker(core.deps.memory);
    this.#walker.choose(vmsaChoicesOf(core.deviations), vmsaCheckOrderOf(core.deviations));
    readGuestStage2(this.regime, ste, core.features, core.deviations);
  }

  /** A translation request asks for both and takes what it gets: then a leaf that allows one of them will do. */
  find(ipa: number, access: number): boolean {
    if (this.#walk(ipa, access)) return true;
    if ((access & RW) !== RW) return false;
    return this.#walk(ipa, access & ~ACCESS.WRITE) || this.#walk(ipa, access & ~ACCESS.READ);
  }

  #walk(ipa: number, access: number): boolean {
    return this.#walker.stage2(this.regime, ipa, permNeeded(access), CLASS.IN) === 0;
  }

  get gpa(): number {
    return this.#walker.out;
  }
  get shift(): number {
    return this.#walker.outShift;
  }
  get perm(): number {
    const { perm } = this.#walker;
    const data = ((perm & PERM_READ) !== 0 ? ACCESS.READ : 0) | ((perm & PERM_WRITE) !== 0 ? ACCESS.WRITE : 0);
    const never = (perm & ACCESS.EXEC) === 0 ? SHADOW_NEVER.EXEC_UNPRIV : 0;
    return data | never | ((perm & (ACCESS.EXEC << PERM_PRIV_SHIFT)) === 0 ? SHADOW_NEVER.EXEC_PRIV : 0);
  }
}

/**
 * The host's copy of one guest-owned stage 2. An invalidation drops whole guest leaves, as the architecture lets it drop
 * the whole TLB entry (IHI 0070 §4.4.1).
 */
export class Smmuv3Shadow {
  readonly ioasId: number;
  /** The copy in areas of the IOAS, by Linux's verbs: all of it, or what the table cannot have. */
  readonly #shadow: Shadow;
  /** The copy in a table that the host fills by itself from guest RAM, where it offers one. */
  readonly #table: TableShadow | null;

  /** @param ste the STE whose stage-2 fields are shadowed. @param own what the host fills by itself; null: nothing. */
  constructor(core: Smmuv3Core, ioasId: number, ste: Int32Array, own: ShadowTable | null, pieces: ShadowPieces) {
    this.ioasId = ioasId;
    const walk = new GuestStage2(core, ste);
    this.#shadow = new Shadow({ verbs: core.host, ioasId, walk, memory: core.deps, unit: 'leaf', pieces });
    this.#table = own === null ? null : new TableShadow({ table: own, walk, beside: this.#shadow, unit: 'leaf' });
  }

  /** Its HWPT and its IOAS are gone. */
  gone(): void {
    this.#shadow.gone();
  }

  /** Pieces now mapped, a table of the host's as one; 0: there is nothing to take away. */
  get size(): number {
    return this.#shadow.areas.count + (this.#table === null || this.#table.empty ? 0 : 1);
  }

  /** The hardware missed `ipa`; see `Shadow.miss`. */
  fill(ipa: number, access: number): boolean {
    return (this.#table ?? this.#shadow).miss(ipa, access);
  }

  /** Whether the last `fill` failed because the host refused, not because of the guest's tables. */
  get missRefused(): boolean {
    return (this.#table ?? this.#shadow).refused < 0;
  }

  /** log2 bytes of the guest's leaf that what is mapped at `ipa` comes from; 0: nothing is mapped there. */
  leafShift(ipa: number): number {
    return (this.#table ?? this.#shadow).leafShift(ipa);
  }

  /** Takes away every leaf that has an address in [from, to), bytes, multiples of 4096; `work.unfinished`: a part. @returns 0 or the first -errno. */
  drop(from: number, to: number, work: WorkBudget): VerbOutcome {
    const pages = (to - from) / PAGE;
    if (this.#table !== null) {
      work.spend(shadowTableWork(pages));
      const r = this.#table.invalidate(from / PAGE, pages);
      if (r < 0 || this.#shadow.areas.count === 0) return r;
    }
    return this.#dropAreas(from / PAGE, to / PAGE, work);
  }

  #dropAreas(from: number, to: number, work: WorkBudget): VerbOutcome {
    const { areas } = this.#shadow;
    const i = areas.from(from);
    const count = areas.from(to) - i;
    work.spend(shadowPiecesWork(count));
    // A leaf goes whole, also when it is in more pieces than that.
    const part = count > SHADOW_PIECES && areas.leaf(i + SHADOW_PIECES) > from;
    const end = part ? areas.leaf(i + SHADOW_PIECES) : to;
    const r = this.#shadow.invalidate(from, end - from);
    if (r >= 0 && part) work.unfinished = true;
    return r;
  }

  /**
   * Takes away what lies on guest-physical memory that goes. A table of the host's is emptied by the host when the pins go.
   * @returns 0 or the first -errno.
   */
  forget(gpa: number, bytes: number): VerbOutcome {
    return this.#shadow.forget(gpa, bytes);
  }

  /** Takes everything away; a part of it when there is more than one occasion bears. @returns 0 or -errno. */
  dropSome(work: WorkBudget): VerbOutcome {
    if (this.#table !== null) {
      work.spend(shadowTableWork(0));
      const r = this.#table.clear();
      if (r < 0) return r;
    }
    const { count } = this.#shadow.areas;
    work.spend(shadowPiecesWork(count));
    return count > SHADOW_PIECES ? this.#shadow.shrink(SHADOW_PIECES) : this.#shadow.clear();
  }
}
