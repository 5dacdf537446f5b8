import { POW2 } from '../core/bits.ts';
import type { CacheTag } from './caches.ts';
import { ENTRY, type TableFormat } from './formats.ts';
import type { PageUse, TrackedMemory, TrackedPage } from './memory.ts';
import type { LeavesByOutput } from './outputs.ts';

/** A change of one reachable entry, before it takes place. Addresses are page numbers; 0 for what an entry has not. */
export interface EntryChange {
  tree: TranslationTree;
  node: TableNode;
  /** Index of the entry in its page. */
  at: number;
  /** First input page, and log2 bytes. */
  base: number;
  shift: number;
  oldKind: number;
  oldOut: number;
  oldPerm: number;
  oldGlobal: boolean;
  /** Bits 31:0 of the entry before and after. */
  oldLo: number;
  newLo: number;
  kind: number;
  out: number;
  perm: number;
  global: boolean;
  /** The table that holds the entry is being linked: the entry was written before it could be reached. */
  linking: boolean;
}

/** Hears of every change of a reachable entry. */
export interface TreeListener {
  entry(c: EntryChange): void;
  /** A part of an entry was stored: `settled` once what follows is of another entry. */
  part(page: TrackedPage, gpa: number, key: string, settled: () => void): void;
  /** An entry was stored in parts, and hardware could read it in between. @param was it was valid before. */
  torn(tree: TranslationTree, base: number, was: boolean): void;
}

/** Up to 512 entries of a translation table in one page, at one place in one tree. */
export class TableNode implements PageUse {
  readonly tree: TranslationTree;
  readonly page: TrackedPage;
  readonly parent: TableNode | null;
  /** log2 of the bytes an entry stands for. */
  readonly shift: number;
  /** Input page of entry `first`. */
  readonly base: number;
  /** The entries that belong to the table: [first, first + count). */
  readonly first: number;
  readonly count: number;
  /** Tables below, by entry; more than one page where a table has more. */
  readonly below = new Map<number, readonly TableNode[]>();
  live = true;
  /** What accesses did with each leaf, ACCESS bits; null: nothing yet. */
  used: Uint8Array | null = null;

  constructor(
    tree: TranslationTree,
    page: TrackedPage,
    parent: TableNode | null,
    shift: number,
    base: number,
    first: number,
    count: number,
  ) {
    this.tree = tree;
    this.page = page;
    this.parent = parent;
    this.shift = shift;
    this.base = base;
    this.first = first;
    this.count = count;
  }

  get reachable(): boolean {
    for (let n: TableNode | null = this; n !== null; n = n.parent) if (!n.live) return false;
    return true;
  }

  changed(page: TrackedPage, at: number, oldLo: number, oldHi: number, newLo: number, newHi: number): void {
    if (at < this.first || at >= this.first + this.count) return;
    if (!this.reachable) {
      const i = page.uses.indexOf(this);
      if (i >= 0) page.uses.splice(i, 1);
      return;
    }
    this.tree.changed(this, at, oldLo, oldHi, newLo, newHi);
  }
}

/**
 * The translation tables below one root, as far as they were told. It follows each written entry: linking a table enters
 * what is below it once, unlinking costs one step.
 */
export class TranslationTree {
  readonly tag: CacheTag;
  readonly format: TableFormat;
  /** Address of the root table, page number; what the table is known by. */
  readonly root: number;
  /** PASID or SubstreamID it belongs to; -1: none. */
  readonly pasid: number;
  readonly streams = new Set<number>();
  readonly tops: TableNode[] = [];
  /** Number of the event that brought it into use, and of the submission it was before. */
  since = 0;
  batch = 0;
  /** Something valid was ever reachable. */
  mapped = false;
  /** Some table below was not told. */
  gaps = false;
  /** What is found now was there before the tree came into use. */
  entering = false;
  /** Pages that are mapped, that were at most, that were ever used, that are mapped to themselves. */
  mappedPages = 0;
  mostPages = 0;
  usedPages = 0;
  identityPages = 0;
  /** Of a second stage: the first stages over it, and where hardware may hold what each says together with it. */
  readonly over = new Map<TranslationTree, CacheTag>();
  /** Of a first stage over a second one: its leaves, by what they lead to. */
  outputs: LeavesByOutput | null = null;
  /** What `Trees` knows it by. */
  key = '';
  readonly #memory: TrackedMemory;
  readonly #listener: TreeListener;
  /** Where the page of a table is: tables of a nested stage 1 are at intermediate addresses. -1: not known. */
  readonly #locate: (pfn: number) => number;
  readonly #change: EntryChange;
  #linking = 0;
  /** Entries of which a part was stored: what they were, and in between. */
  readonly #parts = new Map<string, { readonly lo: number; readonly hi: number; readonly between: number[] }>();

