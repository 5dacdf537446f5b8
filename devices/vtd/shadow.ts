import { hiWord, loWord } from '../../src/core/bits.ts';
import type { WorkBudget } from '../../src/lib/access/work-budget.ts';
import { Shadow, type ShadowMemory, type ShadowWalk } from '../../src/lib/shadow/shadow.ts';
import { ShadowFill } from '../../src/lib/shadow/shadow-fill.ts';
import type { ShadowPieces } from '../../src/lib/shadow/shadow-pieces.ts';
import {
  SHADOW_PIECE_WORK,
  SHADOW_PIECES,
  shadowPiecesWork,
  shadowTableWork,
} from '../../src/lib/shadow/shadow-work.ts';
import { TableShadow } from '../../src/lib/shadow/table-shadow.ts';
import type { HostVerbs, VerbOutcome } from '../../src/lib/uapi/host-verbs.ts';
import { isRefusal } from '../../src/lib/uapi/refusals.ts';
import type { VtdSecondStage } from '../../src/lib/walk/vtd-second.ts';
import { ACCESS } from '../../src/ports/dma.ts';
import type { ShadowTable } from '../../src/ports/upcalls.ts';
import { INTERRUPT_BASE, INTERRUPT_LAST } from '../../src/spec/vtd/interrupt.ts';
import type { SecondStageLeaves } from './leaf-walk.ts';

const PAGE = 4096;
/** Table entries that cost a unit of work, and units of a run of leaves beside what is mapped. */
const ENTRIES = 4;
const RUN_WORK = 2;
/** Requests to the interrupt range never come to the tables, and no host maps anything there. */
const INTERRUPT_PAGES = { first: INTERRUPT_BASE / PAGE, end: (INTERRUPT_LAST + 1) / PAGE };

/** A guest's second-stage table: its domain id, its root (bytes) and its levels. */
export interface SecondTable {
  readonly did: number;
  readonly root: number;
  readonly levels: number;
}

/** What the shadows of a unit share. */
export interface VtdShadowDeps {
  readonly host: HostVerbs;
  readonly memory: ShadowMemory & { gapAt(gpa: number): number };
  readonly walk: VtdSecondStage;
  readonly leaves: SecondStageLeaves;
  /** Table entries one fill may read in all, and IOAS_MAPs it may make. */
  readonly fill: { readonly entries: number; readonly maps: number };
  /** A fill goes on until it is done: nobody asks for what is missing. */
  readonly fillsWhole: boolean;
  readonly pieces: ShadowPieces;
}

/** The host's copy of one guest second stage, with the HWPT that translates with it. */
export class VtdShadow {
  /** The guest's domain id. */
  readonly did: number;
  /** Levels of the guest's table. */
  readonly levels: number;
  readonly ioasId: number;
  readonly hwptId: number;
  /** What it stands for: two regimes with equal keys share it. */
  readonly key: string;
  /** Slots and first stages that stand on it. */
  users = 0;
  /** Stamp of the last invalidation round that reached it. */
  round = 0;
  /** The host keeps what it was to take away: nothing may translate through this until `clear` has succeeded. */
  stale = false;
  /** The copy in areas of the IOAS, by Linux's verbs: all of it, or what the table cannot have. */
  readonly #shadow: Shadow;
  /** The copy in a table that the host fills by itself from guest RAM, where it offers one. */
  readonly #table: TableShadow | null;
  readonly #fill: ShadowFill;
  readonly #walk: SecondWalk;
  readonly #fills: VtdShadowDeps['fill'];
  readonly #fillsWhole: boolean;
  readonly #leaves: SecondStageLeaves;
  /** Entries the fill in hand may still read and maps it may still make, and of them what a part of it may. */
  #entries = 0;
  #maps = 0;
  #part = 0;
  /** What of the fill in hand is to be done: [next, end). */
  #next = 0;
  #end = 0;

