import { awLevels, PASID_BYTES, PGTT, pasidDir, pasidEntry } from '../../spec/vtd/tables.ts';
import { VtdFormat } from '../formats.ts';
import type { TrackedPage } from '../memory.ts';
import { beyond } from '../register-rules.ts';
import type { TranslationTree } from '../tree.ts';
import { through } from '../trees.ts';
import { VTD_STAGE } from './commands.ts';
import type { VtdShared } from './shared.ts';

const PAGE = 4096;
const ENTRY_WORDS = 16;
const NONE: ReadonlySet<number> = new Set();

/** What a PASID table entry leads to. */
export interface PasidConfig {
  readonly words: Int32Array;
  readonly pgtt: number;
  readonly did: number;
  readonly first: TranslationTree | null;
  readonly second: TranslationTree | null;
}

/** Words of an entry that hardware looks at, given what it says (VT-d §9.6). */
function used(w: Int32Array): readonly number[] {
  if (!pasidEntry.p(w[0]!)) return [1];
  const pgtt = pasidEntry.pgtt(w[0]!);
  const first = pgtt === PGTT.FIRST || pgtt === PGTT.NESTED;
  const second = pgtt === PGTT.SECOND || pgtt === PGTT.NESTED;
  return [second ? -1 : 0xfff, second ? -1 : 0, -1, 0, first ? -1 : 0, first ? -1 : 0];
}

function present(w: Int32Array): boolean {
  return pasidEntry.p(w[0]!);
}

function samePasidEntry(a: Int32Array, b: Int32Array): boolean {
  return [used(a), used(b)].every((m) => m.every((bits, i) => ((a[i]! ^ b[i]!) & bits) === 0));
}

/** A PASID directory with its tables, of one requester or several. */
export class PasidTables {
  readonly address: number;
  readonly rids = new Set<number>();
  users = 0;
  readonly #shared: VtdShared;
  readonly #entries = new Map<number, PasidConfig>();
  readonly #tables = new Map<number, { readonly address: number; readonly close: () => void }>();
  /** PASIDs that a second stage translates by itself. */
  readonly #alone = new Map<TranslationTree, Set<number>>();
  readonly #close: () => void;
  #closed = false;

