import { POW2 } from '../../core/bits.ts';
import { readStage2, stage2Regime } from '../../lib/walk/vmsa-regime.ts';
import { levelShift } from '../../spec/smmuv3/descriptors.ts';
import {
  l1StdL2Ptr,
  l1StdSpan,
  S1DSS,
  STE_BYTES,
  steConfig,
  steEats,
  steS1CdMax,
  steS1ContextPtr,
  steS1Dss,
  steS1Enabled,
  steS1Fmt,
  steS2Enabled,
  steS2Ttb,
  steS2Vmid,
  steStrw,
  steValid,
} from '../../spec/smmuv3/ste.ts';
import { VmsaFormat } from '../formats.ts';
import type { PageUse, TrackedPage } from '../memory.ts';
import { beyond, misaligned } from '../register-rules.ts';
import type { TranslationTree } from '../tree.ts';
import { L1_STE, SMMU_STAGE } from './commands.ts';
import { WatchedCdTable } from './contexts.ts';
import { sameEntry, steUsed } from './entries.ts';
import type { Smmuv3Shared } from './shared.ts';

const PAGE = 4096;
const S2 = stage2Regime();

/** What an STE says, with what it leads to. */
export interface StreamConfig {
  readonly words: Int32Array;
  readonly kind: 'abort' | 'bypass' | 'translate';
  readonly table: WatchedCdTable | null;
  readonly stage2: TranslationTree | null;
  /** The context of accesses without a SubstreamID; -1: stage 1 is bypassed, -2: they fail. */
  readonly plain: number;
  readonly ats: boolean;
  /** Functions are given what stage 1 alone says (EATS 2). */
  readonly split: boolean;
}

/** The stream table: linear or of two levels. */
export class WatchedStreams {
  readonly #shared: Smmuv3Shared;
  readonly #streams = new Map<number, StreamConfig>();
  readonly #tables = new Map<string, WatchedCdTable>();
  #uses: { readonly first: number; readonly last: number; readonly use: PageUse }[] = [];
  /** Second-level tables by the index of their descriptor: the address, -1: none; and how to follow it no longer. */
  readonly #leaves = new Map<number, { readonly pointer: number; readonly close: () => void }>();
  /** IDR0.S2P: VMIDs count. */
  vmids = true;

  constructor(shared: Smmuv3Shared) {
    this.#shared = shared;
  }

  get(sid: number): StreamConfig | undefined {
    return this.#streams.get(sid);
  }

  *all(): IterableIterator<[number, StreamConfig]> {
    yield* this.#streams;
  }

  /** Whether an STE in memory leads to the tree. */
  leadsTo(tree: TranslationTree): boolean {
    for (const sid of tree.streams) {
      const c = this.#streams.get(sid);
      if (c?.stage2 === tree || c?.table?.tree(Math.max(0, tree.pasid)) === tree) return true;
    }
    return false;
  }

