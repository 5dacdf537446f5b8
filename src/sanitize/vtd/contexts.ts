import { awLevels, context, root, smContext, TT } from '../../spec/vtd/tables.ts';
import { VtdFormat } from '../formats.ts';
import type { TrackedPage } from '../memory.ts';
import { beyond } from '../register-rules.ts';
import type { TranslationTree } from '../tree.ts';
import { VTD_STAGE } from './commands.ts';
import { PasidTables } from './pasids.ts';
import type { VtdShared } from './shared.ts';

const PAGE = 4096;

/** What a context entry leads to. */
export interface ContextConfig {
  readonly words: Int32Array;
  readonly present: boolean;
  /** Legacy: the domain id; scalable: -1. */
  readonly did: number;
  readonly passThrough: boolean;
  readonly second: TranslationTree | null;
  readonly pasids: PasidTables | null;
  readonly ridPasid: number;
  /** The function may use ATS. */
  readonly ats: boolean;
}

/** Root and context tables. */
export class Contexts {
  readonly #shared: VtdShared;
  readonly #contexts = new Map<number, ContextConfig>();
  readonly #directories = new Map<number, PasidTables>();
  readonly #tables = new Map<number, { readonly address: number; readonly close: () => void }>();
  #close: (() => void) | null = null;
  #scalable = false;

  constructor(shared: VtdShared) {
    this.#shared = shared;
  }

  get(rid: number): ContextConfig | undefined {
    return this.#contexts.get(rid);
  }

  *all(): IterableIterator<[number, ContextConfig]> {
    yield* this.#contexts;
  }

  /** Whether an entry in memory leads to the tree. */
  leadsTo(tree: TranslationTree): boolean {
    for (const rid of tree.streams) {
      const c = this.#contexts.get(rid);
      if (c?.second === tree) return true;
      for (const [, p] of c?.pasids?.configs() ?? []) if (p.first === tree || p.second === tree) return true;
    }
    return false;
  }

