import { fromWords, POW2 } from '../../core/bits.ts';
import { type HalfRegime, readStage1, type Stage1Regime, stage1Regime } from '../../lib/walk/vmsa-regime.ts';
import {
  CD_BYTES,
  CD_SPLIT_4K,
  CD_SPLIT_64K,
  CD_WORDS,
  cdTtb0,
  cdTtb1,
  cdValid,
  l1CdL2Ptr,
  l1CdValid,
} from '../../spec/smmuv3/cd.ts';
import { levelShift } from '../../spec/smmuv3/descriptors.ts';
import { S1FMT } from '../../spec/smmuv3/ste.ts';
import { VmsaFormat } from '../formats.ts';
import type { PageUse, TrackedPage } from '../memory.ts';
import { beyond, misaligned } from '../register-rules.ts';
import type { TranslationTree } from '../tree.ts';
import { type Top, through } from '../trees.ts';
import { SMMU_STAGE } from './commands.ts';
import { cdUsed, sameEntry } from './entries.ts';
import type { Smmuv3Shared } from './shared.ts';

const REGIME: Stage1Regime = stage1Regime();
/** A use of one page at most: pages of tables follow each other, but are told one by one. */
const PAGE = 4096;

/** What a CD table is known by. */
export interface CdTableSpec {
  readonly address: number;
  readonly format: number;
  readonly log2: number;
  readonly vmid: number;
  readonly el2: boolean;
  /** The stage 2 its addresses go through. */
  readonly stage2: TranslationTree | null;
}

/** One context descriptor as it was last told. */
interface Context {
  readonly words: Int32Array;
  tree: TranslationTree | null;
}

/** A table of context descriptors, linear or of two levels, used by one stream or several. */
export class WatchedCdTable {
  readonly streams = new Set<number>();
  readonly spec: CdTableSpec;
  users = 0;
  key = '';
  #closed = false;
  readonly #shared: Smmuv3Shared;
  readonly #contexts = new Map<number, Context>();
  readonly #leaves = new Map<number, { readonly use: PageUse; readonly pointer: number }>();
  readonly #split: number;
  #uses: { readonly first: number; readonly last: number; readonly use: PageUse }[] = [];