  /** @param base bytes. @param split log2 of the entries of a second-level table; -1: linear. */
  attach(base: number, log2: number, split: number): void {
    this.detach();
    if (split < 0) {
      this.#leaf(0, base - (base % (STE_BYTES * POW2[log2]!)), POW2[log2]!);
      return;
    }
    const bytes = Math.max(64, 8 * POW2[Math.max(0, log2 - split)]!);
    const aligned = base - (base % bytes);
    this.#follow(aligned, bytes, {
      changed: (page, at) => this.#level1((page.pfn * PAGE + 8 * at - aligned) / 8, split, page, at),
    });
  }

  /** The table is not used any more: nothing leads to what it said. */
  detach(): void {
    for (const u of this.#uses) this.#shared.memory.unuse(u.first, u.last, u.use);
    this.#uses = [];
    this.#leaves.clear();
    for (const [sid, c] of this.#streams) this.#release(sid, c);
    this.#streams.clear();
  }

  /** @returns ends that. */
  #follow(address: number, bytes: number, use: PageUse): () => void {
    const { memory } = this.#shared;
    const first = Math.floor(address / PAGE);
    const last = Math.floor((address + bytes - 1) / PAGE);
    memory.use(first, last, use);
    const followed = { first, last, use };
    this.#uses.push(followed);
    for (let pfn = first; pfn <= last; pfn++) {
      const page = memory.seen(pfn);
      if (page === undefined || page.words === null) continue;
      page.whole = true;
      for (let at = 0; at < 512; at++) {
        if ((page.lo(at) | page.hi(at)) !== 0) use.changed(page, at, 0, 0, page.lo(at), page.hi(at));
      }
      page.whole = false;
    }
    return () => {
      if (this.#uses.includes(followed)) memory.unuse(first, last, use);
      this.#uses = this.#uses.filter((u) => u !== followed);
    };
  }

  #level1(index: number, split: number, page: TrackedPage, at: number): void {
    if (index < 0) return;
    const span = l1StdSpan(page.lo(at));
    const pointer = span === 0 || span > split + 1 ? -1 : l1StdL2Ptr(page.lo(at), page.hi(at));
    const known = this.#leaves.get(index);
    if ((known?.pointer ?? -1) === pointer) return;
    if (known !== undefined) {
      const first = index << split;
      const name = `level-1 descriptor of streams from 0x${first.toString(16)}`;
      const last = first + (1 << split) - 1;
      this.#shared.config.changed(page, { kind: L1_STE, name, stream: first, pasid: -1, did: last }, (seq) => {
        known.close();
        if (this.#leaves.get(index)?.pointer === -1) this.#forget(first, last, seq);
      });
    }
    this.#leaves.set(index, { pointer, close: () => {} });
    if (pointer < 0) return;
    const { course, oas } = this.#shared;
    const bytes = STE_BYTES * POW2[span - 1]!;
    misaligned(course, 'level-2 stream table', pointer, bytes);
    beyond(course, 'the level-2 stream table at', pointer, oas);
    const close = this.#leaf(index << split, pointer - (pointer % bytes), POW2[span - 1]!);
    this.#leaves.set(index, { pointer, close });
  }

  /** Nothing leads to the entries of a second-level table any more. */
  #forget(first: number, last: number, seq?: number): void {
    for (const [sid, c] of this.#streams) {
      if (sid < first || sid > last) continue;
      this.#streams.delete(sid);
      this.#release(sid, c, seq);
    }
  }

  /** @returns follows it no longer. */
  #leaf(first: number, address: number, count: number): () => void {
    return this.#follow(address, count * STE_BYTES, {
      changed: (page, at) => {
        const n = Math.floor((page.pfn * PAGE + 8 * at - address) / STE_BYTES);
        if (n < 0 || n >= count) return;
        const gpa = page.pfn * PAGE + 8 * at;
        this.#shared.trails.stored(page, gpa, STE_BYTES, `ste${first + n}`, (trail) =>
          this.#ste(first + n, page, trail),
        );
      },
    });
  }

  #ste(sid: number, page: TrackedPage, trail: readonly Int32Array[]): void {
    const now = trail.at(-1)!;
    const known = this.#streams.get(sid);
    const old = known?.words ?? new Int32Array(16);
    // Until an entry is valid nothing leads from it.
    if (known === undefined && !trail.some((w) => steValid(w, 0))) return;
    const write = {
      key: `ste${sid}`,
      kind: 'STE',
      name: `STE of stream 0x${sid.toString(16)}`,
      stream: sid,
      pasid: -1,
      did: -1,
      page,
      old,
      now,
      trail,
      used: steUsed,
      valid: steIsValid,
      // That an entry is not valid may be cached as well (IHI 0070 §3.21.3).
      cachesInvalid: true,
    };
    const release = known === undefined ? () => {} : (seq?: number) => this.#release(sid, known, seq);
    if (known !== undefined && sameEntry(old, now, steUsed)) {
      this.#shared.config.write(write, () => {});
      known.words.set(now);
      return;
    }
    const config = this.#read(sid, now, page.late, known);
    if (known !== undefined && config.ats && !page.late) this.#replaced(sid, known, config);
    this.#streams.set(sid, config);
    if (known?.ats === true && !config.ats) this.#shared.forbidden(sid);
    if (known?.kind === 'translate' && config.kind !== 'translate') this.#shared.requests.tornDown(sid, -1);
    if (config.kind === 'translate') this.#shared.requests.given(sid, -1);
    this.#shared.config.write(write, release);
  }

  /** The function may hold what these tables say. */
  #replaced(sid: number, before: StreamConfig, now: StreamConfig): void {
    const { devices } = this.#shared;
    if (before.stage2 !== now.stage2) devices.replaced(before.stage2, sid);
    if (before.table !== now.table) for (const t of before.table?.trees() ?? []) devices.replaced(t, sid);
  }

  #read(sid: number, words: Int32Array, late: boolean, before: StreamConfig | undefined): StreamConfig {
    const none = { words, table: null, stage2: null, plain: -2, ats: false, split: false };
    const config = steConfig(words, 0);
    if (!steValid(words, 0) || (config & 4) === 0) return { ...none, kind: 'abort' };
    if (config === 4) return { ...none, kind: 'bypass' };
    const eats = steEats(words, 0);
    const ats = eats === 1 || eats === 2;
    const split = eats === 2;
    const stage2 = steS2Enabled(words, 0) ? this.#stage2(words, late, before?.stage2 ?? null) : null;
    if (stage2 === 'beyond') return { ...none, kind: 'abort', ats };
    stage2?.streams.add(sid);
    if (!steS1Enabled(words, 0)) return { ...none, kind: 'translate', stage2, ats, split, plain: -1 };
    const { course, oas } = this.#shared;
    const pointer = steS1ContextPtr(words, 0);
    misaligned(course, 'CD table', pointer, cdTableBytes(words), sid);
    if (stage2 === null && beyond(course, 'the CD table at', pointer, oas, sid)) return { ...none, kind: 'abort', ats };
    const table = this.#cdTable(words, stage2);
    table.join(sid);
    table.users++;
    const log2 = steS1CdMax(words, 0);
    const dss = steS1Dss(words, 0);
    const plain = log2 === 0 ? 0 : dss === S1DSS.BYPASS ? -1 : dss === S1DSS.SSID0 ? 0 : -2;
    return { words, kind: 'translate', table, stage2, plain, ats, split };
  }

  #stage2(words: Int32Array, late: boolean, replaces: TranslationTree | null): TranslationTree | 'beyond' {
    const shared = this.#shared;
    readStage2(S2, words, 0, shared.oas, true);
    const tag = shared.caches.tag(SMMU_STAGE.S2, steS2Vmid(words, 0), -1);
    const shift = levelShift(S2.granule, S2.startLevel);
    const entries = POW2[Math.max(0, S2.inBits - shift)]!;
    const format = new VmsaFormat(true, S2.granule, S2.outBits, S2.affd || S2.ha);
    const address = (S2.ttbHi >>> 0) * POW2[32]! + (S2.ttbLo >>> 0);
    misaligned(shared.course, 'stage-2 table', steS2Ttb(words, 0), Math.max(16, 8 * entries));
    if (beyond(shared.course, 'the stage-2 table at', steS2Ttb(words, 0), S2.outBits)) return 'beyond';
    return shared.trees.acquire({
      tag,
      format,
      tops: [{ address, entries, shift, base: 0 }],
      pasid: -1,
      late,
      replaces,
    });
  }

  #cdTable(words: Int32Array, stage2: TranslationTree | null): WatchedCdTable {
    const address = steS1ContextPtr(words, 0);
    const log2 = steS1CdMax(words, 0);
    const format = steS1Fmt(words, 0);
    const vmid = this.vmids ? steS2Vmid(words, 0) : 0;
    const el2 = steStrw(words, 0) === 2;
    const key = `${address}/${log2}/${format}/${vmid}/${el2}/${stage2?.key ?? ''}`;
    let table = this.#tables.get(key);
    if (table === undefined) {
      table = new WatchedCdTable({ address, log2, format, vmid, el2, stage2 }, this.#shared);
      table.key = key;
      this.#tables.set(key, table);
    }
    return table;
  }

  /** Neither memory nor a cached copy leads to it any more. */
  #release(sid: number, c: StreamConfig, seq?: number): void {
    const now = this.#streams.get(sid);
    if (c.stage2 !== null) {
      if (now?.stage2 !== c.stage2) c.stage2.streams.delete(sid);
      this.#shared.trees.release(c.stage2, seq);
    }
    if (c.table === null) return;
    if (now?.table !== c.table) c.table.leave(sid);
    if (--c.table.users > 0) return;
    c.table.close(seq);
    this.#tables.delete(c.table.key);
  }
}

function steIsValid(words: Int32Array): boolean {
  return steValid(words, 0);
}

/** Bytes of the first level of a CD table, to which its pointer is aligned (IHI 0070 §5.2). */
function cdTableBytes(words: Int32Array): number {
  const log2 = steS1CdMax(words, 0);
  const format = steS1Fmt(words, 0);
  const split = format === 1 ? 6 : format === 2 ? 10 : 0;
  return split === 0 || log2 === 0 ? 64 * POW2[log2]! : Math.max(64, 8 * POW2[Math.max(0, log2 - split)]!);
}