  constructor(
    tag: CacheTag,
    format: TableFormat,
    root: number,
    pasid: number,
    memory: TrackedMemory,
    listener: TreeListener,
    locate: (pfn: number) => number = (pfn) => pfn,
  ) {
    this.tag = tag;
    this.format = format;
    this.root = root;
    this.pasid = pasid;
    this.#memory = memory;
    this.#listener = listener;
    this.#locate = locate;
    this.#change = {
      tree: this,
      node: null as unknown as TableNode,
      at: 0,
      base: 0,
      shift: 0,
      oldKind: 0,
      oldOut: 0,
      oldPerm: 0,
      oldGlobal: false,
      oldLo: 0,
      newLo: 0,
      kind: 0,
      out: 0,
      perm: 0,
      global: false,
      linking: false,
    };
  }

  /**
   * Enters a start table.
   * @param address bytes. @param entries how many. @param shift log2 bytes of each. @param base first input page.
   */
  top(address: number, entries: number, shift: number, base: number): void {
    const first = (address % 4096) / 8;
    let left = entries;
    let from = base;
    for (let pfn = Math.floor(address / 4096), at = first; left > 0; pfn++, at = 0) {
      const count = Math.min(left, 512 - at);
      const located = this.#locate(pfn);
      if (located >= 0) this.tops.push(this.#enter(located, null, shift, from, at, count));
      left -= count;
      from += count * POW2[shift - 12]!;
    }
  }

  /** Takes the tree out of use: its pages are followed no longer. */
  close(): void {
    for (const t of this.tops) t.live = false;
  }

  #enter(pfn: number, parent: TableNode | null, shift: number, base: number, first: number, count: number): TableNode {
    const page = this.#memory.page(pfn);
    const node = new TableNode(this, page, parent, shift, base, first, count);
    this.#memory.begin(page);
    page.uses.push(node);
    if (!page.known) this.gaps = true;
    if (page.words !== null) {
      this.#linking++;
      for (let at = first; at < first + count; at++) {
        const lo = page.lo(at);
        const hi = page.hi(at);
        if ((lo | hi) !== 0) this.#entryChanged(node, at, 0, 0, lo, hi);
      }
      this.#linking--;
    }
    return node;
  }

  /** Part of an entry changed: the entry is looked at once its other part had time to come. */
  #part(node: TableNode, at: number, oldLo: number, oldHi: number): void {
    const key = `pte${node.page.pfn}/${at}/${this.key}/${node.base}`;
    const first = this.#parts.get(key);
    if (first !== undefined) {
      first.between.push(oldLo, oldHi);
      return;
    }
    const held = { lo: oldLo, hi: oldHi, between: [] as number[] };
    this.#parts.set(key, held);
    this.#listener.part(node.page, node.page.pfn * 4096 + 8 * at, key, () => {
      this.#parts.delete(key);
      const { lo, hi, between } = held;
      const valid = (l: number, h: number) => {
        this.format.decode(node.shift, l, h);
        return this.format.kind !== ENTRY.NONE;
      };
      const base = node.base + (at - node.first) * POW2[node.shift - 12]!;
      for (let n = 0; n < between.length; n += 2)
        if (valid(between[n]!, between[n + 1]!)) this.#listener.torn(this, base, valid(lo, hi));
      this.#entryChanged(node, at, lo, hi, node.page.lo(at), node.page.hi(at));
    });
  }

  changed(node: TableNode, at: number, oldLo: number, oldHi: number, newLo: number, newHi: number): void {
    if (this.#memory.partial && !node.page.late && !node.page.whole) this.#part(node, at, oldLo, oldHi);
    else this.#entryChanged(node, at, oldLo, oldHi, newLo, newHi);
  }

  #entryChanged(node: TableNode, at: number, oldLo: number, oldHi: number, newLo: number, newHi: number): void {
    const f = this.format;
    const c = this.#change;
    const { shift } = node;
    f.decode(shift, newLo, newHi);
    const kind = f.kind;
    const out = kind === ENTRY.NONE ? 0 : f.out;
    const perm = f.perm;
    const global = f.global;
    f.decode(shift, oldLo, oldHi);
    const oldKind = f.kind;
    const oldOut = oldKind === ENTRY.NONE ? 0 : f.out;
    if (oldKind === kind && oldOut === out && (kind === ENTRY.NONE || f.perm === perm)) return;
    c.node = node;
    c.at = at;
    c.base = node.base + (at - node.first) * POW2[shift - 12]!;
    c.shift = shift;
    c.oldKind = oldKind;
    c.oldOut = oldOut;
    c.oldPerm = f.perm;
    c.oldGlobal = f.global;
    c.oldLo = oldLo;
    c.newLo = newLo;
    c.kind = kind;
    c.out = out;
    c.perm = perm;
    c.global = global;
    c.linking = this.#linking > 0 || node.page.since < 0 || !node.page.known;
    if (kind !== ENTRY.NONE) this.mapped = true;
    const { base } = c;
    this.#listener.entry(c);
    if (oldKind === ENTRY.TABLE && (kind !== ENTRY.TABLE || out !== oldOut)) this.#unlink(node, at);
    if (kind === ENTRY.TABLE && (oldKind !== ENTRY.TABLE || out !== oldOut)) this.#link(node, at, base, out);
    if (node.used !== null) node.used[at] = 0;
  }

  #unlink(node: TableNode, at: number): void {
    for (const n of node.below.get(at) ?? []) n.live = false;
    node.below.delete(at);
  }

  #link(node: TableNode, at: number, base: number, table: number): void {
    const shift = this.format.below(node.shift);
    const pieces = POW2[this.format.tableShift - 12]!;
    const list: TableNode[] = [];
    // Entered before it is filled, so that a table that leads back to itself is not followed for ever.
    node.below.set(at, list);
    if (shift < this.format.tableShift) return;
    for (let n = 0; n < pieces; n++) {
      const pfn = this.#locate(table + n);
      if (pfn < 0) this.gaps = true;
      else list.push(this.#enter(pfn, node, shift, base + n * 512 * POW2[shift - 12]!, 0, 512));
    }
  }

  /** The node that holds the last entry of the walk for an input page, or null. `at` and the entry's meaning follow. */
  at = 0;
  /** After `walk`: ENTRY kind of the last entry; ACCESS bits of all the way; output page. */
  kind = 0;
  out = 0;
  perm = 0;
  /** After `walk`: some entry on the way leads beyond the output size, so that the walk faults there. */
  faults = false;

  /** @returns the node of the leaf or of the entry where the walk ends; null: no start table covers the page. */
  walk(page: number): TableNode | null {
    this.kind = ENTRY.NONE;
    this.perm = 3;
    for (const top of this.tops) {
      const size = POW2[top.shift - 12]!;
      if (page >= top.base && page < top.base + top.count * size) return this.#descend(top, page);
    }
    return null;
  }

  /**
   * Looks up an input page in the tables that entry `at` of a node leads to, or led to until the change that is being told.
   * @returns whether there is a leaf: its output and permissions are in the fields.
   */
  below(node: TableNode, at: number, page: number): boolean {
    this.perm = 3;
    const table = this.#piece(node, at, page);
    if (table === undefined) return false;
    this.#descend(table, page);
    return this.kind === ENTRY.LEAF;
  }

  #descend(top: TableNode, page: number): TableNode {
    const f = this.format;
    const limit = POW2[f.outBits - 12]!;
    let node = top;
    this.faults = false;
    for (;;) {
      const size = POW2[node.shift - 12]!;
      const at = node.first + Math.floor((page - node.base) / size);
      this.at = at;
      f.decode(node.shift, node.page.lo(at), node.page.hi(at));
      this.kind = f.kind;
      if (f.kind === ENTRY.NONE) return node;
      if (f.out >= limit) this.faults = true;
      this.perm &= f.perm;
      this.out = f.out + (page % size);
      if (f.kind === ENTRY.LEAF) return node;
      const below: TableNode | undefined = this.#piece(node, at, page);
      if (below === undefined) return node;
      node = below;
    }
  }

  #piece(node: TableNode, at: number, page: number): TableNode | undefined {
    for (const n of node.below.get(at) ?? []) if (page < n.base + 512 * POW2[n.shift - 12]!) return n;
    return undefined;
  }
}