  constructor(spec: CdTableSpec, shared: Smmuv3Shared) {
    this.spec = spec;
    this.#shared = shared;
    this.#split = spec.format === S1FMT.L2_4K ? CD_SPLIT_4K : spec.format === S1FMT.L2_64K ? CD_SPLIT_64K : 0;
    if (this.#split === 0 || spec.log2 === 0) this.#leaf(0, spec.address, POW2[spec.log2]!);
    else {
      const entries = POW2[Math.max(0, spec.log2 - this.#split)]!;
      this.#attach(spec.address, entries * 8, { changed: (p, at, _a, _b, lo, hi) => this.#level1(p, at, lo, hi) });
    }
  }

  /** The tree of a SubstreamID; null: no valid CD was told. */
  tree(ssid: number): TranslationTree | null {
    return this.#contexts.get(ssid)?.tree ?? null;
  }

  trees(): IterableIterator<TranslationTree> {
    return [...this.#contexts.values()]
      .map((c) => c.tree)
      .filter((t) => t !== null)
      .values();
  }

  join(sid: number): void {
    this.streams.add(sid);
    for (const c of this.#contexts.values()) c.tree?.streams.add(sid);
  }

  leave(sid: number): void {
    this.streams.delete(sid);
    for (const c of this.#contexts.values()) c.tree?.streams.delete(sid);
  }

  close(seq?: number): void {
    this.#closed = true;
    const { memory, trees } = this.#shared;
    for (const u of this.#uses) memory.unuse(u.first, u.last, u.use);
    for (const c of this.#contexts.values()) if (c.tree !== null) trees.release(c.tree, seq);
    this.#contexts.clear();
  }

  /** Follows [address, address + bytes) and enters what is told of it already. */
  #attach(address: number, bytes: number, use: PageUse): void {
    const { memory } = this.#shared;
    const { stage2 } = this.spec;
    const locate = stage2 === null ? (pfn: number) => pfn : through(stage2);
    for (let at = address - (address % PAGE); at < address + bytes; at += PAGE) {
      const pfn = locate(at / PAGE);
      if (pfn < 0) continue;
      memory.use(pfn, pfn, use);
      this.#uses.push({ first: pfn, last: pfn, use });
      const page = memory.page(pfn);
      if (page.words === null) continue;
      page.whole = true;
      for (let i = 0; i < 512; i++) {
        if ((page.lo(i) | page.hi(i)) !== 0) use.changed(page, i, 0, 0, page.lo(i), page.hi(i));
      }
      page.whole = false;
    }
  }

  #level1(page: TrackedPage, at: number, lo: number, hi: number): void {
    const index = (page.pfn * PAGE + 8 * at - this.spec.address) / 8;
    if (index < 0 || index >= POW2[Math.max(0, this.spec.log2 - this.#split)]!) return;
    const known = this.#leaves.get(index);
    const address = l1CdValid(lo) ? l1CdL2Ptr(lo, hi) : -1;
    if (known?.pointer === address) return;
    this.#leaves.delete(index);
    // That a descriptor is not valid may be cached as well (IHI 0070 §3.21.3).
    if (known !== undefined || address >= 0)
      this.#shared.changedL1Cd(page, this, index << this.#split, (seq) => {
        if (known !== undefined) this.#unfollow(index, known.use, seq);
      });
    if (address < 0) return;
    const { course, oas } = this.#shared;
    const bytes = CD_BYTES * POW2[this.#split]!;
    misaligned(course, 'level-2 CD table', address, bytes);
    if (this.spec.stage2 === null) beyond(course, 'the level-2 CD table at', address, oas);
    this.#leaf(index, address - (address % bytes), POW2[this.#split]!, address);
  }

  /** Nothing holds the descriptor of a second-level table any more. */
  #unfollow(index: number, use: PageUse, seq?: number): void {
    const { memory, trees } = this.#shared;
    for (const u of this.#uses) if (u.use === use) memory.unuse(u.first, u.last, use);
    this.#uses = this.#uses.filter((u) => u.use !== use);
    if (this.#leaves.has(index)) return;
    for (const [ssid, c] of this.#contexts) {
      if (ssid >>> this.#split !== index) continue;
      this.#contexts.delete(ssid);
      if (c.tree !== null) trees.release(c.tree, seq);
    }
  }

  #leaf(index: number, address: number, count: number, pointer = address): void {
    const first = index << this.#split;
    const use: PageUse = {
      changed: (page, at) => {
        const offset = page.pfn * PAGE + 8 * at - address;
        const n = Math.floor(offset / CD_BYTES);
        if (n < 0 || n >= count) return;
        const key = `cd${page.pfn}/${at >>> 3}`;
        const gpa = page.pfn * PAGE + 8 * at;
        this.#shared.trails.stored(page, gpa, CD_BYTES, key, (trail) => {
          // What was stored together may have taken the table itself away.
          if (!this.#closed) this.#cd(first + n, page, trail);
        });
      },
    };
    this.#leaves.set(index, { use, pointer });
    this.#attach(address, count * CD_BYTES, use);
  }

  /** A CD was written. */
  #cd(ssid: number, page: TrackedPage, trail: readonly Int32Array[]): void {
    const now = trail.at(-1)!;
    const known = this.#contexts.get(ssid);
    if (known === undefined && !trail.some((w) => cdValid(w, 0))) return;
    const old = known?.words ?? new Int32Array(CD_WORDS);
    if (known !== undefined && sameEntry(old, now, cdUsed)) {
      this.#shared.writtenCd(this, ssid, page, old, trail, () => {});
      known.words.set(now);
      return;
    }
    const tree = cdValid(now, 0) ? this.#tree(now, ssid, page.late, known?.tree ?? null) : null;
    if (tree !== null) for (const s of this.streams) tree.streams.add(s);
    const before = known?.tree ?? null;
    if (before !== tree && !page.late) this.#shared.devices.replaced(before);
    this.#contexts.set(ssid, { words: now, tree });
    const pasid = this.spec.log2 === 0 ? -1 : ssid;
    for (const s of this.streams) {
      if (tree !== null) this.#shared.requests.given(s, pasid);
      else if (before !== null) this.#shared.requests.tornDown(s, pasid);
    }
    this.#shared.writtenCd(this, ssid, page, old, trail, (seq) => {
      if (before !== null) this.#shared.trees.release(before, seq);
    });
  }

  /** @returns null: a start table is where the SMMU cannot reach, and the CD faults. */
  #tree(words: Int32Array, ssid: number, late: boolean, replaces: TranslationTree | null): TranslationTree | null {
    const shared = this.#shared;
    readStage1(REGIME, words, 0, shared.oas);
    const { vmid, el2 } = this.spec;
    const tag = shared.caches.tag(el2 ? SMMU_STAGE.EL2 : SMMU_STAGE.S1, el2 ? 0 : vmid, REGIME.asid);
    const tops: Top[] = [];
    for (const [half, upper] of [
      [REGIME.half0, false],
      [REGIME.half1, true],
    ] as const) {
      if (half.disabled) continue;
      const top = topOf(half, upper);
      const ttb = upper ? cdTtb1(words, 0) : cdTtb0(words, 0);
      misaligned(shared.course, 'stage-1 table', ttb, Math.max(16, 8 * top.entries));
      if (this.spec.stage2 === null && beyond(shared.course, 'the stage-1 table at', ttb, half.outBits)) return null;
      tops.push(top);
    }
    const main = REGIME.half0.disabled ? REGIME.half1 : REGIME.half0;
    const format = new VmsaFormat(false, main.granule, main.outBits, REGIME.affd || REGIME.ha);
    const pasid = this.spec.log2 === 0 ? -1 : ssid;
    const below = this.spec.stage2;
    const together = shared.caches.tag(SMMU_STAGE.BOTH, vmid, REGIME.asid);
    const nested = below === null ? undefined : { below, together, locate: through(below) };
    return shared.trees.acquire({ tag, format, tops, pasid, late, replaces, nested });
  }
}

function topOf(half: HalfRegime, upper: boolean): Top {
  const shift = levelShift(half.granule, half.startLevel);
  const entries = POW2[Math.max(0, half.inBits - shift)]!;
  return {
    address: fromWords(half.ttbLo, half.ttbHi),
    entries,
    shift,
    base: upper ? POW2[52]! - POW2[half.inBits - 12]! : 0,
  };
}