  /** @param own what the host fills by itself; null: nothing. */
  constructor(
    deps: VtdShadowDeps,
    ids: { readonly ioasId: number; readonly hwptId: number; readonly key: string },
    table: SecondTable,
    own: ShadowTable | null,
  ) {
    this.ioasId = ids.ioasId;
    this.hwptId = ids.hwptId;
    this.key = ids.key;
    this.did = table.did;
    this.levels = table.levels;
    const { host, memory } = deps;
    this.#fills = deps.fill;
    this.#fillsWhole = deps.fillsWhole;
    this.#leaves = deps.leaves;
    const walk = new SecondWalk(deps.walk, table);
    this.#walk = walk;
    this.#shadow = new Shadow({ verbs: host, ioasId: ids.ioasId, walk, memory, unit: 'range', pieces: deps.pieces });
    this.#table = own === null ? null : new TableShadow({ table: own, walk, beside: this.#shadow, unit: 'range' });
    this.#fill = new ShadowFill({
      shadow: this.#table ?? this.#shadow,
      source: {
        leaves: (first, pages, sink) => deps.leaves.leaves(table.root, table.levels, first, pages, sink, this.#part),
      },
      memory,
      limit: deps.fill.maps,
      pieces: deps.pieces,
      hole: INTERRUPT_PAGES,
    });
  }

  /** See `Shadow.miss`. */
  miss(ipa: number, access: number): boolean {
    return !this.stale && (this.#table ?? this.#shadow).miss(ipa, access);
  }

  /** Whether the last `miss` failed because the host refused, not because of the guest's tables. */
  get missRefused(): boolean {
    return this.stale || (this.#table ?? this.#shadow).refused < 0;
  }

  /**
   * Why the guest's table refuses an access now, in the codes of scalable mode; 0: it does not.
   * @param access ACCESS bits.
   */
  refusal(ipa: number, access: number): number {
    return this.#walk.refusal(ipa, access);
  }

  /** Takes pages [first, first + pages) away, and nothing else; a part of them when there is more than one occasion bears. */
  invalidate(first: number, pages: number, work: WorkBudget): VerbOutcome {
    if (this.#table !== null) {
      work.spend(shadowTableWork(pages));
      const r = this.#taken(this.#table.invalidate(first, pages));
      if (r < 0 || this.#shadow.areas.count === 0) return r;
    }
    const { areas } = this.#shadow;
    const from = areas.from(first);
    const count = areas.from(first + pages) - from;
    work.spend(shadowPiecesWork(count));
    const end = count > SHADOW_PIECES ? areas.first(from + SHADOW_PIECES) : first + pages;
    const r = this.#taken(this.#shadow.invalidate(first, end - first));
    if (r === 0 && count > SHADOW_PIECES) work.unfinished = true;
    return r;
  }

  /** Takes everything away; a part of it when there is more than one occasion bears. */
  empty(work: WorkBudget): VerbOutcome {
    if (this.#table !== null) {
      work.spend(shadowTableWork(0));
      const r = this.#taken(this.#table.clear());
      if (r < 0) return r;
    }
    const { count } = this.#shadow.areas;
    work.spend(shadowPiecesWork(count));
    if (count <= SHADOW_PIECES) return this.clear();
    const r = this.#taken(this.#shadow.shrink(SHADOW_PIECES));
    if (r === 0) work.unfinished = true;
    return r;
  }

  /** Pieces that are mapped by Linux's verbs. */
  get pieces(): number {
    return this.#shadow.areas.count;
  }

  /** Its HWPT and its IOAS are gone. */
  gone(): void {
    this.#shadow.gone();
  }

  /** Takes away what lies on guest memory that goes. A table of the host's is emptied by the host when the pins go. */
  forget(gpa: number, bytes: number): VerbOutcome {
    return this.#shadow.forget(gpa, bytes);
  }

  /** Takes everything away. */
  clear(): VerbOutcome {
    const r = this.#taken(this.#table?.clear() || this.#shadow.clear());
    if (r === 0) this.stale = false;
    return r;
  }

  #taken(outcome: VerbOutcome): VerbOutcome {
    if (!isRefusal(outcome)) return 0;
    this.stale = true;
    return outcome;
  }

  /**
   * Maps what the guest's table holds in [first, first + pages), which is empty now, as far as the budget goes. The rest comes
   * with the misses, or with `fillOn` where there are none.
   */
  fill(first: number, pages: number, work: WorkBudget): VerbOutcome {
    this.#entries = this.#fills.entries;
    this.#maps = this.#fills.maps;
    this.#next = first;
    this.#end = first + pages;
    return work.over && this.#fillsWhole ? 0 : this.fillOn(work);
  }

  /** A fill is to go on. */
  get filling(): boolean {
    return this.#next < this.#end;
  }

  /** The next part of the fill in hand. */
  fillOn(work: WorkBudget): VerbOutcome {
    this.#part = Math.min(this.#entries, work.left * ENTRIES);
    const maps = Math.min(this.#maps, Math.ceil(work.left / SHADOW_PIECE_WORK));
    let r = 0;
    if (this.#part > 0 && maps > 0) {
      const part = this.#part;
      const fill = this.#fill;
      r = fill.fill(this.#next, this.#end - this.#next, maps, Math.ceil(work.left / RUN_WORK));
      const read = part - Math.max(0, this.#leaves.left);
      work.spend(Math.ceil(read / ENTRIES) + RUN_WORK * fill.runs + SHADOW_PIECE_WORK * fill.maps);
      this.#entries -= read;
      this.#maps -= fill.maps;
      this.#next = fill.next;
    }
    if (!this.#fillsWhole || this.#entries <= 0 || this.#maps <= 0) this.#next = this.#end;
    return r;
  }

  /** The whole input range. */
  fillAll(work: WorkBudget): VerbOutcome {
    return this.fill(0, 2 ** (9 * this.levels), work);
  }
}

/** The walk of one table, as a shadow asks for it. */
class SecondWalk implements ShadowWalk {
  readonly #walk: VtdSecondStage;
  readonly #table: SecondTable;

  constructor(walk: VtdSecondStage, table: SecondTable) {
    this.#walk = walk;
    this.#table = table;
  }

  /** Asks for no permission: what the leaf allows is wanted, and a part of it may do. */
  find(ipa: number): boolean {
    const { root, levels } = this.#table;
    return this.#walk.walk(root, levels, false, loWord(ipa % 0x1_0000_0000), hiWord(ipa), 0, true);
  }

  /** See `VtdShadow.refusal`. */
  refusal(ipa: number, access: number): number {
    const { root, levels } = this.#table;
    const need = access & (ACCESS.READ | ACCESS.WRITE);
    const w = this.#walk;
    return w.walk(root, levels, false, loWord(ipa % 0x1_0000_0000), hiWord(ipa), need, true) ? 0 : w.reason;
  }

  get gpa(): number {
    return this.#walk.out;
  }
  get shift(): number {
    return this.#walk.shift;
  }
  get perm(): number {
    return this.#walk.perm;
  }
}