  /** @param count of directory entries. */
  constructor(address: number, count: number, shared: VtdShared) {
    this.address = address;
    this.#shared = shared;
    this.#close = shared.follow(address, 8 * count, {
      changed: (page, at) => {
        const index = (page.pfn * PAGE + 8 * at - address) / 8;
        if (index >= 0 && index < count)
          shared.course.entry(page, `dir${address}/${index}`, () => {
            // What was stored together may have taken the directory itself away.
            if (!this.#closed) this.#directory(index, page, at);
          });
      },
    });
  }

  get(pasid: number): PasidConfig | undefined {
    return this.#entries.get(pasid);
  }

  *configs(): IterableIterator<[number, PasidConfig]> {
    yield* this.#entries;
  }

  /** The PASIDs that this second stage translates without a first one over it. */
  alone(second: TranslationTree): ReadonlySet<number> {
    return this.#alone.get(second) ?? NONE;
  }

  #translates(pasid: number, before: PasidConfig | undefined, now: PasidConfig): void {
    if (before?.second !== undefined && before.second !== null) this.#alone.get(before.second)?.delete(pasid);
    if (now.pgtt !== PGTT.SECOND || now.second === null) return;
    const pasids = this.#alone.get(now.second);
    if (pasids === undefined) this.#alone.set(now.second, new Set([pasid]));
    else pasids.add(pasid);
  }

  join(rid: number): void {
    this.rids.add(rid);
    for (const c of this.#entries.values()) for (const t of [c.first, c.second]) t?.streams.add(rid);
  }

  leave(rid: number): void {
    this.rids.delete(rid);
    for (const c of this.#entries.values()) for (const t of [c.first, c.second]) t?.streams.delete(rid);
  }

  close(seq?: number): void {
    this.#closed = true;
    this.#close();
    for (const t of this.#tables.values()) t.close();
    for (const c of this.#entries.values()) this.#release(c, seq);
    this.#entries.clear();
  }

  #release(c: PasidConfig, seq?: number): void {
    for (const t of [c.first, c.second]) if (t !== null) this.#shared.trees.release(t, seq);
    if (c.second !== null && this.#alone.get(c.second)?.size === 0) this.#alone.delete(c.second);
  }

  #beyond(what: string, address: number): boolean {
    const { course, outBits } = this.#shared;
    return beyond(course, what, address, outBits, this.rids.values().next().value);
  }

  #stream(): number {
    return this.rids.values().next().value ?? -1;
  }

  #directory(index: number, page: TrackedPage, at: number): void {
    const lo = page.lo(at);
    const address = pasidDir.p(lo) ? pasidDir.smptblptr(lo, page.hi(at)) : -1;
    const known = this.#tables.get(index);
    if ((known?.address ?? -1) === address) return;
    if (known !== undefined) {
      const stream = this.#stream();
      const name = `PASID directory entry ${index} of 0x${stream.toString(16)}`;
      const stale = { kind: 'PASID directory entry', name, stream, pasid: -1, did: -1 };
      this.#shared.config.changed(page, stale, known.close);
    }
    this.#tables.delete(index);
    if (address < 0) return;
    this.#beyond('the PASID table at', address);
    const close = this.#shared.follow(address, PAGE, {
      changed: (p, i) =>
        this.#shared.trails.stored(p, p.pfn * PAGE + 8 * i, PASID_BYTES, `pasid${address}/${i >>> 3}`, (trail) => {
          if (!this.#closed) this.#entry(64 * index + (i >>> 3), p, trail);
        }),
    });
    this.#tables.set(index, { address, close });
  }

  #entry(pasid: number, page: TrackedPage, trail: readonly Int32Array[]): void {
    const now = trail.at(-1)!;
    const known = this.#entries.get(pasid);
    if (known === undefined && !trail.some((w) => pasidEntry.p(w[0]!))) return;
    const old = known?.words ?? new Int32Array(ENTRY_WORDS);
    const wasPresent = pasidEntry.p(old[0]!);
    const stream = this.#stream();
    const write = {
      key: `pasid${this.address}/${pasid}`,
      kind: 'PASID entry',
      name: `PASID entry ${pasid} of 0x${stream.toString(16)}`,
      stream,
      pasid,
      did: pasidEntry.did(wasPresent ? old[2]! : now[2]!),
      page,
      old,
      now,
      trail,
      used,
      valid: present,
      // What is not present is not cached, but in caching mode (VT-d §6.1).
      cachesInvalid: this.#shared.cachingMode,
    };
    if (known !== undefined && samePasidEntry(old, now)) {
      this.#shared.config.write(write, () => {});
      known.words.set(now);
      return;
    }
    const config = this.#read(now, pasid, page.late, known);
    for (const t of [known?.first, known?.second])
      if (t !== config.first && t !== config.second && !page.late) this.#shared.devices.replaced(t);
    this.#entries.set(pasid, config);
    this.#translates(pasid, known, config);
    for (const rid of this.rids) {
      if (config.pgtt !== 0) this.#shared.requests.given(rid, pasid);
      else if (wasPresent) this.#shared.requests.tornDown(rid, pasid);
    }
    for (const t of [config.first, config.second]) for (const rid of this.rids) t?.streams.add(rid);
    this.#shared.config.write(write, known === undefined ? () => {} : (seq?: number) => this.#release(known, seq));
  }

  #read(words: Int32Array, pasid: number, late: boolean, before: PasidConfig | undefined): PasidConfig {
    const { caches, trees, outBits } = this.#shared;
    const pgtt = pasidEntry.pgtt(words[0]!);
    const did = pasidEntry.did(words[2]!);
    const none = { words, pgtt, did, first: null, second: null };
    if (!pasidEntry.p(words[0]!)) return { ...none, pgtt: 0 };
    let second: TranslationTree | null = null;
    if (pgtt === PGTT.SECOND || pgtt === PGTT.NESTED) {
      const levels = awLevels(pasidEntry.aw(words[0]!)) || 4;
      const shift = 3 + 9 * levels;
      const tag = caches.tag(VTD_STAGE.SECOND, did, -1);
      const top = { address: pasidEntry.ssptptr(words[0]!, words[1]!), entries: 512, shift, base: 0 };
      if (this.#beyond('the second-stage table at', top.address)) return none;
      second = trees.acquire({
        tag,
        format: new VtdFormat(false, outBits),
        tops: [top],
        pasid: -1,
        late,
        replaces: before?.second ?? null,
      });
    }
    if (pgtt !== PGTT.FIRST && pgtt !== PGTT.NESTED) return { ...none, second };
    const levels = 4 + pasidEntry.fspm(words[4]!);
    const tag = caches.tag(VTD_STAGE.FIRST, did, pasid);
    // Both halves of the canonical space: entry 256 on stands for the upper one, where page numbers wrap.
    const top = { address: pasidEntry.fsptptr(words[4]!, words[5]!), entries: 512, shift: 3 + 9 * levels, base: 0 };
    if (second === null && this.#beyond('the first-stage table at', top.address)) return none;
    const spec = {
      tag,
      format: new VtdFormat(true, outBits),
      tops: [top],
      pasid,
      late,
      replaces: before?.first ?? null,
    };
    const together = caches.tag(VTD_STAGE.BOTH, did, pasid);
    const nested = second === null ? undefined : { below: second, together, locate: through(second) };
    const first = trees.acquire({ ...spec, nested });
    return { ...none, first, second };
  }
}