  attach(address: number, scalable: boolean): void {
    this.detach();
    this.#scalable = scalable;
    this.#close = this.#shared.follow(address, PAGE, {
      changed: (page, at) => this.#shared.course.entry(page, `root${at}`, () => this.#root(page, at)),
    });
  }

  detach(): void {
    this.#close?.();
    this.#close = null;
    for (const t of this.#tables.values()) t.close();
    this.#tables.clear();
    for (const [rid, c] of this.#contexts) this.#release(rid, c);
    this.#contexts.clear();
  }

  /** Word `at` of the root table: an entry's low half is the whole of it in legacy mode, devfn below 0x80 in scalable. */
  #root(page: TrackedPage, at: number): void {
    if (!this.#scalable && (at & 1) === 1) return;
    const address = root.p(page.lo(at)) ? root.pointer(page.lo(at), page.hi(at)) : -1;
    const known = this.#tables.get(at);
    if ((known?.address ?? -1) === address) return;
    const first = ((at >>> 1) << 8) | ((at & 1) << 7);
    if (known !== undefined) {
      const name = `root entry of bus ${at >>> 1}`;
      const stale = { kind: 'root entry', name, stream: first, pasid: -1, did: -1 };
      this.#shared.config.changed(page, stale, known.close);
    }
    this.#tables.delete(at);
    if (address < 0) return;
    beyond(this.#shared.course, 'the context table at', address, this.#shared.outBits);
    const words = this.#scalable ? 4 : 2;
    const close = this.#shared.follow(address, PAGE, {
      changed: (p, i) => {
        const rid = first + Math.floor(i / words);
        this.#shared.pairs.stored(p, p.pfn * PAGE + 8 * i, 8 * words, `context${rid}`, (trail) => {
          // What was stored together may have taken the table itself away.
          if (this.#tables.get(at)?.address === address) this.#context(rid, p, trail);
        });
      },
    });
    this.#tables.set(at, { address, close });
  }

  #context(rid: number, page: TrackedPage, trail: readonly Int32Array[]): void {
    const now = trail.at(-1)!;
    const known = this.#contexts.get(rid);
    if (known === undefined && !trail.some(present)) return;
    const old = known?.words ?? new Int32Array(now.length);
    const changed = (present(old) || present(now)) && old.some((w, i) => w !== now[i]);
    const write = {
      key: `context${rid}`,
      kind: 'context entry',
      name: `context entry of 0x${rid.toString(16)}`,
      stream: rid,
      pasid: -1,
      // What is not present is cached under domain 0, and only in caching mode (VT-d §6.1).
      did: present(old) ? (known?.did ?? -1) : 0,
      page,
      old,
      now,
      trail,
      used: this.#scalable ? usedScalable : usedLegacy,
      valid: present,
      cachesInvalid: this.#shared.cachingMode,
    };
    if (!changed) {
      this.#shared.config.write(write, () => {});
      known?.words.set(now);
      return;
    }
    const { late } = page;
    const config = this.#scalable ? this.#readScalable(rid, now) : this.#readLegacy(rid, now, late, known);
    if (known !== undefined && config.ats && !late) this.#replaced(rid, known, config);
    this.#contexts.set(rid, config);
    if (known?.ats === true && !config.ats) this.#shared.forbidden(rid);
    if (config.present) this.#shared.requests.given(rid, -1);
    else this.#shared.requests.tornDown(rid, -1);
    this.#shared.config.write(write, known === undefined ? () => {} : (seq?: number) => this.#release(rid, known, seq));
  }

  /** The function may hold what these tables say. */
  #replaced(rid: number, before: ContextConfig, now: ContextConfig): void {
    const { devices } = this.#shared;
    if (before.second !== now.second) devices.replaced(before.second, rid);
    if (before.pasids === now.pasids) return;
    for (const [, p] of before.pasids?.configs() ?? []) for (const t of [p.first, p.second]) devices.replaced(t, rid);
  }

  #readLegacy(rid: number, words: Int32Array, late: boolean, before: ContextConfig | undefined): ContextConfig {
    const none = { words, present: true, second: null, pasids: null, ridPasid: 0, passThrough: false, ats: false };
    if (!context.p(words[0]!)) return { ...none, present: false, did: -1 };
    const did = context.did(words[2]!);
    const tt = context.tt(words[0]!);
    if (tt === TT.PASS_THROUGH) return { ...none, did, passThrough: true };
    const shift = 3 + 9 * (awLevels(context.aw(words[2]!)) || 4);
    const { caches, trees, outBits, course } = this.#shared;
    const address = context.ssptptr(words[0]!, words[1]!);
    if (beyond(course, 'the second-stage table at', address, outBits, rid)) return { ...none, did, ats: tt === TT.ALL };
    const tag = caches.tag(VTD_STAGE.SECOND, did, -1);
    const top = { address, entries: 512, shift, base: 0 };
    const second = trees.acquire({
      tag,
      format: new VtdFormat(false, outBits),
      tops: [top],
      pasid: -1,
      late,
      replaces: before?.second ?? null,
    });
    second.streams.add(rid);
    return { ...none, did, second, ats: tt === TT.ALL };
  }

  #readScalable(rid: number, words: Int32Array): ContextConfig {
    const none = {
      words,
      present: true,
      second: null,
      pasids: null,
      ridPasid: 0,
      passThrough: false,
      did: -1,
      ats: false,
    };
    if (!smContext.p(words[0]!)) return { ...none, present: false };
    const ats = smContext.dte(words[0]!);
    const address = smContext.pasiddirptr(words[0]!, words[1]!);
    let pasids = this.#directories.get(address);
    if (pasids === undefined) {
      if (beyond(this.#shared.course, 'the PASID directory at', address, this.#shared.outBits, rid))
        return { ...none, ats };
      pasids = new PasidTables(address, 2 ** (smContext.pdts(words[0]!) + 7), this.#shared);
      this.#directories.set(address, pasids);
    }
    pasids.users++;
    pasids.join(rid);
    return { ...none, pasids, ridPasid: smContext.ridPasid(words[2]!), ats };
  }

  /** Neither memory nor a cached copy leads to it any more. */
  #release(rid: number, c: ContextConfig, seq?: number): void {
    const now = this.#contexts.get(rid);
    if (c.second !== null) {
      if (now?.second !== c.second) c.second.streams.delete(rid);
      this.#shared.trees.release(c.second, seq);
    }
    if (c.pasids === null) return;
    if (now?.pasids !== c.pasids) c.pasids.leave(rid);
    if (--c.pasids.users > 0) return;
    c.pasids.close(seq);
    this.#directories.delete(c.pasids.address);
  }
}

function present(words: Int32Array): boolean {
  return (words[0]! & 1) !== 0;
}

/** Words hardware looks at: of an entry that is not present P alone (and FPD, which only keeps faults from being recorded). */
function usedLegacy(words: Int32Array): readonly number[] {
  return present(words) ? [-1, -1, -1, -1] : [1];
}

function usedScalable(words: Int32Array): readonly number[] {
  return present(words) ? [-1, -1, -1, -1, -1, -1, -1, -1] : [1];
}
